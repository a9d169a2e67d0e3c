"""Zip files, read by their central directory as a stream: a member is never held longer than it takes to yield it.

The layouts are those of PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from imagekin import errors, formats
from imagekin.schemas import keys
from imagekin.settings import Settings
from imagekin.sources import ignored, names
from imagekin.sources.base import Entry, Fault
from imagekin.sources.containers.blob import Blob
from imagekin.sources.containers.entry import Archive
from imagekin.sources.containers.sidecars import Found

_STORED, _DEFLATED = 0, 8
_METHODS = {1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstandard", 95: "xz", 98: "ppmd"}
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UNIX, _DARWIN = 3, 19
_UNKNOWN = 0xFFFFFFFF
_UTF8_NAME = 0x800
_ZIP64_EXTRA = 1
_UNICODE_PATH_EXTRA = 0x7075
_UNICODE_PATH = struct.Struct("<BL")

_END = struct.Struct("<4s4H2LH")
_END_MAGIC = b"PK\x05\x06"
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_MAGIC = b"PK\x06\x06"
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_MAGIC = b"PK\x06\x07"
_MEMBER = struct.Struct("<4s4B4H3L5H2L")
_MEMBER_MAGIC = b"PK\x01\x02"
_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_MAGIC = b"PK\x03\x04"

_MAX_COMMENT_BYTES = 0xFFFF
_MAX_MEMBER_BYTES = _MEMBER.size + 3 * 0xFFFF
_WINDOW_BYTES = 1 << 18
_PIECE_BYTES = 1 << 18
_HEAD_BYTES = 4096
# Below this no ratio does harm, and flat pictures (a white BMP) compress very well.
_RATIO_FLOOR_BYTES = 1 << 20


class _Directory(NamedTuple):
    start: int
    end: int
    members: int
    prefix: int


class _Cursor(NamedTuple):
    """Where the next directory record is, and what was seen up to there."""

    at: int
    members: int = 0
    packed: int = 0
    last_start: int = 0
    last_end: int = 0


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    offset: int
    packed: int
    size: int
    method: int
    crc: int
    flags: int
    file_type: int
    header_bytes: int
    fault: Fault | None


class Place(NamedTuple):
    """Where a member's data lies in the archive, `packed` bytes of it, `size` when they are inflated."""

    start: int
    packed: int
    size: int
    deflated: bool


class Zip(Archive):
    """A zip file; raises SourceUnreadable if it has no directory."""

    def __init__(self, blob: Blob, settings: Settings, *, named: bool = False) -> None:
        super().__init__(blob, settings, named=named)
        self._directory = _find_directory(blob)
        self._start = _Cursor(self._directory.start)
        self._check_count(self._directory.members)

    def _members(self, start: list[int]) -> Iterator[Found]:
        """Yield the members from a cursor on; raises SourceUnreadable if they overlap or the directory is broken."""
        state = _Cursor(*start)
        for at, record in self._records(state.at):
            member = self._member(record)
            state = self._after(state, at, member)
            yield self._found_as(member, state)
        # Old writers count modulo 65,536.
        if state.members != self._directory.members and state.members & 0xFFFF != self._directory.members:
            raise errors.SourceUnreadable(
                f"The zip's directory announces {self._directory.members:,} members and lists {state.members:,}."
            )

    def read(self, ref: dict[str, Any]) -> bytes:
        """Return a member's bytes; raises EmptyFile, ImageTooLarge, DecompressionBomb or DecodeError."""
        size, packed = ref["s"], ref["z"]
        self._check_size(size)
        self._check_ratio(packed, size)
        start = self._data_offset(ref["o"], ref["m"])
        data = self._blob.read_at(start, packed) if ref["m"] == _STORED else self._inflate(start, packed, size)
        if len(data) != size:
            raise errors.DecodeError(f"The zip's member gives {len(data):,} bytes instead of {size:,}.")
        if zlib.crc32(data) != ref["c"]:
            raise errors.DecodeError("The zip's member is damaged: its checksum does not match.")
        return data

    def places(self) -> Iterator[tuple[str, Place]]:
        """Yield every member's name and place, without a limit to how far it inflates.

        Raises SourceUnreadable if one cannot be read.
        """
        state = _Cursor(self._directory.start)
        for at, record in self._records(state.at):
            member = self._member(record)
            state = self._after(state, at, member)
            if (fault := member.fault or self._unreadable(member)) is not None:
                raise errors.SourceUnreadable(fault.detail)
            try:
                start = self._data_offset(member.offset, member.method)
            except errors.DecodeError as error:
                raise errors.SourceUnreadable(error.detail) from error
            yield member.name, Place(start, member.packed, member.size, member.method == _DEFLATED)

    def _records(self, at: int) -> Iterator[tuple[int, bytes]]:
        """Yield each directory record from `at` on, with the place of the one after it."""
        end, window, base = self._directory.end, b"", at
        while at < end:
            if at - base + _MAX_MEMBER_BYTES > len(window) and base + len(window) < end:
                base, window = at, self._blob.read_at(at, min(_WINDOW_BYTES, end - at))
            record = window[at - base : at - base + _MEMBER.size]
            if len(record) < _MEMBER.size or not record.startswith(_MEMBER_MAGIC):
                raise errors.SourceUnreadable(f"The zip's directory is broken at byte {at:,}.")
            total = _MEMBER.size + sum(struct.unpack_from("<3H", record, 28))
            if at + total > end:
                raise errors.SourceUnreadable("The zip's directory ends in the middle of a member.")
            yield at + total, window[at - base : at - base + total]
            at += total

    def _member(self, record: bytes) -> _Member:
        fields = _MEMBER.unpack_from(record)
        system, flags, method = fields[2], fields[5], fields[6]
        crc, packed, size, name_bytes, extra_bytes = fields[9:14]
        attributes, offset = fields[17:19]
        name = record[_MEMBER.size : _MEMBER.size + name_bytes]
        extra = record[_MEMBER.size + name_bytes : _MEMBER.size + name_bytes + extra_bytes]
        fault = None
        try:
            size, packed, offset = _wide(size, packed, offset, extra)
        except struct.error:
            fault = Fault.of(errors.DecodeError, "The zip's directory does not tell the member's sizes.")
        return _Member(
            name=_unicode_path(name, extra, flags) or keys.of_zip_bytes(name),
            offset=offset + self._directory.prefix,
            packed=packed,
            size=size,
            method=method,
            crc=crc,
            flags=flags,
            file_type=stat.S_IFMT(attributes >> 16) if system in (_UNIX, _DARWIN) else 0,
            header_bytes=_LOCAL.size + name_bytes,
            fault=fault,
        )

    def _after(self, state: _Cursor, at: int, member: _Member) -> _Cursor:
        """Return the cursor after `member`; raises SourceUnreadable for what only bombs do.

        Honest members lie side by side, so their sum is never more than the archive, and none begins within the one
        before it (D. Fifield, "A better zip bomb", 2019).
        """
        self._check_count(state.members + 1)
        end = member.offset + member.header_bytes + member.packed
        if member.fault is not None or end > self._directory.start:
            return state._replace(at=at, members=state.members + 1)
        packed = state.packed + member.header_bytes + member.packed
        if packed > self._directory.start or state.last_start <= member.offset < state.last_end:
            raise errors.SourceUnreadable("The zip's members overlap, as they do in zip bombs only.")
        return _Cursor(at, state.members + 1, packed, member.offset, end)

    def _found_as(self, member: _Member, after: _Cursor) -> Found:
        if member.name.endswith(("/", "\\")) or member.file_type == stat.S_IFDIR:
            return Found(None, after)
        if member.file_type not in (0, stat.S_IFREG):
            return Found(Entry(names.key_of(member.name)[0], {}, None, ignored=ignored.SPECIAL), after)
        ref = {"o": member.offset, "z": member.packed, "s": member.size, "m": member.method, "c": member.crc}
        fault = member.fault or self._fault(member)
        return self._found(member.name, member.size, ref, after, fault=fault, head=lambda: self._head(member))

    def _fault(self, member: _Member) -> Fault | None:
        if (fault := self._unreadable(member)) is not None:
            return fault
        try:
            self._check_ratio(member.packed, member.size)
        except errors.DecompressionBomb as error:
            return Fault(error.code, error.detail)
        return None

    def _unreadable(self, member: _Member) -> Fault | None:
        if member.flags & _ENCRYPTED:
            return Fault.of(errors.UnsupportedFormat, "The zip's member is encrypted; send it without a password.")
        if member.method not in (_STORED, _DEFLATED):
            method = _METHODS.get(member.method, str(member.method))
            return Fault.of(
                errors.UnsupportedFormat,
                f"The zip's member is compressed by {method}; stored and deflated members are read.",
            )
        if member.offset + member.header_bytes + member.packed > self._directory.start:
            return Fault.of(errors.DecodeError, "The zip's member is said to lie where there is no data.")
        if member.method == _STORED and member.packed != member.size:
            return Fault.of(errors.DecodeError, "The zip's stored member has two different sizes.")
        return None

    def _check_ratio(self, packed: int, size: int) -> None:
        limit = self._settings.max_archive_ratio
        if size > _RATIO_FLOOR_BYTES and size > limit * packed:
            raise errors.DecompressionBomb(
                f"The member's {packed:,} bytes would become {size:,}; at most {limit} times as many are accepted."
            )

    def _head(self, member: _Member) -> bytes:
        """Return the start of a member's data, or nothing where it cannot be read."""
        if self._fault(member) is not None or member.fault is not None:
            return b""
        try:
            start = self._data_offset(member.offset, member.method)
            head = self._blob.read_at(start, min(member.packed, _HEAD_BYTES))
            if member.method == _DEFLATED:
                return zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, formats.HEAD_BYTES)
            return head[: formats.HEAD_BYTES]
        except (errors.DecodeError, zlib.error):
            return b""

    def _data_offset(self, offset: int, method: int) -> int:
        local = self._blob.read_at(offset, _LOCAL.size)
        if len(local) < _LOCAL.size or not local.startswith(_LOCAL_MAGIC):
            raise errors.DecodeError("The zip's member is not where its directory says.")
        _, _, flags, local_method, _, _, _, _, _, name_bytes, extra_bytes = _LOCAL.unpack(local)
        if local_method != method or flags & _ENCRYPTED:
            raise errors.DecodeError("The zip's member is not as its directory says.")
        return offset + _LOCAL.size + name_bytes + extra_bytes

    def _inflate(self, start: int, packed: int, size: int) -> bytes:
        """Return what a deflated member holds, never more than one byte above `size`, for any data."""
        # Deflate never makes data much larger, so whoever says so wants us to read for nothing.
        self._check_size(packed)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        output: list[bytes] = []
        room = size + 1
        for at in range(start, start + packed, _PIECE_BYTES):
            piece = self._blob.read_at(at, min(_PIECE_BYTES, start + packed - at))
            try:
                output.append(inflater.decompress(piece, room))
            except zlib.error:
                raise errors.DecodeError("The zip's member is damaged: it cannot be decompressed.") from None
            room -= len(output[-1])
            if room == 0:
                raise errors.DecodeError(f"The zip's member holds more than the {size:,} bytes that it announces.")
            if inflater.eof:
                return b"".join(output)
        raise errors.DecodeError("The zip's member is cut off.")


def has_directory(blob: Blob) -> bool:
    """Return whether the file ends like a zip, with any beginning."""
    try:
        _find_directory(blob)
    except errors.SourceUnreadable:
        return False
    return True


def _find_directory(blob: Blob) -> _Directory:
    at, end = _find_end(blob)
    _, disk, first_disk, _, count, size, offset, _ = end
    locator = blob.read_at(at - _LOCATOR.size, _LOCATOR.size)
    if locator.startswith(_LOCATOR_MAGIC) and len(locator) == _LOCATOR.size:
        at, (disk, first_disk, count, size, offset) = _end64(blob, at, locator)
    if disk or first_disk:
        raise errors.SourceUnreadable("The zip is one volume of several; join them first.")
    # What lies before the archive, such as a self-extractor, moves every offset by its length.
    prefix = at - size - offset
    if prefix < 0:
        raise errors.SourceUnreadable("The zip's directory does not lie where its end says; is the file cut off?")
    return _Directory(at - size, at, count, prefix)


def _find_end(blob: Blob) -> tuple[int, tuple[Any, ...]]:
    """Return the place and the fields of the directory's end, searched from the file's end over its comment."""
    base = max(0, blob.size - _END.size - _MAX_COMMENT_BYTES)
    tail = blob.read_at(base, blob.size - base)
    found = tail.rfind(_END_MAGIC, 0, len(tail) - _END.size + len(_END_MAGIC))
    while found >= 0:
        end = _END.unpack_from(tail, found)
        if found + _END.size + end[7] <= len(tail):
            return base + found, end
        found = tail.rfind(_END_MAGIC, 0, found)
    raise errors.SourceUnreadable("The zip has no directory; is the file cut off?")


def _end64(blob: Blob, at: int, locator: bytes) -> tuple[int, tuple[int, int, int, int, int]]:
    _, _, recorded, _ = _LOCATOR.unpack(locator)
    for place in (recorded, at - _LOCATOR.size - _END64.size):
        record = blob.read_at(place, _END64.size)
        if len(record) == _END64.size and record.startswith(_END64_MAGIC):
            _, _, _, _, disk, first_disk, _, count, size, offset = _END64.unpack(record)
            return place, (disk, first_disk, count, size, offset)
    raise errors.SourceUnreadable("The zip's 64-bit directory is not where its locator says.")


def _wide(size: int, packed: int, offset: int, extra: bytes) -> tuple[int, int, int]:
    """Return the sizes and offset with those that did not fit 32 bits from the extra field; raises struct.error."""
    values = [size, packed, offset]
    if _UNKNOWN not in values:
        return size, packed, offset
    for tag, body in _extra_fields(extra):
        if tag == _ZIP64_EXTRA:
            at = 0
            for index, value in enumerate(values):
                if value == _UNKNOWN:
                    (values[index],) = struct.unpack_from("<Q", body, at)
                    at += 8
            return values[0], values[1], values[2]
    raise struct.error("no zip64 extra field")


def _unicode_path(name: bytes, extra: bytes, flags: int) -> str | None:
    """Return the name that the Unicode Path field (4.6.9) has for exactly this `name`, or None."""
    if flags & _UTF8_NAME:
        return None
    for tag, body in _extra_fields(extra):
        if tag == _UNICODE_PATH_EXTRA and len(body) > _UNICODE_PATH.size:
            version, checksum = _UNICODE_PATH.unpack_from(body)
            # a program that does not know the field renames a member without it
            if version == 1 and checksum == zlib.crc32(name):
                try:
                    return body[_UNICODE_PATH.size :].decode()
                except UnicodeDecodeError:
                    return None
    return None


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the body of each extra field, those that are cut off as they are."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        yield tag, extra[at + 4 : at + 4 + length]
        at += 4 + length
