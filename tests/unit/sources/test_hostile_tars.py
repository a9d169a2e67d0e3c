"""Tars that are cut off, damaged, or lie in their headers."""

from __future__ import annotations

import tarfile
import tracemalloc

import pytest

from imagekin.settings import MEGABYTE
from kit.packing import PICTURE, Open, assert_resumable, codes, header, member, tarred


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
