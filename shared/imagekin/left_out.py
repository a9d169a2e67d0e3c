"""Files and folders that are not looked into: what NAS and operating systems keep among people's pictures, and more."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable

VARIABLE = "IMAGEKIN_LEFT_OUT"

DEFAULT = (
    # thumbnails, recycle bins and snapshots of Synology, QNAP, Asustor and TrueNAS
    "@eaDir", "@tmp", "@Recycle", "@Recently-Snapshot", "@__thumb", "#recycle", "#snapshot", "@sharebin",
    # Windows
    "$RECYCLE.BIN", "RECYCLER", "RECYCLED", "System Volume Information", "FOUND.[0-9][0-9][0-9]",
    # Unix, macOS on shares
    "lost+found", "Network Trash Folder", "Temporary Items", "__MACOSX",
)  # fmt: skip
"""Patterns of names; the setting `IMAGEKIN_LEFT_OUT` takes their place."""


class LeftOut:
    """Patterns as of a shell, in upper or lower case: of a file's or folder's name, or, with a `/`, of a whole path."""

    def __init__(self, patterns: Iterable[str] = DEFAULT) -> None:
        given = [pattern.strip("/") for pattern in patterns if pattern.strip("/")]
        self._names = _either(pattern for pattern in given if "/" not in pattern)
        self._paths = _either(pattern for pattern in given if "/" in pattern)

    def name(self, name: str) -> bool:
        """Return whether a file or folder of that name is left out wherever it lies."""
        return self._names is not None and self._names.fullmatch(name) is not None

    def path(self, path: str) -> bool:
        """Return whether a path below the source is left out by itself, or lies below what is."""
        parts = path.split("/")
        if self._names is not None and any(map(self.name, parts)):
            return True
        if self._paths is None:
            return False
        return any(self._paths.fullmatch("/".join(parts[:count])) for count in range(1, len(parts) + 1))


def of_environment() -> tuple[str, ...]:
    """Return the patterns that a client uses: those of the variable, else the default ones."""
    given = os.environ.get(VARIABLE)
    return DEFAULT if given is None else tuple(part.strip() for part in given.split(",") if part.strip())


def _either(patterns: Iterable[str]) -> re.Pattern[str] | None:
    written = [fnmatch.translate(pattern) for pattern in patterns]
    return re.compile("|".join(written), re.IGNORECASE) if written else None
