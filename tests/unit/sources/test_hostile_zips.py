"""Zips whose members or directories lie."""

from __future__ import annotations

import random
import struct
import tracemalloc
from typing import Any

import pytest

from imagekin import errors
from imagekin.settings import MEGABYTE
from kit.packing import PICTURE, Open, RawZip, assert_resumable, codes, entries_of, zipped


def test_a_nul_does_not_end_a_zip_name(open_upload: Open) -> None:
    assert codes(open_upload(zipped("a.png\0.txt"))) == [("good.png", None), ("a.png\ufffd.txt", "fetch_refused")]


def test_ratio_bombs_fail_alone(open_upload: Open) -> None:
    data = zipped("bomb.png", bytes(20 * MEGABYTE), method=8)
    assert codes(open_upload(data)) == [("good.png", None), ("bomb.png", "decompression_bomb")]
    below_the_floor = zipped("white.bmp", bytes(MEGABYTE), method=8)
    assert codes(open_upload(below_the_floor))[1] == ("white.bmp", None)


def test_a_member_never_gives_more_than_it_announces(open_upload: Open) -> None:
    data = zipped("liar.png", bytes(50 * MEGABYTE), method=8, size=1000)
    source = open_upload(data)
    (_, entry) = entries_of(source)
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
    every: tuple[dict[str, Any], ...] = (
        {"flags": 1}, {"method": 14}, {"offset": 2**31}, {"method": 8, "size": 10**9}, {"local_flags": 1},
    )  # fmt: skip
    for lies in every:
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
