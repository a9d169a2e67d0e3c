"""Tar files, read header by header.

Python's tarfile is not used: it keeps every member, accepts any length that an archive announces, and recurses as deep
as the headers are nested. Here names and pax records are bounded, and planning can continue from any member's place.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from imagekin import errors, formats
from imagekin.schemas import keys
from imagekin.settings import Settings
from imagekin.sources import ignored, names
from imagekin.sources.base import Entry, Fault, Pace
from imagekin.sources.containers.blob import Blob
from imagekin.sources.containers.entry import Archive
from imagekin.sources.containers.sidecars import Found
from imagekin.uploads.unpack import TAR_BLOCK, TarHeader, tar_header

_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_PLAIN = (tarfile.AREGTYPE, tarfile.REGTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENSIONS = (_LONG_NAME, _LONG_LINK, tarfile.XGLTYPE, *_PAX)
_MAX_EXTENSION_BYTES = 1 << 20
_MAX_EXTENSIONS = 16
_MAX_NUMBER_DIGITS = 19
# Hard links point to what came before them; this much of it is kept in mind, in some 25 MB.
_KEPT_MEMBERS = 200_000
_MAX_LINKS = 16
_SHOWN_CHARS = 80
_SPARSE_MORE_AT = 482
_SPARSE_BLOCK_MORE_AT = 504


class _Damage(Exception):
    """There is no header at this place."""


@dataclass(slots=True)
class _Extension:
    """What the blocks before a member's header say about it."""

    name: bytes | None = None
    link: bytes | None = None
    size: int | None = None
    sparse: bool = False


@dataclass(slots=True)
class _Member:
    name: bytes
    type: bytes
    size: int
    data_at: int
    next_at: int
    sparse: bool
    link: bytes

    @property
    def text(self) -> str:
        return keys.of_bytes(self.name)


class Tar(Archive):
    """A tar file: ustar, GNU or pax."""

    _start = (0, 0)

    def __init__(self, blob: Blob, settings: Settings, *, named: bool = False) -> None:
        super().__init__(blob, settings, named=named)
        self._seen = _Seen(self._member)

    def _members(self, start: list[int]) -> Iterator[Found | None]:
        """Yield the members from [byte, members before] on.

        A cut-off or damaged archive gives what is whole, and then one last entry that failed with decode_error.
        """
        at, count = start
        while True:
            try:
                member = self._member(at)
            except _Damage as damage:
                yield Found(self._damaged(at, str(damage)), [self._blob.size, count + 1])
                return
            if member is None:
                return
            count += 1
            self._check_count(count)
            if member.type == tarfile.LNKTYPE:
                yield from self._seen.read_to(at)
            yield self._found_as(member, [member.next_at, count])
            at = member.next_at

    def read(self, ref: dict[str, Any]) -> bytes:
        """Return a member's bytes; raises EmptyFile, ImageTooLarge or DecodeError."""
        self._check_size(ref["s"])
        data = self._blob.read_at(ref["o"], ref["s"])
        if len(data) != ref["s"]:
            raise errors.DecodeError("The tar ends in the middle of this member.")
        return data

    def _member(self, at: int) -> _Member | None:
        """Return the member whose headers begin at `at`, or None at the archive's end."""
        extension = _Extension()
        for _ in range(_MAX_EXTENSIONS):
            block = self._blob.read_at(at, TAR_BLOCK)
            if not any(block):
                return None
            header = _header(block)
            at += TAR_BLOCK
            if header.type not in _EXTENSIONS:
                return self._whole(header, block, at, extension)
            self._extend(extension, header, at)
            at += _padded(header.size)
        raise _Damage("has too many extended headers in a row")

    def _extend(self, extension: _Extension, header: TarHeader, at: int) -> None:
        if header.size > _MAX_EXTENSION_BYTES:
            raise _Damage("has an extended header that is too long")
        data = self._blob.read_at(at, header.size)
        if len(data) < header.size:
            raise _Damage("ends in the middle of a header")
        if header.type == _LONG_NAME:
            extension.name = data.partition(b"\0")[0]
        elif header.type == _LONG_LINK:
            extension.link = data.partition(b"\0")[0]
        elif header.type in _PAX:
            _apply_pax(extension, data)

    def _whole(self, header: TarHeader, block: bytes, at: int, extension: _Extension) -> _Member:
        sparse = extension.sparse or header.type == tarfile.GNUTYPE_SPARSE
        if header.type == tarfile.GNUTYPE_SPARSE and block[_SPARSE_MORE_AT]:
            at = self._after_sparse_map(at)
        name = header.name if extension.name is None else extension.name
        link = header.link if extension.link is None else extension.link
        size = header.size if extension.size is None else extension.size
        # As tarfile has it: links, devices, fifos and directories carry no data, unknown types may.
        stored = size if header.type in tarfile.REGULAR_TYPES or header.type not in tarfile.SUPPORTED_TYPES else 0
        kind = tarfile.DIRTYPE if header.type in _PLAIN and name.endswith(b"/") else header.type
        return _Member(name, kind, size, at, at + _padded(stored), sparse, link)

    def _after_sparse_map(self, at: int) -> int:
        while True:
            block = self._blob.read_at(at, TAR_BLOCK)
            if len(block) < TAR_BLOCK:
                raise _Damage("ends in the middle of a header")
            at += TAR_BLOCK
            if not block[_SPARSE_BLOCK_MORE_AT]:
                return at

    def _found_as(self, member: _Member, after: list[int]) -> Found:
        if member.type == tarfile.DIRTYPE:
            return Found(None, after)
        name = member.text
        if member.type == tarfile.LNKTYPE:
            target = self._seen.named(member.link)
            if target is None:
                return Found(self._dangling(member), after)
            member = target
        if member.type not in tarfile.REGULAR_TYPES:
            return Found(Entry(names.key_of(name)[0], {}, None, ignored=ignored.SPECIAL), after)
        if member.data_at + member.size > self._blob.size:
            cut = Fault.of(errors.DecodeError, "The tar ends in the middle of this member; what came after is missing.")
            return Found(Entry(names.key_of(name)[0], {}, None, error=cut), after)
        fault = Fault.of(errors.UnsupportedFormat, "The tar's member is sparse.") if member.sparse else None
        ref = {"o": member.data_at, "s": member.size}
        return self._found(name, member.size, ref, after, fault=fault, head=lambda: self._head(member))

    def _dangling(self, member: _Member) -> Entry:
        """Return the entry of a hard link to what is not in the archive, or lies too far before it."""
        name = member.text
        key = names.key_of(name)[0]
        if names.is_hidden(name) or not names.is_image(name):
            return Entry(key, {}, None, ignored=ignored.LINK)
        target = ascii(keys.of_bytes(member.link)[:_SHOWN_CHARS])
        detail = f"The tar's hard link points to {target}, which is not among the {_KEPT_MEMBERS:,} members before it."
        return Entry(key, {}, None, error=Fault.of(errors.ItemNotFound, detail))

    def _head(self, member: _Member) -> bytes:
        return b"" if member.sparse else self._blob.read_at(member.data_at, min(member.size, formats.HEAD_BYTES))

    def _damaged(self, at: int, what: str) -> Entry:
        fault = Fault.of(errors.DecodeError, f"The tar {what} at byte {at:,}; what comes after cannot be read.")
        return Entry(f"damaged archive at byte {at}", {}, None, error=fault)


class _Seen:
    """The members before a hard link, by name; read when the first link is met, and no further than to the last.

    It keeps places only, of the last _KEPT_MEMBERS members, so that no archive fills the memory.
    """

    def __init__(self, read: Callable[[int], _Member | None]) -> None:
        self._read = read
        self._places: dict[int, int] = {}
        self._at = 0

    def named(self, name: bytes) -> _Member | None:
        """Return the last regular member of that name in what was read, through links to links, or None."""
        for _ in range(_MAX_LINKS):
            place = self._places.get(hash(_bare(name)))
            member = self._read(place) if place is not None else None
            if member is None or _bare(member.name) != _bare(name):
                return None
            if member.type != tarfile.LNKTYPE:
                return member
            name = member.link
        return None

    def read_to(self, end: int) -> Iterator[None]:
        """Read on to the byte `end`, with a pause where that takes long."""
        pace = Pace()
        while self._at < end and (member := self._read(self._at)) is not None:
            place = hash(_bare(member.name))
            # the last of a name is what tar leaves on the disk, unless that is a link to itself
            if member.type != tarfile.LNKTYPE or _bare(member.link) != _bare(member.name):
                self._places.pop(place, None)
                self._places[place] = self._at
            if len(self._places) > _KEPT_MEMBERS:
                del self._places[next(iter(self._places))]
            self._at = member.next_at
            if pace.due():
                yield None


def _header(block: bytes) -> TarHeader:
    header = tar_header(block)
    if header is None:
        raise _Damage("is damaged" if len(block) == TAR_BLOCK else "ends in the middle of a header")
    return header


def _apply_pax(extension: _Extension, data: bytes) -> None:
    """Take name, size and sparseness from pax records, `<length> <keyword>=<value>\\n` each; stop at a broken one."""
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + _MAX_NUMBER_DIGITS)
        length = _number(data[at:space]) if space > 0 else None
        if not length or at + length <= space:
            return
        keyword, equals, value = data[space + 1 : at + length - 1].partition(b"=")
        if not equals:
            return
        if keyword == b"size":
            extension.size = _number(value)
        elif keyword == b"linkpath":
            extension.link = value
        elif keyword == b"path" and not extension.sparse:
            extension.name = value
        elif keyword.startswith(b"GNU.sparse."):
            extension.sparse = True
            if keyword == b"GNU.sparse.name":
                extension.name = value
        at += length


def _number(digits: bytes) -> int | None:
    return int(digits) if digits.isdigit() and len(digits) <= _MAX_NUMBER_DIGITS else None


def _padded(size: int) -> int:
    return -(-size // TAR_BLOCK) * TAR_BLOCK


def _bare(name: bytes) -> bytes:
    """Return a name as tar extracts it: below the current folder."""
    return name.removeprefix(b"./").lstrip(b"/")
