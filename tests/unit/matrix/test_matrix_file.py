"""The file of a collection's vectors: whole or not believed, under a disk budget, shared by processes."""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from imagekin_worker.matrix import file_cache, id_index, lengths
from imagekin_worker.matrix.file import HEADER_BYTES, MAGIC, Damaged, Label, MatrixFile
from imagekin_worker.matrix.file_cache import MatrixCache
from imagekin_worker.matrix.id_index import Names

LABEL = Label("c" * 32, "s" * 16, "float32", 8)
COUNT = 2500
PARTS = ("reciprocals", "names", "order", "sums")


def rows_of(count: int = COUNT, dtype: str = "float32") -> np.ndarray:
    rows = np.random.default_rng(3).standard_normal((count, LABEL.dim)).astype(dtype)
    rows[count // 2 : count // 2 + 1] = 0
    return rows


def names_of(count: int = COUNT) -> Names:
    return id_index.encoded([f"{number:032x}" for number in np.random.default_rng(4).permutation(count).tolist()])


@pytest.fixture
def cache(tmp_path: Path) -> MatrixCache:
    return MatrixCache(tmp_path / "matrices", 1 << 30)


def write(cache: MatrixCache, label: Label = LABEL, count: int = COUNT, revision: int = 7) -> Path:
    rows, names = rows_of(count, label.dtype), names_of(count)
    with cache.writer(label) as writer:
        # pieces that do not end where checksums do
        for at in range(0, count, 700):
            piece = slice(at, at + 700)
            writer.add(names[piece], rows[piece], lengths.inverted(rows[piece]))
        writer.publish(revision)
    [path] = cache.folder.glob(f"{label.collection_id}*.matrix")
    return path


def change(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("count", [0, 1, 1024, COUNT])
def test_what_was_written_is_read(cache: MatrixCache, dtype: str, count: int) -> None:
    label = Label(LABEL.collection_id, LABEL.space_id, dtype, LABEL.dim)
    write(cache, label, count)
    file, rows, names = cache.open(label), rows_of(count, dtype), names_of(count)
    assert file is not None
    assert (len(file), file.revision, cache.revision(label)) == (count, 7, 7)
    for start, stop in [*file.pieces(), (0, count), (count // 3, count // 2)]:
        np.testing.assert_array_equal(file.vectors(start, stop), rows[start:stop])
        np.testing.assert_array_equal(file.reciprocals(start, stop), lengths.inverted(rows[start:stop]))
        np.testing.assert_array_equal(file.names(start, stop), names[start:stop])
        file.release(start, stop)
    some = list(range(0, count, 3))
    np.testing.assert_array_equal(file.take(np.array(some, np.int64)), rows[some])
    wanted = [*names[some].astype(str).tolist(), "f" * 32, "", "x" * 33, "é"]
    assert file.find(id_index.encoded(wanted)).tolist() == [*some, -1, -1, -1, -1]


@pytest.mark.parametrize("part", ["magic", "length", "header", "size", *PARTS])
def test_a_changed_byte_anywhere_is_noticed_at_the_start(cache: MatrixCache, part: str) -> None:
    path = write(cache)
    whole = MatrixFile(path, LABEL)
    if part == "size":
        with path.open("ab") as file:
            file.write(b"x")
    else:
        places = {"magic": 0, "length": len(MAGIC), "header": 60}
        change(path, places[part] if part in places else whole._parts[part][0])
    with pytest.raises(Damaged):
        MatrixFile(path, LABEL)
    assert cache.open(LABEL) is None
    assert not path.exists()
    assert cache.open(LABEL) is None


@pytest.mark.parametrize("row", [0, 1023, 1024, COUNT - 1])
def test_changed_vectors_are_noticed_where_they_are_read(cache: MatrixCache, row: int) -> None:
    path = write(cache)
    change(path, HEADER_BYTES + row * LABEL.row_bytes + 5)
    file = MatrixFile(path, LABEL)
    with pytest.raises(Damaged, match=f"from {row // 1024 * 1024} on"):
        file.vectors(0, COUNT)
    with pytest.raises(Damaged):
        file.take(np.array([row]))
    other = 1500 if row < 1024 else 3
    assert len(file.vectors(other, other + 2)) == 2


@pytest.mark.parametrize("kept", [0, 10, 4096, 50_000])
def test_a_torn_file_is_not_believed(cache: MatrixCache, kept: int) -> None:
    path = write(cache)
    os.truncate(path, kept)
    assert cache.open(LABEL) is None


def test_a_file_of_another_space_or_format_is_not_believed(cache: MatrixCache) -> None:
    path = write(cache)
    for other in (Label(LABEL.collection_id, "t" * 16, "float32", 8), Label(LABEL.collection_id, "s", "float16", 8)):
        with pytest.raises(Damaged, match="another"):
            MatrixFile(path, other)
        assert cache.open(other) is None
    # a later version with a header that is whole
    data = path.read_bytes()
    text = b"{}"
    path.write_bytes(b"imagekin\x03\x00\x00\x00" + struct.pack("<II", 2, zlib.crc32(text)) + text + data[22:])
    assert cache.open(LABEL) is None


def test_what_cannot_be_read_is_not_there(cache: MatrixCache) -> None:
    path = write(cache)
    path.unlink()
    path.mkdir()  # stands for a file of another user's: root may read those
    assert cache.open(LABEL) is None


def test_nothing_is_there_before_it_is_published(cache: MatrixCache) -> None:
    rows, names = rows_of(3), names_of(3)
    with cache.writer(LABEL) as writer:
        writer.add(names, rows, lengths.inverted(rows))
        assert cache.open(LABEL) is None
    assert list(cache.folder.iterdir()) == []


def test_who_has_a_file_open_reads_on(cache: MatrixCache) -> None:
    write(cache)
    old = cache.open(LABEL)
    write(cache, count=10, revision=8)
    new = cache.open(LABEL)
    assert old is not None and new is not None
    np.testing.assert_array_equal(old.vectors(0, COUNT), rows_of())
    assert (len(new), new.revision) == (10, 8)


def test_one_at_a_time_writes(cache: MatrixCache) -> None:
    with cache.turn(LABEL, wait=False) as mine:
        assert mine
        with cache.turn(LABEL, wait=False) as theirs:
            assert not theirs
    with cache.turn(LABEL, wait=True) as mine:
        assert mine


def nobody(_: Iterable[str]) -> set[str]:
    return set()


def test_files_go_with_their_collections_and_the_oldest_past_the_budget(cache: MatrixCache) -> None:
    labels = [Label(letter * 32, "s", "float32", 8) for letter in "abcd"]
    paths = [write(cache, label) for label in labels]
    for age, path in enumerate(paths):
        os.utime(path, (1000 - age, 1000 - age))
    assert cache.open(labels[3]) is not None
    with cache.turn(labels[0], wait=False):
        pass
    assert cache.prune(lambda ids: set(ids) - {"b" * 32}) == 1
    assert [path.exists() for path in paths] == [True, False, True, True]
    size = paths[0].stat().st_size
    assert MatrixCache(cache.folder, 2 * size).prune(set) == 1
    assert [path.exists() for path in paths] == [True, False, False, True]
    assert MatrixCache(cache.folder, 1).prune(set) == 1
    assert [path.exists() for path in paths] == [False, False, False, True]
    assert MatrixCache(cache.folder, 0).prune(set) == 1
    cache.prune(nobody)
    assert list(cache.folder.iterdir()) == []


def test_what_dead_writers_left_goes_in_time(cache: MatrixCache) -> None:
    cache.folder.mkdir()
    old, new = (cache.folder / f".{LABEL.collection_id}.s.matrix.{name}.part" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    long_ago = time.time() - file_cache.ABANDONED_S - 10
    os.utime(old, (long_ago, long_ago))
    assert cache.prune(set) == 0
    assert (old.exists(), new.exists()) == (False, True)


def test_no_folder_is_an_empty_one(tmp_path: Path) -> None:
    cache = MatrixCache(tmp_path / "none", 1)
    assert cache.prune(nobody) == 0
    assert cache.open(LABEL) is None
    assert cache.revision(LABEL) == -1
