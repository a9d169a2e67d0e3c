"""Archives and folders that mean harm, or are broken."""

from __future__ import annotations

import gzip
import io
import os
import random
import socket
import stat
import struct
import sys
import tarfile
import tempfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from imagekin import errors, sources
from imagekin.config import MEGABYTE, Settings
from imagekin.sources import Entry, Source
from imagekin.storage import Storage

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
        fields = {"flags": 0, "method": 0, "crc": zlib.crc32(data), "packed": len(packed), "size": len(data)}
        fields |= {"mode": 0, "extra": b"", "local_flags": 0} | lies
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


@pytest.fixture
def open_upload(tmp_path: Path) -> Open:
    def opened(data: bytes, **changes: Any) -> Source:
        return upload(data, tmp_path, **changes)

    return opened


@pytest.fixture
def open_folder(tmp_path: Path) -> Open:
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(PICTURE)

    def opened(name: str = "in") -> Source:
        where = Settings(data_dir=tmp_path, source_roots=(str(tmp_path / "root"),))
        return sources.open_source({"type": "folder", "path": str(tmp_path / "root" / name)}, Storage(where), where)

    return opened


def upload(data: bytes, folder: Path, **changes: Any) -> Source:
    where = Settings(data_dir=folder, **changes)
    Storage(where).write("u", [data], 1 << 30)
    return upload_again(folder, **changes)


def upload_again(folder: Path, **changes: Any) -> Source:
    where = Settings(data_dir=folder, **changes)
    return sources.open_source({"type": "upload", "upload_id": "u", "path": "u"}, Storage(where), where)


def codes(source: Source) -> list[tuple[str, str | None]]:
    """Each entry's key and what becomes of it, read where planning has nothing against it."""
    return [(entry.key, outcome(source, entry)) for entry in source.entries()]


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
    entries = list(source.entries())
    for index, entry in enumerate(entries):
        assert list(source.entries(entry.cursor)) == entries[index + 1 :]


# --- names


@pytest.mark.parametrize(
    ("name", "key", "what"),
    [
        ("../../etc/cron.d/evil.png", "etc/cron.d/evil.png", "fetch_refused"),
        ("a/../../evil.png", "a/evil.png", "fetch_refused"),
        ("..\\..\\evil.png", "evil.png", "fetch_refused"),
        ("/etc/evil.png", "etc/evil.png", None),
        ("C:\\evil.png", "C:/evil.png", None),
        ("line\nbreak.png", "line\ufffdbreak.png", "fetch_refused"),
        ("\x1b[2J.png", "\ufffd[2J.png", "fetch_refused"),
        ("x" * 1020 + ".png", "x" * 1020 + ".png", None),
    ],
)
def test_strange_names_are_cleaned_or_refused(open_upload: Open, name: str, key: str, what: str | None) -> None:
    for data in (zipped(name), tarred(member("good.png"), member(name), tar_format=tarfile.PAX_FORMAT)):
        assert codes(open_upload(data)) == [("good.png", None), (key, what)]


def test_absurd_names_fail_alone_and_stay_apart(open_upload: Open) -> None:
    archive = RawZip()
    for name in ("é" * 5_000 + "1.png", "é" * 5_000 + "2.png", "good.png"):
        archive.add(name)
    names = ["x/" * 6_000 + "1.png", "x/" * 6_000 + "2.png", "good.png"]
    for data in (archive.bytes(), tarred(*map(member, names))):
        (first, one), (second, two), good = codes(open_upload(data))
        assert (one, two) == ("fetch_refused", "fetch_refused")
        assert first != second
        assert max(len(first.encode()), len(second.encode())) <= 1024
        assert good == ("good.png", None)


def test_names_that_are_not_utf8_are_read_by_the_old_code_pages(open_upload: Open) -> None:
    assert codes(open_upload(zipped(b"\xff\x81.png", flags=0x800)))[1] == ("\u00a0ü.png", None)
    raw = tarred(member("good.png"), member("caf\udce9.png"))
    assert codes(open_upload(raw))[1] == ("café.png", None)


def test_a_nul_does_not_end_a_zip_name(open_upload: Open) -> None:
    assert codes(open_upload(zipped("a.png\0.txt"))) == [("good.png", None), ("a.png\ufffd.txt", "fetch_refused")]


def test_duplicate_names_are_two_entries(open_upload: Open) -> None:
    for data in (zipped("good.png"), tarred(member("good.png"), member("good.png"))):
        assert codes(open_upload(data)) == [("good.png", None)] * 2


# --- what is no regular file


def test_links_and_devices_in_archives_are_ignored(open_upload: Open) -> None:
    special = [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK]
    archive = RawZip()
    for index, mode in enumerate(special):
        archive.add(f"{index}.png", b"/etc/passwd", mode=mode | 0o777)
    archive.add("folder.png", b"", mode=stat.S_IFDIR | 0o755)
    archive.add("good.png", mode=stat.S_IFREG | 0o644)
    found = [(f"{index}.png", "ignored") for index in range(len(special))]
    assert codes(open_upload(archive.bytes())) == [*found, ("good.png", None)]

    types = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, b"Z", b"V"]
    data = tarred(
        *(member(f"{i}.png", b"", type=kind, linkname="/etc/passwd") for i, kind in enumerate(types)),
        member("folder.png", b"", type=tarfile.DIRTYPE),
        member("good.png"),
    )
    found = [(f"{index}.png", "ignored") for index in range(len(types))]
    assert codes(open_upload(data)) == [*found, ("good.png", None)]
    assert_resumable(open_upload(data))


def test_links_in_folders_stay_below_the_roots(tmp_path: Path, open_folder: Open) -> None:
    folder, root = tmp_path / "root" / "in", tmp_path / "root"
    (root / "beside").mkdir()
    (root / "beside" / "b.png").write_bytes(PICTURE)
    (root / "beside" / "deeper").symlink_to(root / "beside", target_is_directory=True)
    (folder / "good.png").write_bytes(PICTURE)
    targets = {
        "file-in.png": folder / "good.png",
        "file-out.png": tmp_path / "outside" / "secret.png",
        "folder-beside": root / "beside",
        "folder-out": tmp_path / "outside",
        "loop": folder,
        "self.png": folder / "self.png",
        "up": root,
        "void.png": folder / "missing.png",
        "zero.png": Path("/dev/zero"),
    }
    for name, target in targets.items():
        (folder / name).symlink_to(target)
    source = open_folder()
    assert codes(source) == [
        ("file-in.png", None),
        ("file-out.png", "ignored"),
        ("folder-beside/b.png", None),
        ("folder-beside/deeper", "ignored"),
        ("folder-out", "ignored"),
        ("good.png", None),
        ("loop", "ignored"),
        ("self.png", "ignored"),
        ("up", "ignored"),
        ("void.png", "ignored"),
        ("zero.png", "ignored"),
    ]
    assert_resumable(source)


def test_a_doubling_chain_of_links_does_not_make_the_walk_endless(tmp_path: Path, open_folder: Open) -> None:
    for level in range(40):
        (tmp_path / "root" / "in" / f"{level}").mkdir()
        (tmp_path / "root" / f"far{level}").mkdir()
        for name in "ab":
            (tmp_path / "root" / "in" / f"{level}" / name).symlink_to(tmp_path / "root" / "in" / f"{level + 1}")
            (tmp_path / "root" / f"far{level}" / name).symlink_to(tmp_path / "root" / f"far{level + 1}")
    (tmp_path / "root" / "in" / "far").symlink_to(tmp_path / "root" / "far0")
    assert len(codes(open_folder())) < 100


def test_fifos_sockets_and_folders_named_as_images_do_not_hang(tmp_path: Path, open_folder: Open) -> None:
    folder = tmp_path / "root" / "in"
    os.mkfifo(folder / "fifo.png")
    os.mkfifo(folder / "no suffix")
    (folder / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(folder)
        try:
            server.bind("socket.png")
        finally:
            os.chdir(here)
        found = [("fifo.png", "ignored"), ("no suffix", "ignored"), ("socket.png", "ignored")]
        assert codes(open_folder()) == found
    with pytest.raises(errors.SourceUnreadable):
        open_folder("in/fifo.png")


def test_what_a_file_is_counts_when_it_is_read(tmp_path: Path, open_folder: Open) -> None:
    folder = tmp_path / "root" / "in"
    (folder / "sub").mkdir()
    for name in ("a.png", "b.png", "c.png", "sub/d.png"):
        (folder / name).write_bytes(PICTURE)
    source = open_folder()
    refs = {entry.key: entry.ref for entry in source.entries()}
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(tmp_path / "outside" / "secret.png")
    (folder / "b.png").unlink()
    os.mkfifo(folder / "b.png")
    (folder / "c.png").unlink()
    (folder / "c.png").mkdir()
    (folder / "sub").rename(folder / "gone")
    (folder / "sub").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "d.png").write_bytes(PICTURE)
    for ref in refs.values():
        with pytest.raises(errors.FetchRefused):
            source.read(ref)
    with pytest.raises(errors.FetchRefused):
        source.read({"p": "../../outside/secret.png"})


def test_a_link_slipped_in_after_the_check_is_not_followed(
    tmp_path: Path, open_folder: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "root" / "in"
    (folder / "secret.png").write_bytes(PICTURE)
    source = open_folder()
    (entry,) = source.entries()
    folder.rename(tmp_path / "root" / "moved")
    folder.symlink_to(tmp_path / "outside")
    # As if the path had been resolved just before the folder was swapped for a link.
    monkeypatch.setattr("imagekin.sources.roots.os.path.realpath", lambda path: path)
    with pytest.raises(errors.ItemError):
        source.read(entry.ref)


def test_unreadable_folders_fail_as_one_item(tmp_path: Path, open_folder: Open) -> None:
    closed = tmp_path / "root" / "in" / "closed"
    closed.mkdir()
    closed.chmod(0)
    if os.access(closed, os.R_OK):
        pytest.skip("this user may read everything")
    assert codes(open_folder()) == [("closed", "fetch_failed")]
    closed.chmod(0o700)


# --- bombs and lies


def test_ratio_bombs_fail_alone(open_upload: Open) -> None:
    data = zipped("bomb.png", bytes(20 * MEGABYTE), method=8)
    assert codes(open_upload(data)) == [("good.png", None), ("bomb.png", "decompression_bomb")]
    below_the_floor = zipped("white.bmp", bytes(MEGABYTE), method=8)
    assert codes(open_upload(below_the_floor))[1] == ("white.bmp", None)


def test_a_member_never_gives_more_than_it_announces(open_upload: Open) -> None:
    data = zipped("liar.png", bytes(50 * MEGABYTE), method=8, size=1000)
    source = open_upload(data)
    (_, entry) = source.entries()
    tracemalloc.start()
    try:
        with pytest.raises(errors.DecodeError, match="more than the 1,000 bytes"):
            source.read(entry.ref)
        assert tracemalloc.get_traced_memory()[1] < 2 * MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("lies", "what"),
    [
        ({"size": 10**9}, "decode_error"),
        ({"size": 10**9, "method": 8}, "decompression_bomb"),
        ({"size": 5}, "decode_error"),
        ({"size": 5, "method": 8}, "decode_error"),
        ({"size": len(PICTURE) + 1, "method": 8}, "decode_error"),
        ({"packed": 5, "method": 8}, "decode_error"),
        ({"packed": 2**31, "method": 8}, "decode_error"),
        ({"crc": 1}, "decode_error"),
        ({"crc": 1, "method": 8}, "decode_error"),
        ({"method": 12}, "unsupported_format"),
        ({"method": 99}, "unsupported_format"),
        ({"flags": 1}, "unsupported_format"),
        ({"flags": 0x2041}, "unsupported_format"),
        ({"local_flags": 1}, "decode_error"),
        ({"size": 0xFFFFFFFF, "extra": b""}, "decode_error"),
        ({"size": 0xFFFFFFFF, "extra": b"\1\0\x08\0" + b"\xff" * 8, "method": 8}, "decompression_bomb"),
        ({"size": 0xFFFFFFFF, "extra": b"\1\0\xff\xff" + b"\0" * 3}, "decode_error"),
        ({"offset": 3}, "decode_error"),
        ({"offset": 2**32 - 2}, "decode_error"),
        ({"data": b""}, "empty_file"),
    ],
)
def test_lying_members_fail_alone(open_upload: Open, lies: dict[str, Any], what: str) -> None:
    source = open_upload(zipped("liar.png", **lies))
    assert codes(source) == [("good.png", None), ("liar.png", what)]
    assert_resumable(source)


def test_members_without_suffix_that_cannot_be_looked_into_are_ignored(open_upload: Open) -> None:
    for lies in ({"flags": 1}, {"method": 14}, {"offset": 2**31}, {"method": 8, "size": 10**9}, {"local_flags": 1}):
        assert codes(open_upload(zipped("no suffix", **lies)))[1] == ("no suffix", "ignored")


def test_overlapping_members_are_refused(open_upload: Open) -> None:
    kernel = RawZip()
    at = kernel.add("0.png", bytes(100_000), method=8)
    for index in range(1, 500):
        kernel.add(f"{index}.png", bytes(100_000), method=8, offset=at)
    shuffled = RawZip()
    places = [shuffled.add(f"{index}.png", random.Random(index).randbytes(500)) for index in range(10)]
    for index in range(10, 400):
        shuffled.add(f"{index}.png", bytes(400), offset=places[index * 7 % 10])
    for archive in (kernel, shuffled):
        with pytest.raises(errors.SourceUnreadable, match="overlap"):
            codes(open_upload(archive.bytes()))


def test_nested_archives_are_ignored(open_upload: Open) -> None:
    data = zipped("x.png")
    for name in ("inner.zip", "inner"):
        for packed in (data, tarred(member("x.png")), gzip.compress(data)):
            assert codes(open_upload(zipped(name, packed)))[1] == (name, "ignored")
            assert codes(open_upload(tarred(member(name, packed)))) == [(name, "ignored")]


def test_too_many_members_are_refused(open_upload: Open) -> None:
    archive = RawZip()
    for index in range(11):
        archive.add(f"{index}/", b"")
    folders = [member(f"{index}", b"", type=tarfile.DIRTYPE) for index in range(11)]
    for data in (archive.bytes(), tarred(*folders)):
        assert codes(open_upload(data, max_archive_members=11)) == []
    for data in (archive.bytes(), archive.bytes(count=5), tarred(*folders)):
        with pytest.raises(errors.SourceUnreadable):
            codes(open_upload(data, max_archive_members=10))


def test_a_gzip_bomb_stops_at_the_limit_of_uploads(tmp_path: Path) -> None:
    bomb = gzip.compress(tarred(member("bomb.png", bytes(100 * MEGABYTE))), 6)
    assert len(bomb) < MEGABYTE
    storage = Storage(Settings(data_dir=tmp_path))
    with pytest.raises(errors.TooLarge):
        storage.write("u", [bomb], 10 * MEGABYTE)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# --- broken directories


def two_members() -> RawZip:
    archive = RawZip()
    archive.add("a.png")
    archive.add("b.png")
    return archive


@pytest.mark.parametrize(
    ("lies", "reason"),
    [
        ({"count": 3}, "announces 3"),
        ({"count": 1}, "announces 1"),
        ({"size": 2**31}, "cut off"),
        ({"offset": 2**31}, "cut off"),
        ({"disk": 1}, "volume"),
        ({"directory": b"garbage" * 30}, "broken at byte"),
        ({"directory": two_members().directory.getvalue()[:-3]}, "middle of a member"),
        ({"directory": two_members().directory.getvalue() + b"PK\1\2"}, "broken at byte"),
        ({"directory": two_members().directory.getvalue() * 500}, "announces 2"),
    ],
)
def test_broken_directories_are_unreadable(open_upload: Open, lies: dict[str, Any], reason: str) -> None:
    with pytest.raises(errors.SourceUnreadable, match=f"{reason}|overlap" if "announces 2" in reason else reason):
        codes(open_upload(two_members().bytes(**lies)))


def test_cut_off_zips_are_unreadable_wherever_they_are_cut(open_upload: Open) -> None:
    data = two_members().bytes()
    for length in range(4, len(data)):
        with pytest.raises(errors.SourceUnreadable):
            codes(open_upload(data[:length]))


def test_a_false_zip64_directory_is_unreadable(open_upload: Open) -> None:
    data = two_members().bytes()
    for place in (0, len(data), 2**63):
        locator = struct.pack("<4sLQL", b"PK\6\7", 0, place, 1)
        with pytest.raises(errors.SourceUnreadable, match="64-bit"):
            open_upload(data[:-22] + locator + data[-22:])


# --- broken tars


def test_a_cut_off_tar_gives_what_is_whole_and_one_failed_entry(open_upload: Open) -> None:
    data = tarred(member("a.png"), member("b.png", PICTURE * 20), member("c.png"))
    for length in [*range(512, 512 * 6, 37), *range(512, 512 * 6, 512)]:
        source = open_upload(data[:length])
        found = codes(source)
        assert [what for _, what in found[:-1]] == [None] * (len(found) - 1)
        at_an_end = length in range(512 + len(PICTURE), 1025) or length >= 2048 + len(PICTURE * 20)
        assert at_an_end or found[-1][1] == "decode_error"
        assert_resumable(source)
    assert codes(open_upload(data[:1200])) == [("a.png", None), ("damaged archive at byte 1024", "decode_error")]
    assert codes(open_upload(data[:1600])) == [("a.png", None), ("b.png", "decode_error")]


def test_a_damaged_header_ends_a_tar_with_one_failed_entry(open_upload: Open) -> None:
    data = bytearray(tarred(member("a.png"), member("b.png"), member("c.png")))
    data[1024] ^= 1
    source = open_upload(bytes(data))
    assert codes(source) == [("a.png", None), ("damaged archive at byte 1024", "decode_error")]
    assert_resumable(source)


def header(name: str, size: int | bytes, kind: bytes = b"0") -> bytes:
    """A tar header with any size, in octal or as it comes."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "headers",
    [
        header("n.png", b"\xff" * 12),
        header("n.png", b"\xff" * 11 + b"\0"),
        header("n.png", b"-0000000010\0"),
        header("n.png", b"0000_000010\0"),
        header("n.png", b"\x80" + b"\xff" * 11),
        header("n.png", 8**11 - 1),
        header("n", 8**11 - 1, b"L"),
        header("n", 8**11 - 1, b"x"),
        header("n", 8**11 - 1, b"g"),
        header("n", 2 * MEGABYTE, b"L") + bytes(2 * MEGABYTE),
        (header("n", 2, b"L") + b"n\0" + bytes(510)) * 3000,
        (header("n", 0, b"x")) * 3000,
        header("n.png", b"\x80" + b"\xff" * 11, b"Z"),
    ],
)
def test_lying_tar_headers_end_the_archive_and_nothing_else(open_upload: Open, headers: bytes) -> None:
    data = tarred(member("good.png"))[:1024] + headers + tarred(member("after.png"))
    source = open_upload(data)
    tracemalloc.start()
    try:
        found = codes(source)
        assert tracemalloc.get_traced_memory()[1] < 2 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert found[0] == ("good.png", None)
    assert [what for _, what in found[1:]] in (["decode_error"], ["ignored"])
    assert_resumable(source)


@pytest.mark.parametrize(
    "records",
    [
        b"",
        b"x",
        b"9999999999999999999 path=a\n",
        b"0 path=a\n",
        b"-5 path=a\n",
        b"30 path",
        b"9" * 5000,
        b"8 =path\n",
        b"14 size=\xff\xff\xff\xff\xff\n",
        b"11 size=-5\n",
        b"6 \xff\xff\n",
        b" " * 3000,
    ],
)
def test_broken_pax_records_are_passed_over(open_upload: Open, records: bytes) -> None:
    extended = header("pax", len(records), b"x") + records + bytes(-len(records) % 512)
    assert codes(open_upload(extended + tarred(member("good.png")))) == [("good.png", None)]


def test_sparse_members_fail_alone(open_upload: Open) -> None:
    old = bytearray(tarred(member("old.png"), member("good.png")))
    old[:512] = header("old.png", len(PICTURE), b"S")
    pax = tarred(
        member("GNUSparseFile.0/new.png", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.name": "new.png"}),
        member("good.png"),
        tar_format=tarfile.PAX_FORMAT,
    )
    assert codes(open_upload(bytes(old))) == [("old.png", "unsupported_format"), ("good.png", None)]
    assert codes(open_upload(pax)) == [("new.png", "unsupported_format"), ("good.png", None)]


# --- size


def hundred_thousand_in_a_zip() -> bytes:
    archive = RawZip()
    for index in range(100_000):
        archive.add(f"folder/{index:06}.jpg", b"x")
    return struct_zip64(archive)


def struct_zip64(archive: RawZip) -> bytes:
    """Close an archive that has more members than 16 bits count."""
    at, size = archive.body.tell(), len(archive.directory.getvalue())
    counts = archive.count, archive.count, size, at
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, *counts)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at + size, 1)
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return archive.body.getvalue() + archive.directory.getvalue() + end + locator + tail


def hundred_thousand_in_a_tar() -> bytes:
    target = io.BytesIO()
    block = header("folder/000000.jpg", 1)
    checksum = int(block[148:154], 8)
    for index in range(100_000):
        digits = b"%06d" % index
        fields = b"%06o\0 " % (checksum + sum(digits) - sum(b"000000"))
        target.write(block[:7] + digits + block[13:148] + fields + block[156:] + bytes(512))
    return target.getvalue()


@pytest.mark.parametrize("make", [hundred_thousand_in_a_zip, hundred_thousand_in_a_tar])
def test_a_hundred_thousand_members_are_planned_in_little_memory(
    make: Callable[[], bytes], tmp_path: Path, open_upload: Open
) -> None:
    data = make()
    source = open_upload(data)
    before, most, cursors = sys.getallocatedblocks(), 0, []
    for index, entry in enumerate(source.entries()):
        if index % 5_000 == 0:
            most = max(most, sys.getallocatedblocks() - before)
            cursors.append(entry.cursor)
    assert index == 99_999
    assert most < 5_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in upload_again(tmp_path).entries(cursors[-1])) == 4_999
        assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    finally:
        tracemalloc.stop()


# --- whatever else comes


def valid_zip() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for index, name in enumerate(("a.png", "b/", "b/c.png", "text.txt", "no suffix", "é.png")):
            archive.writestr(name, PICTURE if index != 3 else b"text", 8 if index % 2 else 0)
        archive.comment = b"comment"
    return target.getvalue()


def valid_tar(tar_format: int) -> bytes:
    folder = tarfile.TarInfo("b")
    folder.type = tarfile.DIRTYPE
    link, _ = member("link.png", b"", type=tarfile.SYMTYPE, linkname="a.png")
    names = ("a.png", "b/" + "c" * 150 + ".png", "no suffix", "é.png")
    return tarred((folder, b""), (link, b""), *map(member, names), tar_format=tar_format)


SEEDS = [valid_zip(), valid_tar(tarfile.GNU_FORMAT), valid_tar(tarfile.PAX_FORMAT)]
EDGES = [b"\0", b"\xff", b"\x80", b"\0\0\0\0", b"\xff\xff", b"\xff\xff\xff\xff", b"PK\5\6", b"PK\1\2", b"0", b"7" * 11]


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.sampled_from(EDGES) | st.binary(min_size=1, max_size=8))
        match draw(st.sampled_from(["put", "insert", "remove", "repeat", "cut"])):
            case "put":
                data[at : at + len(piece)] = piece
            case "insert":
                data[at:at] = piece
            case "remove":
                del data[at : at + draw(st.integers(1, 1024))]
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 1024))]
            case "cut":
                del data[max(at, 1) :]
    if data[148:156] and data[257:262] == b"ustar" and draw(st.booleans()):
        # A checksum that fits lets a lie in the first header through to what reads it.
        data[148:156] = b"%06o\0 " % (sum(data[:148]) + 256 + sum(data[156:512]))
    return bytes(data)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=mutations())
def test_no_mutation_of_an_archive_raises_anything_of_its_own(data: bytes, scratch: Path) -> None:
    try:
        source = upload(data, scratch)
        found = codes(source)
    except errors.ImagekinError as error:
        assert isinstance(error, errors.SourceUnreadable | errors.BadRequest)
        return
    assert len(found) <= len(data)
    assert_resumable(source)


# Neither hidden names nor ones that tarfile cuts.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters=".\0"), max_size=120)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=600)), max_size=8),
    st.sampled_from([0, 1, 2]),
)
def test_tar_agrees_with_tarfile(scratch: Path, files: list[tuple[str, bytes]], tar_format: int) -> None:
    files = [(f"x{index}{name}p.png", data) for index, (name, data) in enumerate(files)]
    try:
        data = tarred(*(member(*file) for file in files), tar_format=tar_format)
    except (ValueError, UnicodeError):
        return
    source = upload(data, scratch)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [info.offset_data for info in archive if info.size and info.isfile()]
    entries = [entry for entry in source.entries() if entry.ref and entry.ref["s"]]
    assert [entry.ref["o"] for entry in entries] == expected
