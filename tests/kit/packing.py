"""Archives in which any field can lie, and what becomes of their entries."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from imagekin import errors, sources
from imagekin.settings import Settings
from imagekin.sources import Entry, Source
from imagekin.uploads.files import Storage

Open = Callable[..., Source]


def picture() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (3, 2), (5, 7, 9)).save(target, "PNG")
    return target.getvalue()


PICTURE = picture()


class RawZip:
    """A zip written field by field, so that any of them can lie."""

    def __init__(self) -> None:
        self.body = io.BytesIO()
        self.directory = io.BytesIO()
        self.count = 0

    def add(self, name: str | bytes, data: bytes = PICTURE, *, offset: int | None = None, **lies: Any) -> int:
        raw = name.encode() if isinstance(name, str) else name
        deflated = lies.get("method", 0) == 8
        packed = zlib.compress(data, 9, wbits=-15) if deflated else data
        fields: dict[str, Any] = {"flags": 0, "method": 0, "crc": zlib.crc32(data), "packed": len(packed)}
        fields |= {"size": len(data), "mode": 0, "extra": b"", "local_flags": 0} | lies
        at = self.body.tell() if offset is None else offset
        sizes = fields["crc"], fields["packed"], fields["size"]
        if offset is None:
            local = (fields["local_flags"], fields["method"], 0, 0, *sizes, len(raw), 0)
            self.body.write(struct.pack("<4s5H3L2H", b"PK\3\4", 20, *local) + raw + packed)
        record = (20, 3, 20, 0, fields["flags"], fields["method"], 0, 0, *sizes, len(raw), len(fields["extra"]), 0)
        self.directory.write(struct.pack("<4s4B4H3L3H", b"PK\1\2", *record))
        self.directory.write(struct.pack("<2H2L", 0, 0, fields["mode"] << 16, at) + raw + fields["extra"])
        self.count += 1
        return at

    def bytes(self, **lies: Any) -> bytes:
        directory = lies.get("directory", self.directory.getvalue())
        end = {"count": self.count, "size": len(directory), "offset": self.body.tell(), "disk": 0} | lies
        counts = end["count"] & 0xFFFF, end["count"] & 0xFFFF
        tail = struct.pack("<4s4H2LH", b"PK\5\6", end["disk"], 0, *counts, end["size"], end["offset"], 0)
        return self.body.getvalue() + directory + tail


def zipped(name: str | bytes, data: bytes = PICTURE, **lies: Any) -> bytes:
    archive = RawZip()
    archive.add("good.png")
    archive.add(name, data, **lies)
    return archive.bytes()


def tarred(*members: tuple[tarfile.TarInfo, bytes], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tar_format) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return target.getvalue()


def member(name: str, data: bytes = PICTURE, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def upload(data: bytes, folder: Path, **changes: Any) -> Source:
    where = Settings(data_dir=folder, **changes)
    Storage(where).write("u", [data], 1 << 30)
    return upload_again(folder, **changes)


def upload_again(folder: Path, **changes: Any) -> Source:
    where = Settings(data_dir=folder, **changes)
    return sources.open_source({"type": "upload", "upload_id": "u", "path": "u"}, Storage(where), where)


def entries_of(source: Source, cursor: Any | None = None) -> Iterator[Entry]:
    """Yield a source's entries, without the pauses that planning makes on a busy machine."""
    return (each for each in source.entries(cursor) if isinstance(each, Entry))


def codes(source: Source) -> list[tuple[str, str | None]]:
    """Each entry's key and what becomes of it, read where planning has nothing against it."""
    return [(entry.key, outcome(source, entry)) for entry in entries_of(source)]


def outcome(source: Source, entry: Entry) -> str | None:
    if entry.ignored:
        return "ignored"
    if entry.error:
        return entry.error.code
    try:
        source.read(entry.ref)
    except errors.ItemError as error:
        return error.code
    return None


def assert_resumable(source: Source) -> None:
    entries = list(entries_of(source))
    for index, entry in enumerate(entries):
        assert list(entries_of(source, entry.cursor)) == entries[index + 1 :]


def header(name: str, size: int | bytes, kind: bytes = b"0") -> bytes:
    """A tar header with any size, in octal or as it comes."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
