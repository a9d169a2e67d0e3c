"""Names in encodings that nothing tells, and names that stand somewhere else: no member is lost, no byte of a name."""

from __future__ import annotations

import os
import struct
import tarfile
import zlib
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from imagekin import sources
from imagekin.schemas import keys
from imagekin.settings import Settings
from imagekin.uploads.files import Storage
from kit.packing import PICTURE, Open, RawZip, assert_resumable, codes, entries_of, member, tarred

JAPANESE = ("表.png", "ソファ.png", "写真/能面.png", "猫.png", "機能表", "予定/.png", "ミ.jpg")


def unicode_path(legacy: bytes, name: bytes, version: int = 1) -> bytes:
    """Write the field 0x7075, which has a name in UTF-8 beside that of the header."""
    body = struct.pack("<BL", version, zlib.crc32(legacy)) + name
    return struct.pack("<2H", 0x7075, len(body)) + body


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("cp932", JAPANESE),
        ("big5", ("許功蓋.png", "餐廳/閱覽.png", "功")),
        ("gbk", ("乗.png", "照片/誠.png", "沙发.png")),
        ("cp949", ("가구.png", "소파/의자.png")),
        ("cp1251", ("диван.png", "мебель/стол.png")),
        ("cp437", ("Köln.png", "Möbel/Stühle.png")),
    ],
)
def test_zip_names_of_any_encoding_are_members_and_give_their_bytes_back(
    open_upload: Open, encoding: str, names: tuple[str, ...]
) -> None:
    archive = RawZip()
    for number, name in enumerate(names):
        archive.add(name.encode(encoding), PICTURE + bytes([number]))
    source = open_upload(archive.bytes())
    found = codes(source)
    shown = [name for name in names if not name.endswith("/.png")]
    assert [key for key, what in found if what is None] != []
    assert len({key for key, _ in found}) == len(names)
    assert [what for _, what in found] == [None if name in shown else "ignored" for name in names]
    for name, (key, _) in zip(names, found, strict=True):
        assert key.replace("%5C", "\\").encode("cp437").decode(encoding).replace("\\", "/") == name.replace("\\", "/")
    assert_resumable(source)


def test_a_backslash_that_parts_folders_still_does(open_upload: Open) -> None:
    archive = RawZip()
    for name in (b"photos\\a.png", b"f\x81r\\K\x94ln\\b.png", b"folder\\", "über\\c.png".encode()):
        archive.add(name)
    assert codes(open_upload(archive.bytes())) == [
        ("photos/a.png", None),
        ("für/Köln/b.png", None),
        ("über/c.png", None),
    ]


def test_the_unicode_path_field_names_a_member(open_upload: Open) -> None:
    archive = RawZip()
    for name in ("七房.png", "八房.png", "sofas/九房.png"):
        archive.add(b"__.png", extra=unicode_path(b"__.png", name.encode()))
    archive.add(b"__.txt", extra=b"\x55\x54\1\0\0" + unicode_path(b"__.txt", "十房.png".encode()))
    found = ["七房.png", "八房.png", "sofas/九房.png", "十房.png"]
    assert codes(open_upload(archive.bytes())) == [(name, None) for name in found]


@pytest.mark.parametrize(
    "extra",
    [
        unicode_path(b"old.png", "七.png".encode()),
        unicode_path(b"a.png", "七.png".encode(), version=2),
        unicode_path(b"a.png", b"\xff\xfe.png"),
        unicode_path(b"a.png", b""),
        unicode_path(b"a.png", "七.png".encode())[:6],
        b"\x75\x70\xff\xff\1",
    ],
    ids=["of another name", "of another version", "not UTF-8", "empty", "cut off", "longer than it is"],
)
def test_a_unicode_path_field_that_is_not_of_this_name_is_not_looked_at(open_upload: Open, extra: bytes) -> None:
    archive = RawZip()
    archive.add(b"a.png", extra=extra)
    assert codes(open_upload(archive.bytes())) == [("a.png", None)]


def test_a_unicode_path_leads_nowhere_else_than_a_name_does(open_upload: Open) -> None:
    archive = RawZip()
    archive.add(b"a.png", extra=unicode_path(b"a.png", b"../../up.png"))
    archive.add(b"b.png", extra=unicode_path(b"b.png", b".hidden.png"))
    assert codes(open_upload(archive.bytes())) == [("up.png", "fetch_refused"), (".hidden.png", "ignored")]


def test_a_name_that_says_it_is_utf8_needs_no_field(open_upload: Open) -> None:
    archive = RawZip()
    archive.add("ü.png", flags=0x800, local_flags=0x800, extra=unicode_path("ü.png".encode(), "七.png".encode()))
    assert codes(open_upload(archive.bytes())) == [("ü.png", None)]


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_tar_names_of_any_encoding_are_members_and_give_their_bytes_back(open_upload: Open, tar_format: int) -> None:
    raw = [name.encode("cp932") for name in JAPANESE if not name.endswith("/.png")]
    raw += [b"caf\xe9.png", b"\x81ber.png", b"100%41\x81.png"]
    data = tarred(*(member(os.fsdecode(name)) for name in raw), tar_format=tar_format)
    source = open_upload(data)
    found = codes(source)
    assert [what for _, what in found] == [None] * len(raw)
    assert [unquote_to_bytes(key.encode("latin-1")) for key, _ in found] == raw
    assert "café.png" in [key for key, _ in found]


def test_files_of_a_folder_whose_names_are_not_utf8_are_read(tmp_path: Path) -> None:
    raw = [b"caf\xe9.png", b"\x81ber.png", "表.png".encode("cp932"), "über.png".encode()]
    folder = tmp_path / "in"
    folder.mkdir()
    for name in raw:
        (folder / os.fsdecode(name)).write_bytes(PICTURE)
    where = Settings(data_dir=tmp_path / "data", source_roots=(str(folder),))
    source = sources.open_source({"type": "folder", "path": str(folder)}, Storage(where), where)
    found = codes(source)
    assert [what for _, what in found] == [None] * len(raw)
    assert {unquote_to_bytes(key.encode("latin-1")) for key, _ in found if key != "über.png"} == set(raw[:3])


def test_text_of_bytes_is_a_key_and_loses_none_of_them() -> None:
    for first in range(0x80, 0x100):
        for second in (0x2E, 0x40, 0x5C, 0x80, 0xE9):
            name = bytes([0x61, first, second, 0x62, 0xFF])
            assert unquote_to_bytes(keys.of_bytes(name).encode("latin-1")) == name
            assert keys.normalize(keys.of_bytes(name))
            assert keys.of_zip_bytes(name).replace("%5C", "\\").encode("cp437") == name
            assert keys.normalize(keys.of_zip_bytes(name))


# --- hard links ------------------------------------------------------------------------------------------------


def link(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, b"", type=kind, linkname=target)


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_a_hard_link_in_a_tar_is_the_member_that_it_points_to(open_upload: Open, tar_format: int) -> None:
    long = "p" * 60 + "/" + "q" * 90 + ".png"
    data = tarred(
        member("pics/a.png", PICTURE),
        link("pics/a_again.png", "pics/a.png"),
        link("chain.png", "pics/a_again.png"),
        member(long if tar_format != tarfile.USTAR_FORMAT else "short.png", PICTURE + b"2"),
        link("of_long.png", long if tar_format != tarfile.USTAR_FORMAT else "short.png"),
        member("no suffix", PICTURE + b"3"),
        link("also none", "no suffix"),
        member("notes.md", b"text"),
        link("more.md", "notes.md"),
        tar_format=tar_format,
    )
    source = open_upload(data)
    found = {entry.key: source.read(entry.ref) for entry in entries_of(source) if not entry.ignored}
    assert found["pics/a_again.png"] == found["chain.png"] == found["pics/a.png"] == PICTURE
    assert found["of_long.png"] == PICTURE + b"2"
    assert found["also none"] == PICTURE + b"3"
    assert "more.md" not in found
    assert_resumable(source)


def test_a_hard_link_points_to_the_last_member_of_its_name_before_it(open_upload: Open) -> None:
    data = tarred(
        member("./a.png", PICTURE + b"1"),
        link("one.png", "a.png"),
        member("a.png", PICTURE + b"2"),
        link("two.png", "./a.png"),
        link("a.png", "a.png"),
        member("a.png", PICTURE + b"3"),
    )
    source = open_upload(data)
    assert [source.read(entry.ref)[-1:] for entry in entries_of(source)] == [b"1", b"1", b"2", b"2", b"2", b"3"]


def test_hard_links_to_what_is_not_there_fail_by_name(open_upload: Open) -> None:
    data = tarred(
        link("early.png", "late.png"),
        link("outside.png", "/etc/passwd"),
        link("round.png", "round.png"),
        link("soft.png", "elsewhere", tarfile.SYMTYPE),
        link("of_soft.png", "soft.png"),
        link(".hidden.png", "nowhere"),
        link("notes", "nowhere"),
        member("late.png"),
    )
    assert codes(open_upload(data)) == [
        ("early.png", "not_found"), ("outside.png", "not_found"), ("round.png", "not_found"), ("soft.png", "ignored"),
        ("of_soft.png", "ignored"), (".hidden.png", "ignored"), ("notes", "ignored"), ("late.png", None),
    ]  # fmt: skip
    (first, *_) = entries_of(open_upload(data))
    assert first.error is not None
    assert "'late.png'" in first.error.detail
