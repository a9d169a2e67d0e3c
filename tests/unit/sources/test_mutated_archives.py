"""Archives of chance: whatever comes, no error but the service's own."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagekin import errors
from kit.packing import PICTURE, assert_resumable, codes, entries_of, member, tarred, upload


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
    entries = [entry for entry in entries_of(source) if entry.ref and entry.ref["s"]]
    assert [entry.ref["o"] for entry in entries] == expected
