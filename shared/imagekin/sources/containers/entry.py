"""What the archives have in common: which of their members are items, and within which limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imagekin import errors, formats
from imagekin.settings import Settings
from imagekin.sources import names
from imagekin.sources.base import Entry, Fault
from imagekin.sources.containers.blob import Blob


class Archive:
    """An archive in a stored file, read member by member and never extracted."""

    def __init__(self, blob: Blob, settings: Settings) -> None:
        self._blob = blob
        self._settings = settings

    def close(self) -> None:
        """Close the stored file."""
        self._blob.close()

    def _entry(
        self, name: str, size: int, ref: dict[str, Any], cursor: Any, *, fault: Fault | None, head: Callable[[], bytes]
    ) -> Entry:
        """Return the entry of a regular member; `head` reads the start of its data where the name does not tell."""
        key, refused = names.key_of(name)
        if names.is_hidden(name) or not (names.is_image(name) or formats.looks_like_image(head())):
            return Entry(key, {}, cursor, ignored=True)
        return Entry(key, ref, cursor, error=refused or fault or self._size_fault(size))

    def _size_fault(self, size: int) -> Fault | None:
        try:
            self._check_size(size)
        except errors.ItemError as error:
            return Fault(error.code, error.detail)
        return None

    def _check_size(self, size: int) -> None:
        check_size(size, self._settings.max_image_bytes)

    def _check_count(self, count: int) -> None:
        if count > self._settings.max_archive_members:
            raise errors.SourceUnreadable(
                f"The archive has more than {self._settings.max_archive_members:,} members; split it up."
            )


def check_size(size: int, max_bytes: int) -> None:
    """Raise EmptyFile or ImageTooLarge where an image of `size` bytes is not to be read."""
    if size == 0:
        raise errors.EmptyFile
    if size > max_bytes:
        raise errors.ImageTooLarge(f"The file has {size:,} bytes; at most {max_bytes:,} are accepted.")
