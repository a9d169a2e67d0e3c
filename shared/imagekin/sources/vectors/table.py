"""What files of vectors have in common: rows with a key, a vector and perhaps metadata, of one space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

from imagekin import errors
from imagekin.schemas import json_values
from imagekin.sources import names
from imagekin.sources.base import Entry, Fault, Pause
from imagekin.sources.containers.blob import Blob

# As many characters as a key may have before it is brought into one spelling, four bytes each.
MAX_TEXT_BYTES = 16 << 10
MAX_METADATA_BYTES = 64 << 10


class Space(NamedTuple):
    """The space of the collection that the vectors go to."""

    id: str
    dim: int


class Row(NamedTuple):
    """A row's key and metadata (JSON) as the file has them; None if they are missing or not text."""

    key: str | None
    metadata: str | bytes | None = None


class Rows(ABC):
    """A source whose entries are rows; `read` gives a row's vector as little-endian float32."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob

    def entries(self, cursor: Any | None = None) -> Iterator[Entry | Pause]:
        """Yield the rows from number `cursor` on."""
        number = cursor or 0
        for row in self._rows(number):
            if row is None:
                yield Pause(number)
            else:
                yield _entry(number, row)
                number += 1

    def close(self) -> None:
        """Close the stored file."""
        self._blob.close()

    @abstractmethod
    def _rows(self, start: int) -> Iterator[Row | None]:
        """Yield the rows from number `start` on, None for a pause."""


def check_space(found: str | None, space: Space) -> None:
    """Raise SourceUnreadable if a file is of another space than the collection, or does not say of which."""
    if found is None:
        raise errors.SourceUnreadable(
            "The file does not say of which space its vectors are; put the collection's space_id into its metadata "
            "(Parquet) or into an array of that name (npz)."
        )
    if found != space.id:
        raise errors.SourceUnreadable(
            f"The file's vectors are of the space {found[:64]!r}, the collection's of {space.id!r}; vectors of "
            "different spaces never meet."
        )


def check_dim(dim: int, space: Space) -> None:
    """Raise SourceUnreadable if a file's vectors have another length than the collection's."""
    if dim != space.dim:
        raise errors.SourceUnreadable(f"The file's vectors have {dim:,} numbers, the collection's {space.dim:,}.")


def _entry(number: int, row: Row) -> Entry:
    name = f"row {number}" if row.key is None else row.key
    key, refused = names.key_of(name)
    metadata, fault = _metadata(row.metadata)
    if row.key is None:
        fault = Fault.of(errors.DecodeError, "The row has no key that is valid Unicode.")
    return Entry(key, {"row": number}, number + 1, error=refused or fault, metadata=metadata)


def _metadata(text: str | bytes | None) -> tuple[dict[str, Any] | None, Fault | None]:
    """Return a row's metadata, refused where a database would not keep it: NUL, NaN, halves of surrogate pairs."""
    if text is None:
        return None, None
    reason = f"it has more than {MAX_METADATA_BYTES:,} bytes"
    if len(text) <= MAX_METADATA_BYTES:
        reason = "it is not an object of JSON"
        try:
            return json_values.load(text), None
        except json_values.Unkept:
            pass
    return None, Fault.of(errors.DecodeError, f"The row's metadata cannot be kept: {reason}.")
