"""Names that sources find, and what they mean."""

from __future__ import annotations

import os.path

from imagekin import errors, formats
from imagekin.schemas import keys
from imagekin.sources.base import Fault

RESOURCE_FORKS = "__MACOSX"
"""The folder that macOS puts beside the files of a zip."""

_SHOWN_CHARS = 80


def key_of(name: str) -> tuple[str, Fault | None]:
    """Return the key for a name that a source holds, with the fault where the name cannot be one.

    `.` and empty parts (so a leading `/` too) drop out, as when tar or unzip extract; a URL stays one. A name with
    `..`, control characters or too many bytes is refused, and its key only stands for it. Nothing is ever extracted.
    """
    if keys.is_plain(name):
        return name, None
    scheme, path = keys.split(name)
    try:
        return keys.normalize(scheme + "/".join(_parts(path))), None
    except errors.InvalidKey as error:
        shown = ascii(name[:_SHOWN_CHARS]) + ("…" if len(name) > _SHOWN_CHARS else "")
        return keys.harmless(name), Fault.of(errors.FetchRefused, f"The name {shown} cannot be a key. {error.detail}")


def leads_to(name: str, prefix: str) -> bool:
    """Return whether what is named, a file or a folder, may be or hold something whose name begins with `prefix`."""
    return name.startswith(prefix) or prefix.startswith(name + "/")


def is_image(name: str) -> bool:
    """Return whether `name` ends as images do."""
    # Not by pathlib, which interns every part it sees: that alone is megabytes in a walk over many names.
    return os.path.splitext(name)[1].lower() in formats.IMAGE_SUFFIXES  # noqa: PTH122 - see above


def is_hidden(name: str) -> bool:
    """Return whether a part of `name` hides it: a leading dot, or macOS's folder of resource forks."""
    if "." not in name and RESOURCE_FORKS not in name:
        return False
    return any((part[0] == "." and part != "..") or part == RESOURCE_FORKS for part in _parts(name))


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
