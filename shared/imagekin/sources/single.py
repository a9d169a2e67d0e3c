"""One image as a source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from imagekin import errors
from imagekin.schemas import keys
from imagekin.settings import Settings
from imagekin.sources.base import Entry, Fault
from imagekin.sources.containers.blob import Blob
from imagekin.sources.containers.entry import check_size


class Single:
    """An upload that is one image; its key is the client's file name."""

    def __init__(self, blob: Blob, name: str, settings: Settings) -> None:
        self._blob = blob
        self._key = keys.harmless(name)
        self._max_bytes = settings.max_image_bytes

    def entries(self, cursor: Any | None = None) -> Iterator[Entry]:
        """Yield the image."""
        if cursor is None:
            yield Entry(self._key, {}, 1, error=self._fault())

    def read(self, ref: dict[str, Any]) -> bytes:
        """Return the image's bytes; raises EmptyFile, ImageTooLarge or DecodeError."""
        check_size(self._blob.size, self._max_bytes)
        return self._blob.read_at(0, self._blob.size)

    def close(self) -> None:
        """Close the stored file."""
        self._blob.close()

    def _fault(self) -> Fault | None:
        try:
            check_size(self._blob.size, self._max_bytes)
        except errors.ItemError as error:
            return Fault(error.code, error.detail)
        return None
