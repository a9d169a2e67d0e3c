"""Files beside images in archives, which become their metadata."""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable

import pytest

from imagekin.settings import MEGABYTE
from imagekin.sources import Source
from imagekin.sources.containers import sidecars
from kit.packing import PICTURE, Open, RawZip, assert_resumable, entries_of, member, tarred

Pack = Callable[[list[tuple[str, bytes]]], bytes]


def as_tar(files: list[tuple[str, bytes]]) -> bytes:
    return tarred(*(member(name, data) for name, data in files))


def as_zip(files: list[tuple[str, bytes]]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return target.getvalue()


@pytest.fixture(params=[as_tar, as_zip], ids=["tar", "zip"])
def pack(request: pytest.FixtureRequest) -> Pack:
    return request.param


def said(source: Source) -> dict[str, object]:
    """Each image's metadata, and "ignored" for what is none."""
    return {entry.key: "ignored" if entry.ignored else entry.metadata for entry in entries_of(source)}


def test_a_shard_of_img2dataset(open_upload: Open, pack: Pack) -> None:
    about = {
        "caption": "a sofa",
        "url": "http://a.org/1",
        "status": "success",
        "similarity": float("nan"),
        "exif": "{}",
    }
    files = [
        ("000000000.jpg", PICTURE),
        ("000000000.json", json.dumps(about).encode()),
        ("000000000.txt", b"a sofa"),
        ("000000001.jpg", PICTURE),
        ("000000001.json", b'{"caption": null}'),
        ("000000001.txt", b"a table\n"),
        ("000000002.jpg", PICTURE),
        ("000000003.txt", b"of a picture that could not be had"),
    ]
    source = open_upload(pack(files))
    assert said(source) == {
        "000000000.jpg": about | {"similarity": None},
        "000000001.jpg": {"caption": None},
        "000000002.jpg": None,
        "000000003.txt": "ignored",
    }
    assert_resumable(source)


def test_names_of_webdataset_end_at_the_first_dot(open_upload: Open, pack: Pack) -> None:
    files = [
        ("shelf/1.left.png", PICTURE), ("shelf/1.right.png", PICTURE), ("shelf/1.json", b'{"n": 1}'),
        ("shelf/1.cls", b"7"), ("v1.2.png", PICTURE), ("v1.2.json", b'{"n": 2}'), ("v1.json", b'{"n": 3}'),
    ]  # fmt: skip
    found = said(open_upload(pack(files)))
    assert found["shelf/1.left.png"] == found["shelf/1.right.png"] == {"n": 1}
    assert found["v1.2.png"] == {"n": 2}
    assert found["shelf/1.cls"] == "ignored"


def test_sidecars_lie_in_any_order(open_upload: Open, pack: Pack) -> None:
    files = [(f"d/{n}.png", PICTURE) for n in range(300)]
    files += [(f"d/{n}.json", json.dumps({"n": n}).encode()) for n in range(300)]
    random.Random(1).shuffle(files)
    found = said(open_upload(pack(files)))
    assert found == {f"d/{n}.png": {"n": n} for n in range(300)}


def test_large_shards_are_read_in_blocks_and_no_name_is_parted(open_upload: Open, pack: Pack) -> None:
    files = [
        each
        for n in range(1500)
        for each in ((f"{n:05}.png", PICTURE), (f"{n:05}.json", b'{"n": %d}' % n), (f"{n:05}.txt", b"%d" % n))
    ]
    source = open_upload(pack(files))
    entries = list(entries_of(source))
    assert [entry.metadata for entry in entries] == [{"n": n, "caption": str(n)} for n in range(1500)]
    for index in (0, 340, 341, 342, 343, 700, 1498, 1499):
        assert list(entries_of(source, entries[index].cursor)) == entries[index + 1 :]


@pytest.mark.parametrize(
    "data",
    [b"[1]", b"{", b'"text"', b"\xff\xfe", b'{"a": "\\u0000"}', b"[" * 50_000, b'{"a": "' + b"x" * (1 << 16) + b'"}'],
    ids=["list", "cut", "text", "bytes", "nul", "deep", "large"],
)
def test_what_cannot_be_used_is_ignored_and_the_image_is_not(open_upload: Open, pack: Pack, data: bytes) -> None:
    files = [("a.png", PICTURE), ("a.json", data), ("b.png", PICTURE), ("b.txt", b"kept")]
    found = said(open_upload(pack(files)))
    assert found == {"a.png": None, "a.json": "ignored", "b.png": {"caption": "kept"}}


def test_text_beside(open_upload: Open, pack: Pack) -> None:
    files = [
        ("a.png", PICTURE), ("a.TXT", b"\xef\xbb\xbfein Stuhl\r\n"), ("b.png", PICTURE), ("b.txt", b""),
        ("c.png", PICTURE), ("c.txt", b"caf\xe9"), ("d.png", PICTURE), ("d.txt", b"a\0b"),
        ("e.png", b""), ("e.txt", b"of a picture that is empty"), ("readme.txt", b"hello"), (".f.txt", b"x"),
        ("f.png", PICTURE), ("x/a.txt", b"elsewhere"),
    ]  # fmt: skip
    found = said(open_upload(pack(files)))
    assert found["a.png"] == {"caption": "ein Stuhl"}
    assert found["e.png"] == {"caption": "of a picture that is empty"}
    assert found["b.png"] == {}
    assert found["c.png"] is found["d.png"] is found["f.png"] is None
    assert {key for key, what in found.items() if what == "ignored"} == {
        "c.txt", "d.txt", "readme.txt", ".f.txt", "x/a.txt",
    }  # fmt: skip


def test_a_sidecar_that_would_explode_is_not_read(open_upload: Open) -> None:
    archive = RawZip()
    archive.add("a.png")
    archive.add("a.json", b" " * (60 * MEGABYTE), method=8)
    archive.add("b.png")
    archive.add("b.json", b'{"a": "' + b" " * (60 * MEGABYTE) + b'"}', method=8, size=100)
    assert said(open_upload(archive.bytes())) == {
        "a.png": None,
        "a.json": "ignored",
        "b.png": None,
        "b.json": "ignored",
    }


def test_links_are_no_sidecars(open_upload: Open) -> None:
    data = tarred(member("a.png"), member("a.json", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"))
    assert said(open_upload(data)) == {"a.png": None, "a.json": "ignored"}


def test_one_name_without_end_is_read_in_blocks_too() -> None:
    from imagekin.sources.base import Entry

    members = [sidecars.Found(Entry(f"a.{n}", {}, None, ignored="a sidecar"), [n]) for n in range(5000)]
    blocks = [block or [] for block in sidecars.blocks(iter(members))]
    assert sum(map(len, blocks)) == 5000
    assert max(map(len, blocks)) < 1200
