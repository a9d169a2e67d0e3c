"""What zips and tars share that means harm: names, links, archives in archives, very many members."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from imagekin import errors
from imagekin.settings import MEGABYTE, Settings
from imagekin.uploads.files import Storage
from kit.packing import Open, RawZip, assert_resumable, codes, entries_of, header, member, tarred, upload_again, zipped


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


def test_duplicate_names_are_two_entries(open_upload: Open) -> None:
    for data in (zipped("good.png"), tarred(member("good.png"), member("good.png"))):
        assert codes(open_upload(data)) == [("good.png", None)] * 2


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
    found = [(f"{index}.png", "not_found" if index == 1 else "ignored") for index in range(len(types))]
    assert codes(open_upload(data)) == [*found, ("good.png", None)]
    assert_resumable(open_upload(data))


def test_nested_archives_are_ignored(open_upload: Open) -> None:
    data = zipped("x.png")
    for name in ("inner.zip", "inner"):
        for packed in (data, tarred(member("x.png")), gzip.compress(data)):
            assert codes(open_upload(zipped(name, packed)))[1] == (name, "ignored")
            assert codes(open_upload(tarred(member("good.png"), member(name, packed))))[1] == (name, "ignored")


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
    before, most, cursors, index = sys.getallocatedblocks(), 0, [], -1
    for index, entry in enumerate(entries_of(source)):
        if index % 5_000 == 0:
            most = max(most, sys.getallocatedblocks() - before)
            cursors.append(entry.cursor)
    assert index == 99_999
    assert most < 15_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in entries_of(upload_again(tmp_path), cursors[-1])) == 4_999
        assert tracemalloc.get_traced_memory()[1] < 3 * MEGABYTE
    finally:
        tracemalloc.stop()
