"""What every source gives, and what a module of sources has."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from imagekin import errors
from imagekin.settings import Settings
from imagekin.uploads.files import Storage


class Fault(NamedTuple):
    """Why an item is known to fail before it is read: the code of an item error, and its detail."""

    code: str
    detail: str

    @classmethod
    def of(cls, error: type[errors.ItemError], detail: str | None = None) -> Fault:
        return cls(error.code, error(detail).detail)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that a source holds: an item, an item already known to fail, or something ignored.

    `ref` says where its bytes are and `cursor` where planning continues after it; both are JSON, opaque to the caller.
    `ignored` is why it is not an item but only counted: it is an image by neither name nor content, or hidden, say.
    """

    key: str
    ref: dict[str, Any]
    cursor: Any
    error: Fault | None = None
    ignored: str | None = None
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """A place behind which nothing was found for a while: planning may stop here, and continue after `cursor`."""

    cursor: Any


class Pace:
    """Tells a source that finds nothing when to pause, so that its planning does not hold up that of others."""

    #: How long a source may look for its next entry.
    PAUSE_S = 0.5

    def __init__(self) -> None:
        self._since = time.monotonic()

    def due(self) -> bool:
        """Return whether PAUSE_S have passed since this last returned True."""
        now = time.monotonic()
        if now - self._since < self.PAUSE_S:
            return False
        self._since = now
        return True


class Source(Protocol):
    """An open source."""

    def entries(self, cursor: Any | None = None) -> Iterator[Entry | Pause]:
        """Yield the entries that come after `cursor`, or all, in bounded memory; a pause where it takes long.

        Raises SourceUnreadable if the source as a whole turns out to be broken.
        """
        ...

    def read(self, ref: dict[str, Any]) -> bytes:
        """Return the bytes of the entry with that `ref`; several threads may read at once.

        Raises an ItemError if this one cannot be read, UploadExpired if the source is gone.
        """
        ...

    def close(self) -> None:
        """Let go of what the source holds open."""
        ...


class SourceType(Protocol):
    """A module that knows one type of source."""

    def check(self, spec: Mapping[str, Any], settings: Settings) -> None: ...

    def open_source(self, spec: Mapping[str, Any], storage: Storage, settings: Settings) -> Source: ...


def text_field(spec: Mapping[str, Any], field: str) -> str:
    """Return the text that `spec` has in `field`; raises InvalidRequest if the field is missing."""
    value = spec.get(field)
    if not isinstance(value, str) or not value or "\0" in value or not _is_unicode(value):
        detail = f"A source of type {spec.get('type')!r} needs {field!r}, a text."
        raise errors.InvalidRequest(detail, errors=[{"pointer": f"/source/{field}", "detail": detail}])
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
