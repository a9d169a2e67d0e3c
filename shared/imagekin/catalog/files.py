"""Files of weights: below the one folder that they are read from, and what is in them."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

_READ_BYTES = 1 << 20


def below(weights_dir: Path, name: str) -> Path | None:
    """Find a weights file by its path relative to `weights_dir`; None if no regular file lies there.

    Links are followed first, so nothing outside `weights_dir` can be reached.
    """
    root = weights_dir.resolve()
    try:
        path = (root / name).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # a NUL in the name, a name too long, a loop of links
        return None


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex; a file that did not change is read once."""
    status = path.stat()
    return _digest(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _digest(path: Path, _mtime_ns: int, _size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
