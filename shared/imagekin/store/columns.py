"""Columns: chosen properties of all images of a collection in a compact binary form, without an object for each image.

    "IKC1"                          4 bytes
    length of the head              uint32
    head                            JSON: {"count", "revision", "columns": [{"name", "type", "bytes", "values"?}]}
    the columns, in this order      each starts at a multiple of 8 bytes from the beginning

All numbers are little-endian. Row i of every column is the same image, in the order in which images were added. Types:

    text     uint32[count + 1] offsets, then UTF-8: text i lies from offset i to offset i + 1 past the offsets
    number   float32[count], NaN if it is missing
    choice   uint32[count]: an index into `values` (any JSON), 4294967295 if it is missing
"""

from __future__ import annotations

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import InstrumentedAttribute, Session

from imagekin import errors
from imagekin.database import sql, tables

Image = tables.Image

MAGIC = b"IKC1"
NONE = 0xFFFFFFFF
ALIGNMENT = 8
ROWS_PER_READ = 4096
# What is small stays in memory.
SPOOL_BYTES = 1 << 20
PIECE_BYTES = 1 << 18
MAX_NAMES = 32
# A field of texts that all differ is no choice; it comes with an export.
MAX_VALUES = 65_536
METADATA, RESULT = "metadata.", "result."
TEXTS: dict[str, InstrumentedAttribute[Any]] = {
    "id": Image.id,
    "key": Image.key,
    "content_hash": Image.content_hash,
    "format": Image.format,
    "created_at": Image.created_at,
}
NUMBERS: dict[str, InstrumentedAttribute[Any]] = {"width": Image.width, "height": Image.height}


@dataclass(frozen=True)
class Found:
    """A field of a job's rows, for the images that have one: `ids` sorted, as ASCII, and a value for each."""

    ids: NDArray[np.bytes_]
    values: NDArray[Any]

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]], field: str) -> Found:
        """Return the field of a job's rows; rows without it, or without the id of an image, are left out."""
        told = (row for row in rows if row.get(field) is not None and isinstance(row.get("id"), str))
        pairs = [(row["id"], row[field]) for row in told]
        ids = np.array([id for id, _ in pairs], f"S{tables.ID_LENGTH}")
        numbers = all(isinstance(value, int | float) for _, value in pairs)
        values = np.array([value for _, value in pairs], np.float32 if numbers else object)
        order = np.argsort(ids)
        return cls(ids[order], values[order])

    def at(self, ids: Sequence[str]) -> list[Any]:
        """Return the values of images by id, None for an image without one."""
        if not len(self.ids):
            return [None] * len(ids)
        wanted = np.array(ids, self.ids.dtype)
        places = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        hits = self.ids[places] == wanted
        return [self.values[place] if hit else None for place, hit in zip(places, hits, strict=True)]


def known(name: str) -> bool:
    """Return whether a column may have this name."""
    return name in TEXTS or name in NUMBERS or name.startswith((METADATA, RESULT))


def write(
    session: Session, collection: tables.Collection, names: Sequence[str], results: dict[str, Found]
) -> Iterator[bytes]:
    """Read all images once, and return the pieces of the form with these columns.

    `results` has what stands behind names that begin with RESULT. The columns wait in files without a name until the
    last image is read, so memory grows only with the number of distinct metadata values. Raises InvalidRequest if a
    field of metadata has more than MAX_VALUES.
    """
    columns = [_column(name, results) for name in names]
    fields = dict.fromkeys([Image.id, *(TEXTS.get(name, NUMBERS.get(name)) for name in names)])
    wanted = [field for field in fields if field is not None]
    if any(name.startswith(METADATA) for name in names):
        wanted.append(Image.metadata_)
    mine = sa.select(*wanted).where(Image.collection_id == collection.id, Image.deleted_at.is_(None))
    count = 0
    with session.execute(mine.order_by(Image.id).execution_options(yield_per=ROWS_PER_READ)) as found:
        for rows in found.partitions():
            for column in columns:
                column.add(rows)
            count += len(rows)
    head = {"count": count, "revision": collection.revision, "columns": [column.described() for column in columns]}
    return _pieces(json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode(), columns)


def _pieces(head: bytes, columns: Sequence[_Column]) -> Iterator[bytes]:
    start = MAGIC + len(head).to_bytes(4, "little") + head
    yield start + bytes(-len(start) % ALIGNMENT)
    for column in columns:
        size = 0
        for file in column.files:
            file.seek(0)
            while piece := file.read(PIECE_BYTES):
                size += len(piece)
                yield piece
            file.close()
        yield bytes(-size % ALIGNMENT)


def _column(name: str, results: dict[str, Found]) -> _Column:
    if name in TEXTS:
        return _Texts(name)
    if name in NUMBERS or (name in results and results[name].values.dtype == np.float32):
        return _Numbers(name, results.get(name))
    return _Choices(name, results.get(name))


class _Column(ABC):
    """A column that is written row by row into files of its own."""

    type: str
    n_files = 1

    def __init__(self, name: str, found: Found | None = None) -> None:
        self.name = name
        self._found = found
        self.files: list[IO[bytes]] = [
            tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - closed when all of it is sent, or let go of
            for _ in range(self.n_files)
        ]

    @abstractmethod
    def add(self, rows: Sequence[Any]) -> None:
        """Write the next rows."""

    def described(self) -> dict[str, Any]:
        return {"name": self.name, "type": self.type, "bytes": sum(file.tell() for file in self.files)}

    def values(self, rows: Sequence[Any]) -> list[Any]:
        if self._found is not None:
            return self._found.at([row.id for row in rows])
        if self.name.startswith(METADATA):
            field = self.name.removeprefix(METADATA)
            return [row.metadata_.get(field) for row in rows]
        return [getattr(row, self.name) for row in rows]


class _Texts(_Column):
    type = "text"
    n_files = 2

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._end = 0
        self.files[0].write(bytes(4))

    def add(self, rows: Sequence[Any]) -> None:
        values = self.values(rows)
        if self.name == "created_at":
            values = [sql.moment(value).isoformat().replace("+00:00", "Z") for value in values]
        texts = [(value or "").encode() for value in values]
        ends = self._end + np.cumsum([len(text) for text in texts])
        self._end = int(ends[-1])
        self.files[0].write(ends.astype("<u4").tobytes())
        self.files[1].write(b"".join(texts))


class _Numbers(_Column):
    type = "number"

    def add(self, rows: Sequence[Any]) -> None:
        self.files[0].write(np.array(self.values(rows), np.float64).astype("<f4").tobytes())


class _Choices(_Column):
    type = "choice"

    def __init__(self, name: str, found: Found | None = None) -> None:
        super().__init__(name, found)
        self._codes: dict[str, int] = {}

    def add(self, rows: Sequence[Any]) -> None:
        self.files[0].write(np.array([self._code(value) for value in self.values(rows)], "<u4").tobytes())

    def described(self) -> dict[str, Any]:
        return {**super().described(), "values": [json.loads(text) for text in self._codes]}

    def _code(self, value: Any) -> int:
        if value is None:
            return NONE
        code = self._codes.setdefault(json.dumps(value, sort_keys=True), len(self._codes))
        if code >= MAX_VALUES:
            detail = f"{self.name} has more than {MAX_VALUES:,} different values; an export has them all."
            raise errors.InvalidRequest(detail, errors=[{"pointer": "/names", "in": "query", "detail": detail}])
        return code
