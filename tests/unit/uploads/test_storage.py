from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import os
import random
import resource
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagekin import errors
from imagekin.settings import Settings
from imagekin.uploads.files import Storage, Stored

MAX_BYTES = 1 << 24


@pytest.fixture(params=["file", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    url = (tmp_path / "a %20 b").as_uri() if request.param == "file" else f"memory://{tmp_path.name}"
    return Storage(Settings(storage_url=url))


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    return Storage(Settings(data_dir=tmp_path))


def tar_bytes(count: int = 3, size: int = 10_000) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for index in range(count):
            member = tarfile.TarInfo(f"{index}.bin")
            member.size = size
            archive.addfile(member, io.BytesIO(random.Random(index).randbytes(size)))
    return target.getvalue()


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def stored(storage: Storage, name: str) -> bytes:
    with storage.open(name) as file:
        return file.read()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_write_keeps_the_bytes_and_tells_hash_and_size(storage: Storage) -> None:
    data = random.Random(0).randbytes(3_000_000)
    for stream in (io.BytesIO(data), pieces(data, 70_001), [data]):
        assert storage.write("uploads/a", stream, MAX_BYTES) == Stored(hashlib.sha256(data).hexdigest(), len(data))
        assert stored(storage, "uploads/a") == data


def test_open_gives_a_reader_that_seeks(storage: Storage) -> None:
    storage.write("a", [b"0123456789"], MAX_BYTES)
    with storage.open("a") as file:
        file.seek(7)
        assert file.read(2) == b"78"


def test_missing_files_are_expired_uploads_and_deleting_twice_is_nothing(storage: Storage) -> None:
    storage.write("a", [b"1"], MAX_BYTES)
    assert storage.exists("a")
    storage.delete("a")
    storage.delete("a")
    assert not storage.exists("a")
    with pytest.raises(errors.UploadExpired):
        storage.open("a")


def test_too_large_leaves_nothing_behind(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(errors.TooLarge, match="1,000 bytes"):
        storage.write("a", pieces(bytes(1001), 100), 1000)
    assert not storage.exists("a")
    assert files(tmp_path) == []
    assert storage.write("a", [bytes(1000)], 1000).size == 1000


def test_a_failing_stream_leaves_the_old_file_whole(storage: Storage) -> None:
    def breaking() -> Iterator[bytes]:
        yield b"new"
        raise ConnectionResetError("the client went away")

    storage.write("a", [b"old"], MAX_BYTES)
    with pytest.raises(ConnectionResetError):
        storage.write("a", breaking(), MAX_BYTES)
    assert stored(storage, "a") == b"old"


def test_unfinished_files_are_hidden_and_removed_when_abandoned(local: Storage, tmp_path: Path) -> None:
    seen: list[Path] = []

    def watching() -> Iterator[bytes]:
        yield b"1"
        seen.extend(files(tmp_path))
        yield b"2"

    local.write("uploads/a", watching(), MAX_BYTES)
    assert [path.suffix for path in seen] == [".part"]
    assert [path.name for path in files(tmp_path)] == ["a"]
    seen[0].write_bytes(b"left by a killed process")
    assert local.remove_abandoned(older_than_s=3600) == 0
    os.utime(seen[0], (0, 0))
    assert local.remove_abandoned(older_than_s=3600) == 1
    assert [path.name for path in files(tmp_path)] == ["a"]


def test_no_room_is_unavailable(local: Storage, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(errors.Unavailable, match="full"):
            local.write("a", pieces(bytes(200_000), 30_000), MAX_BYTES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["", "../a", "a/../b", "/a", ".a", "a/.b", "a b", "a//b", "a\n"])
def test_only_names_of_ours_are_taken(local: Storage, name: str) -> None:
    for call in (local.open, local.exists, local.delete):
        with pytest.raises(errors.ImagekinError, match="not a name"):
            call(name)
    with pytest.raises(errors.ImagekinError, match="not a name"):
        local.write(name, [b""], MAX_BYTES)


@pytest.mark.parametrize("piece", [1, 17, 100_000])
def test_a_gzipped_tar_is_stored_as_tar(storage: Storage, piece: int) -> None:
    plain = tar_bytes()
    sent = gzip.compress(plain)
    result = storage.write("a", pieces(sent, piece), MAX_BYTES)
    assert result == Stored(hashlib.sha256(sent).hexdigest(), len(plain))
    assert stored(storage, "a") == plain


@pytest.mark.parametrize("piece", [1, 4099, 1_000_000])
@pytest.mark.parametrize("cuts", [(20_000,), (600, 601, 9000)])
def test_gzip_members_are_joined_and_what_trails_is_dropped(local: Storage, cuts: tuple[int, ...], piece: int) -> None:
    plain = tar_bytes()
    edges = [0, *cuts, len(plain)]
    sent = b"".join(gzip.compress(plain[a:b]) for a, b in itertools.pairwise(edges))
    for trailing in (b"", bytes(1000), b"\x1f", b"some text"):
        data = sent + trailing
        result = local.write("a", pieces(data, piece), MAX_BYTES)
        assert result.sha256 == hashlib.sha256(data).hexdigest()
        assert stored(local, "a") == plain


def test_the_limit_is_on_the_decompressed_tar(local: Storage, tmp_path: Path) -> None:
    plain = tar_bytes(count=1, size=0) + bytes(50_000_000)
    with pytest.raises(errors.TooLarge):
        local.write("a", [gzip.compress(plain, 1)], 1_000_000)
    assert files(tmp_path) == []
    assert local.write("a", [gzip.compress(plain, 1)], len(plain)).size == len(plain)


def test_a_compressed_tar_that_ends_in_a_run_is_stored_to_its_last_byte(local: Storage) -> None:
    for extra in range(1_048_576 - 300, 1_048_576 + 300, 37):
        plain = tar_bytes(count=1, size=100) + bytes(extra)
        assert local.write("a", [gzip.compress(plain, 9)], MAX_BYTES).size == len(plain)


@pytest.mark.parametrize("break_it", [lambda d: d[:-1], lambda d: d[:-9], lambda d: d[:-8] + b"\0\0\0\0" + d[-4:]])
def test_broken_gzip_of_a_tar_is_a_bad_request(
    local: Storage, tmp_path: Path, break_it: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(errors.BadRequest, match="gzip"):
        local.write("a", [break_it(gzip.compress(tar_bytes()))], MAX_BYTES)
    assert files(tmp_path) == []


@pytest.mark.parametrize("plain", [b"", b"just text", b"long text " * 1000])
def test_other_gzipped_data_is_stored_as_it_came(local: Storage, plain: bytes) -> None:
    sent = gzip.compress(plain)
    assert local.write("a", pieces(sent, 7), MAX_BYTES).size == len(sent)
    assert stored(local, "a") == sent


def test_probing_gzip_that_never_gives_anything_stays_small(local: Storage) -> None:
    sent = gzip.compress(b"") * 200_000
    assert local.write("a", pieces(sent, 65_536), MAX_BYTES).size == len(sent)
