"""Sources: where a job's images come from, as a stream of references that a worker reads one by one.

A planner walks `Source.entries` in bounded memory and can continue after any entry's cursor; a worker passes an entry's
`ref` to `Source.read` for the bytes. A new type of source is a module with `check` and `open_source`, named in `TYPES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagekin import errors
from imagekin.settings import Settings
from imagekin.sources import folder, location, manifest, upload, urls, vectors
from imagekin.sources.base import Entry, Fault, Pause, Source, SourceType
from imagekin.uploads.files import Storage

__all__ = ["TYPES", "Entry", "Fault", "Pause", "Source", "check_source", "is_remote", "open_source"]

TYPES: dict[str, SourceType] = {
    "folder": folder,
    "location": location,
    "manifest": manifest,
    "upload": upload,
    "urls": urls,
    "vectors": vectors,
}
# Reading one of their images waits for a network.
_REMOTE = frozenset({"location", "manifest", "urls"})


def check_source(spec: Mapping[str, Any], settings: Settings) -> None:
    """Check what can be said of `spec` before its job is accepted.

    Raises InvalidRequest if it is not a source, SourceRefused if it lies outside of the allowed folders, and
    SourceUnreadable where there is nothing.
    """
    _type(spec).check(spec, settings)


def open_source(spec: Mapping[str, Any], storage: Storage, settings: Settings) -> Source:
    """Open the source that `spec` describes; the caller closes it.

    Raises InvalidRequest, SourceRefused, SourceUnreadable, UploadExpired, or Unavailable if storage fails.
    """
    excluded: list[str] = spec.get("exclude") or []
    if excluded:
        settings = settings.model_copy(update={"left_out": (*settings.left_out, *excluded)})
    return _type(spec).open_source(spec, storage, settings)


def is_remote(spec: Mapping[str, Any]) -> bool:
    """Return whether the images of a source come over a network, so that many should be read at once."""
    return spec.get("type") in _REMOTE


def _type(spec: Mapping[str, Any]) -> SourceType:
    name = spec.get("type")
    if not isinstance(name, str) or name not in TYPES:
        detail = f"There is no source of type {name!r}; there are {', '.join(sorted(TYPES))}."
        raise errors.InvalidRequest(detail, errors=[{"pointer": "/source/type", "detail": detail}])
    return TYPES[name]
