"""A collection's vectors in one file that is mapped into memory and verified before it is used.

    header       a page: magic, length and CRC-32 of a JSON text that says what follows, and that text
    vectors      count rows in the collection's own number format, little-endian
    the rest     reciprocals of the lengths, ids, the ids' order, checksums of the vectors; for the calibrated view
                 what its mean is made of

In the calibrated view the vectors are x' of imagekin_worker.matrix.view, in float32 for any format of the collection.

A file is written under another name and renamed once it is whole; it never changes afterwards. So a reader maps either
a whole file or none, and a writer that dies leaves only something to sweep up. The file may still not have reached the
disk as written: the header and the small parts are verified when the file is opened, the vectors when they are first
read.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagekin.enums import ViewName
from imagekin.store.reading import ID
from imagekin.store.vector_codec import WIRE, width
from imagekin_worker.matrix import id_index
from imagekin_worker.matrix.id_index import Names

MAGIC = b"imagekin\x03\x00\x00\x00"
HEADER_BYTES = 4096
# Rows that share a checksum, and are checked together where they are read first.
CHECKED_ROWS = 1024
ALIGNMENT = 64
# Bytes between two looks at whether the writing is still wanted, and of what is read at a time.
PIECE_BYTES = 8 << 20


class Damaged(Exception):
    """The file does not match its checksums, or is of another collection: it must be written again."""


@dataclass(frozen=True)
class Label:
    """What a matrix's vectors are: those of a collection, raw in its own `dtype`, or x' of the calibrated view."""

    collection_id: str
    space_id: str
    dtype: str
    dim: int
    view: str = ViewName.RAW

    @property
    def key(self) -> tuple[str, str]:
        return self.collection_id, self.view

    @property
    def row_bytes(self) -> int:
        return width(self.dim, self.dtype)


class Writer:
    """Writes a file under another name; `publish` makes it the collection's. Leaving its context removes leftovers."""

    def __init__(self, path: Path, label: Label) -> None:
        self._path, self._label = path, label
        self._part = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
        self._file = self._part.open("xb")
        self._file.seek(HEADER_BYTES)
        self._count = 0
        self._sums: list[int] = []
        self._sum = 0
        self._names: list[Names] = []
        self._reciprocals: list[NDArray[np.float32]] = []

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        with suppress(FileNotFoundError):
            self._part.unlink()

    def add(self, names: Names, rows: np.ndarray, reciprocals: np.ndarray) -> None:
        """Append rows (n, dim) with their ids and the reciprocals (n,) of their lengths; no id may come twice."""
        rows = np.ascontiguousarray(rows, dtype=WIRE[self._dtype])
        start = 0
        while start < len(rows):
            stop = min(len(rows), start + CHECKED_ROWS - (self._count + start) % CHECKED_ROWS)
            piece = rows[start:stop].data.cast("B")
            self._sum = zlib.crc32(piece, self._sum)
            self._file.write(piece)
            if (self._count + stop) % CHECKED_ROWS == 0:
                self._sums.append(self._sum)
                self._sum = 0
            start = stop
        self._count += len(rows)
        self._names.append(names.copy())
        self._reciprocals.append(np.asarray(reciprocals, dtype=np.float32))

    def publish(self, revision: int, sums: bytes = b"") -> None:
        """Rename the file to its final name: it has the collection's vectors at `revision`, `sums` of their view."""
        if self._count % CHECKED_ROWS:
            self._sums.append(self._sum)
        names = _joined(self._names, ID)
        parts = {
            "reciprocals": _joined(self._reciprocals, np.dtype(np.float32)),
            "names": names,
            "order": id_index.ordered(names),
            "sums": np.array(self._sums, np.uint32),
            "view": np.frombuffer(sums, np.uint8),
        }
        where = {name: self._write(part) for name, part in parts.items()}
        # also where the last parts are empty
        size = self._file.truncate(self._file.tell())
        header = {**asdict(self._label), "revision": revision, "count": self._count, "bytes": size}
        text = json.dumps({**header, "parts": where}).encode()
        self._file.seek(0)
        self._file.write(MAGIC + struct.pack("<II", len(text), zlib.crc32(text)) + text)
        self._file.close()
        self._part.replace(self._path)

    @property
    def _dtype(self) -> Any:
        return self._label.dtype

    def _write(self, part: np.ndarray) -> list[int]:
        """Append a part; return where it starts, how long it is, and its checksum."""
        start = -(-self._file.tell() // ALIGNMENT) * ALIGNMENT
        self._file.seek(start)
        data = part.tobytes()
        self._file.write(data)
        return [start, len(data), zlib.crc32(data)]


class MatrixFile:
    """An open file, mapped read-only; it stays readable when its name goes to another one.

    Raises FileNotFoundError, and Damaged if header or small parts are not as written or not of `label`. Reading vectors
    that are not as written raises Damaged, too.
    """

    def __init__(self, path: Path, label: Label) -> None:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = _header(file.read(HEADER_BYTES))
            if {name: header.get(name) for name in asdict(label)} != asdict(label) or header["bytes"] != size:
                raise Damaged(f"{path.name} has another size, or belongs to another collection.")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.label, self.nbytes = label, size
        self.revision: int = header["revision"]
        self._count: int = header["count"]
        self._parts: dict[str, list[int]] = header["parts"]
        self._reciprocals = self._part("reciprocals", np.dtype(np.float32))
        self._names = self._part("names", ID)
        self._order = self._part("order", np.dtype(np.int64))
        self._sums = self._part("sums", np.dtype(np.uint32))
        self.sums = self._part("view", np.dtype(np.uint8)).tobytes()
        self._vectors = np.frombuffer(
            self._map, WIRE[header["dtype"]], self._count * label.dim, offset=HEADER_BYTES
        ).reshape(self._count, label.dim)
        self._checked = np.zeros(len(self._sums), np.bool_)
        self.release()

    def __len__(self) -> int:
        return self._count

    def vectors(self, start: int, stop: int) -> np.ndarray:
        """Return a verified view of rows (n, dim); raises Damaged."""
        for block in range(start // CHECKED_ROWS, -(-stop // CHECKED_ROWS)):
            if not self._checked[block]:
                rows = self._vectors[block * CHECKED_ROWS : (block + 1) * CHECKED_ROWS]
                if zlib.crc32(rows.data.cast("B")) != self._sums[block]:
                    raise Damaged(f"Rows from {block * CHECKED_ROWS} on are not as they were written.")
                self._checked[block] = True
        return self._vectors[start:stop]

    def reciprocals(self, start: int, stop: int) -> np.ndarray:
        """Return a view of the reciprocals (n,) of the rows' lengths."""
        return self._reciprocals[start:stop]

    def take(self, rows: NDArray[np.int64]) -> np.ndarray:
        """Return a verified copy of the rows at the given indices (m,), (m, dim); raises Damaged."""
        for block in np.unique(rows // CHECKED_ROWS).tolist():
            self.vectors(block * CHECKED_ROWS, min(block * CHECKED_ROWS + 1, self._count))
        return self._vectors[rows]

    def find(self, names: Names) -> NDArray[np.int64]:
        """Return the row (m,) of each id, -1 if it is not in the file."""
        return id_index.bisected(self._names, self._order, names)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of runs of rows of a few megabytes, aligned with the checksums."""
        step = max(1, PIECE_BYTES // (self.label.row_bytes * CHECKED_ROWS)) * CHECKED_ROWS
        for start in range(0, self._count, step):
            yield start, min(start + step, self._count)

    def names(self, start: int, stop: int) -> Names:
        """Return a view of the ids (n,) of rows."""
        return self._names[start:stop]

    def release(self, start: int | None = None, stop: int | None = None) -> None:
        """Release the pages of rows, or of all: they stay in the system's cache, but are not this process's memory."""
        first, last = 0, len(self._map)
        if start is not None and stop is not None:
            first = (HEADER_BYTES + start * self.label.row_bytes) & -mmap.PAGESIZE
            last = HEADER_BYTES + stop * self.label.row_bytes
        if last > first:
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _part(self, name: str, dtype: np.dtype) -> np.ndarray:
        start, length, checksum = self._parts[name]
        # a view, so that the map need not be held by hand; of no bytes there is none
        part = np.frombuffer(self._map, np.uint8, length, offset=start) if length else np.empty(0, np.uint8)
        if zlib.crc32(part.data) != checksum:
            raise Damaged(f"The {name} are not as they were written.")
        return part.view(dtype)


def _header(page: bytes) -> dict[str, Any]:
    if len(page) < HEADER_BYTES or not page.startswith(MAGIC):
        raise Damaged("The file has no header of this version.")
    length, checksum = struct.unpack_from("<II", page, len(MAGIC))
    text = page[len(MAGIC) + 8 :][:length]
    if len(text) != length or zlib.crc32(text) != checksum:
        raise Damaged("The header is not as it was written.")
    return json.loads(text)


def revision_of(path: Path) -> int:
    """Return the revision in a file's header, -1 if the file is missing or has another header."""
    try:
        with path.open("rb") as file:
            return int(_header(file.read(HEADER_BYTES))["revision"])
    except (FileNotFoundError, Damaged):
        return -1


def _joined(parts: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
