"""Collections' matrices over SQL and over their files: always the right answers, whatever became of the file."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from archive import Archive, vector
from sqlalchemy.exc import DataError, OperationalError

from imagekin import collections, compaction, errors, reading, segments, upkeep
from imagekin.types import DType
from imagekin_worker import matrix_cache, matrix_file, residents, scan
from imagekin_worker.matrix_cache import MatrixCache
from imagekin_worker.residents import Residents

DIM = 64
PLENTY = 1 << 30


@pytest.fixture(autouse=True)
def few_changes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residents, "FEWEST_CHANGES", 8)


@pytest.fixture
def archive(database, settings) -> Archive:
    return Archive(database, settings)


@pytest.fixture
def cache(tmp_path: Path) -> MatrixCache:
    return MatrixCache(tmp_path / "matrices", PLENTY)


class Worker:
    """A process's residents; a new one is a process that starts."""

    def __init__(self, archive: Archive, cache: MatrixCache | None, budget_bytes: int = PLENTY) -> None:
        self.archive = archive
        self.residents = Residents(archive.database, budget_bytes, cache=cache)

    def check(self, name: str = "photos", top_k: int = 7) -> None:
        """Assert that searches answer as a loop over all vectors does."""
        collection, contents = self.archive.collection(name), self.archive.contents[name]
        dtype = matrix_file.WIRE[DType(collection.dtype)]
        stored = {key: vector(content).astype(dtype).astype(np.float64) for key, content in contents.items()}
        own = list(contents)[:2]
        queries = np.stack([*(stored[key] for key in own), *np.random.default_rng(5).standard_normal((2, DIM))])
        found = self.residents.search(collection.id, queries.astype(np.float32), top_k)
        for query, answers in zip(queries.astype(np.float32).astype(np.float64), found, strict=True):
            scores = {key: round(float(row @ query / np.linalg.norm(row) / np.linalg.norm(query)), 6)
                      for key, row in stored.items()}  # fmt: skip
            best = sorted(scores, key=lambda key: (-scores[key], key))[:top_k]
            assert [answer.key for answer in answers] == best
            assert [answer.score for answer in answers] == pytest.approx([scores[key] for key in best], abs=2e-6)

    def matrix(self):
        return self.residents.get(self.archive.collection().id)

    def stop(self) -> None:
        self.residents.settle()
        self.residents.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many images each reading of SQL brought."""
    counts: list[int] = []
    changes = reading.changes

    def counted(*args):
        counts.append(0)
        for change in changes(*args):
            counts[-1] += len(change.ids)
            yield change

    monkeypatch.setattr(reading, "changes", counted)
    yield counts


def names(count: int, first: int = 0) -> list[str]:
    return [f"{number:04}" for number in range(first, first + count)]


def the_file(cache: MatrixCache) -> Path:
    [path] = cache.folder.glob("*.matrix")
    return path


@pytest.mark.parametrize("budget", [PLENTY, 1000])
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT16])
def test_a_worker_that_starts_reads_the_file_and_what_changed_since(archive, cache, reads, budget, dtype):
    archive.collection(dtype=dtype)
    archive.embed(names(100), size=16)
    first = Worker(archive, cache, budget)
    first.check()
    first.stop()
    archive.embed(names(5, first=200))
    archive.embed(["0003"], contents={"0003": "other"})
    archive.delete("0007", "0200")
    reads.clear()
    second = Worker(archive, cache, budget)
    second.check()
    # the six, less the deleted one; and then nothing
    assert reads[0] == 5
    second.check()
    assert set(reads[1:]) <= {0}
    matrix = second.matrix()
    assert len(matrix) == 103
    assert (matrix.file is not None) == (budget < PLENTY)
    assert matrix._rows.element_size() == matrix_file.width(1, dtype)
    second.stop()


def test_beyond_the_budget_memory_holds_only_what_changed(archive, cache):
    archive.embed(names(200))
    worker = Worker(archive, cache, budget_bytes=4096)
    worker.check()
    assert worker.residents.nbytes == 0
    archive.embed(["0001"], contents={"0001": "other"})
    archive.delete("0002", "0003")
    worker.check()
    assert len(worker.matrix()) == 198
    # the replaced one comes again, the deleted ones too
    archive.embed(["0001", "0002"], contents={"0001": "third", "0002": "new"})
    archive.delete("0001")
    worker.check()
    assert len(worker.matrix()) == 198
    worker.stop()


def test_a_file_that_much_changed_beside_is_written_anew(archive, cache):
    archive.embed(names(100))
    worker = Worker(archive, cache, budget_bytes=4096)
    worker.check()
    before = the_file(cache).stat().st_ino
    archive.embed(names(20, first=500))
    archive.delete("0000", "0500")
    worker.check()
    worker.residents.settle()
    assert the_file(cache).stat().st_ino != before
    worker.check()
    assert len(worker.matrix().ids) == 0
    assert len(worker.matrix()) == 118
    worker.stop()


def test_a_collection_that_outgrows_memory_goes_to_its_file(archive, cache):
    archive.embed(names(20))
    worker = Worker(archive, cache, budget_bytes=100 * (4 * DIM + 4))
    worker.check()
    assert worker.matrix().file is None
    archive.embed(names(100, first=100))
    worker.check()
    assert worker.matrix().file is not None
    archive.delete(*names(90, first=100))
    worker.check()
    worker.stop()


@pytest.mark.parametrize("budget", [PLENTY, 1000])
@pytest.mark.parametrize("place", [20, matrix_file.HEADER_BYTES + 1000, -3])
def test_a_damaged_file_is_read_from_sql_again(archive, cache, budget, place):
    archive.embed(names(60))
    first = Worker(archive, cache, budget)
    first.check()
    first.stop()
    path = the_file(cache)
    data = bytearray(path.read_bytes())
    data[place] ^= 64
    # as a machine that lost power may leave it: under the right name
    path.unlink()
    path.write_bytes(data)
    second = Worker(archive, cache, budget)
    second.check()
    second.stop()
    label = second.residents._held[archive.collection().id].label
    file = matrix_file.MatrixFile(the_file(cache), label)
    assert len(file.vectors(0, 60)) == 60


def test_a_revision_before_what_is_forgotten_starts_over(archive, cache):
    archive.embed(names(100))
    for budget in (PLENTY, 1000):
        first = Worker(archive, cache, budget)
        first.check()
        first.stop()
        archive.delete(*names(30 if budget == PLENTY else 20, first=0 if budget == PLENTY else 40))
        archive.sql("UPDATE images SET deleted_at = deleted_at - 7200")
        upkeep.Upkeep(archive.database, archive.storage).run(9)
        # of one that slept, and of one that starts with an old file
        first.residents._closed = False
        for worker in (first, Worker(archive, cache, budget)):
            worker.residents._keeper = residents.ThreadPoolExecutor(1)
            worker.check()
            worker.stop()


def test_compaction_changes_nothing(archive, cache, reads):
    for number in range(6):
        archive.embed(names(8, first=10 * number))
    first = Worker(archive, cache)
    first.check()
    first.stop()
    ids = archive.database.read(lambda s: s.scalars(sa.select(segments.Segment.id)).all())
    archive.database.write(compaction.merge, archive.collection().id, ids)
    archive.embed(["new"])
    reads.clear()
    second = Worker(archive, cache)
    second.check()
    assert reads[0] == 1
    second.stop()


def test_matrices_leave_memory_oldest_first_and_come_back_from_their_files(archive, cache, reads):
    for name in ("a", "b", "c"):
        archive.embed(names(50), name=name, contents={key: f"{name} {key}" for key in names(50)})
    room = 2 * 50 * (4 * DIM + 4)
    worker = Worker(archive, cache, budget_bytes=room)
    for name in ("a", "b", "c"):
        worker.check(name)
    assert worker.residents.nbytes <= room
    assert list(worker.residents._held) == [archive.collection(name).id for name in ("b", "c")]
    worker.residents.settle()
    reads.clear()
    worker.check("c")
    worker.residents._keeper.submit(int).result()
    worker.check("a")
    assert sum(reads) == 0
    worker.stop()


def test_without_a_cache_everything_is_in_memory(archive, tmp_path):
    archive.embed(names(50))
    worker = Worker(archive, None, budget_bytes=10)
    worker.check()
    assert len(worker.matrix().ids) == 50
    worker.stop()


def test_a_deleted_collection_is_said_to_be(archive, cache):
    archive.embed(names(20))
    worker = Worker(archive, cache)
    worker.check()
    collection = archive.collection()
    archive.database.write(collections.delete, "ann", "photos")
    with pytest.raises(errors.CollectionDeleted):
        worker.residents.search(collection.id, np.ones((1, DIM), np.float32), 3)
    worker.stop()


def test_what_changes_while_the_file_is_written_is_not_in_it(archive, cache, monkeypatch):
    """A row that is replaced under the writer would be half old and half new, under the old revision."""
    archive.embed(names(100))
    worker = Worker(archive, cache)
    add = matrix_file.Writer.add

    def slow(self, *args):
        archive.embed(["0000"], contents={"0000": "other"})
        worker.residents._held[archive.collection().id].matrix.overwrites += 1
        add(self, *args)

    monkeypatch.setattr(matrix_file.Writer, "add", slow)
    worker.check()
    worker.residents.settle()
    assert list(cache.folder.glob("*.matrix")) == []
    monkeypatch.undo()
    worker.check()
    worker.stop()


@pytest.mark.parametrize("budget", [PLENTY, 1000])
def test_a_full_disk_is_no_reason_to_answer_wrong(archive, cache, monkeypatch, budget):
    archive.embed(names(50))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(matrix_file.Writer, "publish", full)
    worker = Worker(archive, cache, budget)
    if budget == PLENTY:
        worker.check()
        worker.residents.settle()
        worker.check()
    else:
        with pytest.raises(errors.Unavailable, match="No space"):
            worker.check()
    assert not [path for path in cache.folder.iterdir() if path.suffix != ".lock"]
    worker.stop()


PROCESS = """
    import sys
    from pathlib import Path
    import numpy as np
    from imagekin.db import Database
    from imagekin_worker import residents
    from imagekin_worker.matrix_cache import MatrixCache
    residents.FEWEST_CHANGES = 1
    url, folder, collection_id, budget = sys.argv[1:5]
    database, cache = Database(url), MatrixCache(Path(folder), 1 << 30)
"""


def process(script: str, archive: Archive, cache: MatrixCache, budget: int, *args: object) -> subprocess.Popen[str]:
    url = archive.database.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", textwrap.dedent(PROCESS) + textwrap.dedent(script), url, str(cache.folder)]
    return subprocess.Popen(
        [*command, archive.collection().id, str(budget), *map(str, args)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("budget", [PLENTY, 1000])
def test_a_process_killed_before_the_rename_leaves_nothing_that_counts(archive, cache, budget):
    archive.embed(names(60))
    killed = process(
        """
        import os, signal
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        held = residents.Residents(database, int(budget), cache=cache)
        held.get(collection_id)
        held.settle()
        """,
        archive, cache, budget,
    )  # fmt: skip
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    [left] = cache.folder.glob(".*.part")
    assert left.stat().st_size > 60 * 4 * DIM
    worker = Worker(archive, cache, budget)
    worker.check()
    worker.stop()
    assert the_file(cache).stat().st_size > 60 * 4 * DIM


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_processes_that_share_a_folder(archive, cache):
    """Two write and read the same file again and again, one in memory and one from the file, while images come."""
    archive.embed(names(64))
    script = """
        query = np.ones((1, 64), np.float32)
        for round in range(25):
            held = residents.Residents(database, int(budget), cache=cache)
            collection = len(held.get(collection_id))
            found = held.search(collection_id, query, 5)[0]
            assert len(found) == 5 and collection >= 64, (collection, found)
            held.settle()
            held.close()
            if round % 3 == 0:
                for path in Path(folder).glob("*.matrix"):
                    path.unlink(missing_ok=True)
        print("done")
    """
    both = [process(script, archive, cache, budget) for budget in (PLENTY, 1000)]
    number = 100
    while any(one.poll() is None for one in both) and number < 200:
        archive.embed(names(2, first=number))
        number += 2
    assert [one.communicate(timeout=120)[0] for one in both] == ["done\n"] * 2
    worker = Worker(archive, cache)
    worker.check()
    worker.stop()
    assert list(cache.folder.glob(".*.part")) == []


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_memory_is_bounded_whatever_the_collection(archive, cache):
    """120 MB of vectors under a budget of 8 MB, from SQL into the file and through searches."""
    archive.embed(["first"])
    count, dim = 24_000, 1280
    rows = np.random.default_rng(1).standard_normal((count, dim), dtype=np.float32)
    with archive.database.engine.begin() as connection:
        image = connection.execute(sa.text("SELECT * FROM images")).mappings().one()
        segment = connection.execute(sa.text("SELECT * FROM segments")).mappings().one()
        for table in ("images", "thumbnails", "segments"):
            connection.execute(sa.text(f"DELETE FROM {table}"))
        for start in range(0, count, 100):
            name = f"{start:032x}"
            piece = rows[start : start + 100]
            connection.execute(
                sa.insert(segments.Segment),
                dict(segment) | {"id": name, "data": piece.tobytes(), "count": len(piece), "dim": dim},
            )
            about = {key: value for key, value in image.items() if key != "metadata"}
            connection.execute(
                sa.insert(segments.Image),
                [
                    about | {"id": f"f{start + at:031x}", "key": f"{start + at:08}", "segment_id": name, "row": at,
                             "metadata_": {}}
                    for at in range(len(piece))
                ],
            )  # fmt: skip
        connection.execute(sa.text(f"UPDATE collections SET image_count = {count}"))
        connection.execute(sa.text(f"UPDATE spaces SET dim = {dim}"))
    measured = process(
        """
        def now(name="VmRSS"):
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) // 1024
        held = residents.Residents(database, int(budget), cache=cache)
        from imagekin_worker.neighbors import Matrix
        warm = Matrix(1280)
        warm.upsert(["a"] * 9, np.ones((9, 1280), np.float32))
        warm.search(np.ones((4, 1280), np.float32), 10)
        before = now()
        matrix = held.get(collection_id)
        built = now("VmHWM")
        queries = np.load(sys.argv[5])
        for at in range(3):
            found = held.search(collection_id, queries, 10)
        print(len(matrix), built - before, now("VmHWM") - before)
        print(" ".join(one.key for one in found[0]))
        """,
        archive, cache, 8 << 20, _saved(cache.folder.parent / "q.npy", rows[:3]),
    )  # fmt: skip
    out = measured.communicate(timeout=120)[0].splitlines()
    held, building, peak = map(int, out[0].split())
    print(f"building {building} MB, peak {peak} MB of {rows.nbytes >> 20} MB")
    assert held == count
    scores = rows.astype(np.float64) @ rows[0] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[0])
    best = np.lexsort((np.arange(count), -scores.round(6)))[:10]
    assert out[1].split() == [f"{row:08}" for row in best]
    # the blobs of some segments while it is built, a block for each core while it is searched, and names
    assert peak < 60


def _saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_a_group_with_filters_is_one_product(archive, cache, monkeypatch):
    """Each query has its own filter, or none; only a narrow one is searched apart."""
    archive.embed(names(200))
    worker = Worker(archive, cache)
    matrix = worker.matrix()
    scans: list[int] = []
    best = scan.Scanner.best

    def counted(self, queries, *args):
        scans.append(len(queries))
        return best(self, queries, *args)

    monkeypatch.setattr(scan.Scanner, "best", counted)
    key_of = archive.database.read(reading.keys, matrix.ids)
    odd = {id for id, key in key_of.items() if int(key) % 2}
    few = set(list(key_of)[:5])
    queries = np.stack([vector("0001"), vector("0002"), vector("0003"), vector("0004")])
    found = matrix.search(queries, 10, among=[odd, None, set(key_of) - odd, few])
    assert sorted(scans) == [1, 3]
    alone = [matrix.search(queries[at : at + 1], 10, among=[one])[0] for at, one in
             enumerate([odd, None, set(key_of) - odd, few])]  # fmt: skip
    assert found == alone
    assert {int(key_of[one.id]) % 2 for one in found[0]} == {1}
    assert {int(key_of[one.id]) % 2 for one in found[2]} == {0}
    assert {one.id for one in found[3]} == few
    assert key_of[found[0][0].id] == "0001"
    worker.stop()


def test_closing_stops_the_writing(archive, cache, monkeypatch):
    archive.embed(names(60))
    worker = Worker(archive, cache)
    add = matrix_file.Writer.add

    def late(self, *args):
        add(self, *args)
        worker.residents._closed = True

    monkeypatch.setattr(matrix_file.Writer, "add", late)
    monkeypatch.setattr("imagekin_worker.snapshot.CHECKED_ROWS", 16)
    worker.check()
    worker.stop()
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]


def test_a_reading_that_broke_off_leaves_nothing_behind(archive, monkeypatch):
    """What the database runs again after a lost connection begins anew: nothing is there twice."""
    archive.embed(names(40), size=8)
    changes = reading.changes
    readings: list[tuple] = []

    def lost(*args):
        readings.append(args)
        for number, change in enumerate(changes(*args)):
            if len(readings) == 1 and number == 3:
                # as it is seen by who reads a little later
                archive.delete("0000")
                raise OperationalError("", {}, Exception("the server went"), connection_invalidated=True)
            yield change

    monkeypatch.setattr(reading, "changes", lost)
    worker = Worker(archive, None)
    assert len(worker.matrix()) == 39
    assert len(readings) == 2
    worker.check()


def test_a_database_that_goes_while_a_file_is_kept_is_no_later_searchs_trouble(archive, cache, monkeypatch):
    archive.embed(names(40))
    worker = Worker(archive, cache)

    def away(_session, _ids):
        raise DataError("", {}, Exception("gone"))

    monkeypatch.setattr(matrix_cache, "living", away)
    worker.check()
    [held] = worker.residents._held.values()
    assert held.keeping is not None
    concurrent.futures.wait([held.keeping])
    monkeypatch.undo()
    worker.check()
    worker.stop()
