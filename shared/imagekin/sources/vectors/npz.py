"""npz files: `keys` and `embeddings` row by row, without NumPy's pickles and without the whole file in memory."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from imagekin import errors
from imagekin.settings import Settings
from imagekin.sources.base import Pace
from imagekin.sources.containers.blob import Blob
from imagekin.sources.containers.zip import Place, Zip
from imagekin.sources.vectors import table
from imagekin.sources.vectors.table import Row, Space

METADATA = "metadata.jsonl"
MAX_MEMBERS = 64
MAX_HEADER_BYTES = 16 << 10
# Compressed embeddings are inflated whole, as none of their rows is found otherwise.
MAX_INFLATED_BYTES = 64 << 20
_PIECE_BYTES = 1 << 18
_NUMBERS = ("<f2", "<f4", "<f8", ">f2", ">f4", ">f8")
# What numpy raises for headers that were made by hand.
_BAD_HEADER = (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError, OverflowError)


class Array(NamedTuple):
    """An array in the archive: its data begins `offset` bytes into the member at `place`."""

    place: Place
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]


class Npz(table.Rows):
    """An npz of the collection's space; raises SourceUnreadable for another file."""

    def __init__(self, blob: Blob, space: Space, settings: Settings) -> None:
        super().__init__(blob)
        places = _places(Zip(blob, settings))
        table.check_space(_text(blob, places), space)
        self._keys = _texts(_array(blob, places, "keys"))
        self._embeddings = _matrix(_array(blob, places, "embeddings"))
        self._metadata = places.get(METADATA)
        count, dim = self._embeddings.shape
        _check_sizes(self._keys.place, self._metadata, count, settings)
        table.check_dim(dim, space)
        if self._keys.shape != (count,):
            raise errors.SourceUnreadable(f"The file has {self._keys.shape[0]:,} keys and {count:,} embeddings.")
        self._inflated: bytes | None = None

    def read(self, ref: dict[str, Any]) -> bytes:
        """Return a row's vector; raises SourceUnreadable if it is not there."""
        array = self._embeddings
        width = array.shape[1] * array.dtype.itemsize
        at = array.offset + ref["row"] * width
        if array.place.deflated:
            if self._inflated is None:
                self._inflated = _Member(self._blob, array.place).read(array.place.size)
            data = self._inflated[at : at + width]
        else:
            data = self._blob.read_at(array.place.start + at, width)
        if len(data) != width:
            raise errors.SourceUnreadable("The file's embeddings are cut off.")
        with np.errstate(over="ignore"):
            return np.frombuffer(data, array.dtype).astype("<f4").tobytes()

    def _rows(self, start: int) -> Iterator[Row | None]:
        keys = self._text_rows(start)
        if self._metadata is None:
            yield from map(Row, keys)
            return
        lines = _lines(_Member(self._blob, self._metadata), start)
        for key in keys:
            for line in lines:
                if line is not None:
                    yield Row(key, line)
                    break
                yield None
            else:
                raise errors.SourceUnreadable(f"The file's {METADATA} has fewer lines than there are keys.")

    def _text_rows(self, start: int) -> Iterator[str | None]:
        array = self._keys
        width, count = array.dtype.itemsize, array.shape[0]
        member = _Member(self._blob, array.place)
        member.skip(array.offset + start * width)
        at_once = _PIECE_BYTES // width
        for at in range(start, count, at_once):
            some = min(at_once, count - at)
            data = member.read(some * width)
            for row in range(some):
                yield _decoded(data[row * width : (row + 1) * width], array.dtype)


class _Member:
    """A member's data as a stream, which may be skipped without being inflated where it is stored."""

    def __init__(self, blob: Blob, place: Place) -> None:
        self._blob = blob
        self._at, self._end = place.start, place.start + place.packed
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if place.deflated else None
        self.left = place.size

    def skip(self, size: int) -> None:
        if self._inflater is None:
            self._at += size
            self.left -= size
            return
        while size > 0:
            size -= len(self.read(min(size, _PIECE_BYTES)))

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes; raises SourceUnreadable if the data ends earlier."""
        parts = []
        while size > 0:
            part = self.read_some(size)
            if not part:
                raise errors.SourceUnreadable("The file is cut off, or damaged.")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def read_some(self, size: int) -> bytes:
        """Return up to `size` of the next bytes, none at the end."""
        size = min(size, self.left)
        data = self._inflated(size) if self._inflater is not None else self._packed(size)
        self.left -= len(data)
        return data

    def _packed(self, size: int) -> bytes:
        data = self._blob.read_at(self._at, min(size, _PIECE_BYTES, self._end - self._at))
        self._at += len(data)
        return data

    def _inflated(self, size: int) -> bytes:
        assert self._inflater is not None
        while size > 0 and not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._packed(_PIECE_BYTES)
            try:
                data = self._inflater.decompress(packed, size)
            except zlib.error:
                raise errors.SourceUnreadable("The file is damaged: it cannot be decompressed.") from None
            if data or not packed:
                return data
        return b""


def _places(archive: Zip) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for count, (name, place) in enumerate(archive.places(), 1):
        found[name] = place
        if count > MAX_MEMBERS:
            raise errors.SourceUnreadable(f"The file has more than {MAX_MEMBERS} members; an npz for imports has few.")
    return found


def _check_sizes(keys: Place, metadata: Place | None, count: int, settings: Settings) -> None:
    """Raise SourceUnreadable if members that are read from their start again and again are mostly air."""
    if metadata is not None and metadata.size > count * (table.MAX_METADATA_BYTES + 1):
        raise errors.SourceUnreadable(f"The file's {METADATA} is too large for {count:,} rows.")
    for place in (keys, metadata):
        if place is None or place.size <= MAX_INFLATED_BYTES:
            continue
        if place.size > settings.max_archive_ratio * place.packed:
            raise errors.SourceUnreadable(
                f"The file's keys or metadata become more than {settings.max_archive_ratio} times as large; store them "
                "with numpy.savez."
            )


def _array(blob: Blob, places: dict[str, Place], name: str) -> Array:
    """Return the place of the array `name`, from its header.

    The layout is that of https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
    """
    place = places.get(f"{name}.npy")
    if place is None:
        raise errors.SourceUnreadable(f"The npz has no array {name!r}.")
    head = io.BytesIO(_Member(blob, place).read(min(place.size, MAX_HEADER_BYTES)))
    try:
        version = np.lib.format.read_magic(head)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(head)
    except _BAD_HEADER:
        raise errors.SourceUnreadable(f"The array {name!r} has no header that NumPy writes.") from None
    if dtype.hasobject:
        raise errors.SourceUnreadable(f"The array {name!r} is a pickle, which is never read; use text and numbers.")
    if fortran_order and len(shape) > 1:
        raise errors.SourceUnreadable(f"The array {name!r} is in Fortran order; store numpy.ascontiguousarray of it.")
    count = 1
    for length in shape:
        count *= max(length, 0)
    if min(shape, default=0) < 0 or place.size != head.tell() + count * dtype.itemsize:
        raise errors.SourceUnreadable(f"The array {name!r} has another size than its header says.")
    return Array(place, head.tell(), dtype, shape)


def _text(blob: Blob, places: dict[str, Place]) -> str | None:
    if "space_id.npy" not in places:
        return None
    array = _texts(_array(blob, places, "space_id"))
    if array.place.size > MAX_HEADER_BYTES + table.MAX_TEXT_BYTES:
        raise errors.SourceUnreadable("The array 'space_id' must be one text.")
    data = _Member(blob, array.place).read(array.place.size)[array.offset :]
    return _decoded(data, array.dtype) or ""


def _texts(array: Array) -> Array:
    if array.dtype.kind not in "US" or len(array.shape) > 1 or not 0 < array.dtype.itemsize <= table.MAX_TEXT_BYTES:
        raise errors.SourceUnreadable("The arrays 'keys' and 'space_id' must be one-dimensional, of text.")
    return array


def _matrix(array: Array) -> Array:
    if array.dtype.str not in _NUMBERS or len(array.shape) != 2:
        raise errors.SourceUnreadable(
            f"The array 'embeddings' must be (n, dim) of float16, float32 or float64, not {array.dtype} {array.shape}."
        )
    if array.place.deflated and array.place.size > MAX_INFLATED_BYTES:
        raise errors.SourceUnreadable(
            f"Compressed embeddings of more than {MAX_INFLATED_BYTES >> 20} MiB are not read: use numpy.savez, not "
            "savez_compressed; they hardly become smaller."
        )
    return array


def _decoded(data: bytes, dtype: np.dtype) -> str | None:
    """Return a text that fills its place up with zeros, or None if it is not Unicode."""
    if dtype.kind == "S":
        encoding, data = "utf-8", data.rstrip(b"\0")
    else:
        encoding = "utf-32-be" if dtype.byteorder == ">" else "utf-32-le"
    try:
        return data.decode(encoding).rstrip("\0")
    except UnicodeDecodeError:
        return None


def _lines(member: _Member, start: int) -> Iterator[bytes | None]:
    """Yield the lines from number `start` on, none longer than one byte above what is accepted; None for a pause."""
    number, rest = 0, b""
    pace = Pace()
    while piece := member.read_some(_PIECE_BYTES):
        if pace.due():
            yield None
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if number >= start:
                yield line
            number += 1
        # a line that never ends stays refused, and small
        rest = rest[: table.MAX_METADATA_BYTES + 1]
    if rest and number >= start:
        yield rest
