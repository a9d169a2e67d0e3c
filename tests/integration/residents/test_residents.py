"""Collections' matrices in memory and over their files: always the right answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from imagekin import errors
from imagekin.database import tables
from imagekin.enums import DType
from imagekin.maintenance import collection_deletion, compaction, upkeep
from imagekin.store import reading
from imagekin_worker.matrix import file, loaded, scan
from imagekin_worker.matrix import view as views
from imagekin_worker.matrix.file_cache import MatrixCache
from kit.hand import Hand, vector
from kit.processes import DIM, PLENTY, Worker, names


@pytest.mark.parametrize("budget", [PLENTY, 1000])
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT16])
def test_a_worker_that_starts_reads_the_file_and_what_changed_since(
    hand: Hand, cache: MatrixCache, reads: list[int], budget: int, dtype: str, view: str
) -> None:
    hand.collection(dtype=dtype)
    hand.embed(names(100), size=16)
    first = Worker(hand, cache, budget, view)
    first.check()
    first.stop()
    hand.embed(names(5, first=200))
    hand.embed(["0003"], contents={"0003": "other"})
    hand.delete("0007", "0200")
    reads.clear()
    second = Worker(hand, cache, budget, view)
    second.check()
    # the six, less the deleted one; and then nothing
    assert reads[0] == 5
    second.check()
    assert set(reads[1:]) <= {0}
    matrix = second.matrix()
    assert len(matrix) == 103
    assert (matrix.file is not None) == (budget < PLENTY)
    assert matrix._rows.element_size() == (4 if view == "calibrated" else file.width(1, dtype))
    second.stop()


def test_beyond_the_budget_memory_holds_only_what_changed(hand: Hand, cache: MatrixCache, view: str) -> None:
    hand.embed(names(200))
    worker = Worker(hand, cache, 4096, view)
    worker.check()
    # in the view a number for each row
    assert worker.residents.nbytes == (4 * 200 if view == "calibrated" else 0)
    hand.embed(["0001"], contents={"0001": "other"})
    hand.delete("0002", "0003")
    worker.check()
    assert len(worker.matrix()) == 198
    # the replaced one comes again, the deleted ones too
    hand.embed(["0001", "0002"], contents={"0001": "third", "0002": "new"})
    hand.delete("0001")
    worker.check()
    assert len(worker.matrix()) == 198
    worker.stop()


def test_a_collection_that_outgrows_memory_goes_to_its_file(hand: Hand, cache: MatrixCache, view: str) -> None:
    """With 20 and with 30 images it has no view of its own."""
    hand.embed(names(20))
    worker = Worker(hand, cache, 100 * (4 * DIM + 4), view)
    worker.check()
    assert worker.matrix().file is None
    hand.embed(names(100, first=100))
    worker.check()
    assert worker.matrix().file is not None
    hand.delete(*names(90, first=100))
    worker.check()
    worker.stop()


def test_a_revision_before_what_is_forgotten_starts_over(hand: Hand, cache: MatrixCache, view: str) -> None:
    hand.embed(names(100))
    for budget in (PLENTY, 1000):
        first = Worker(hand, cache, budget, view)
        first.check()
        first.stop()
        hand.delete(*names(30 if budget == PLENTY else 20, first=0 if budget == PLENTY else 40))
        hand.sql("UPDATE images SET deleted_at = deleted_at - 7200")
        upkeep.Upkeep(hand.database, hand.storage).run(9)
        # of one that slept, and of one that starts with an old file
        first.residents._closed = False
        for worker in (first, Worker(hand, cache, budget, view)):
            worker.residents._keeper = loaded.ThreadPoolExecutor(1)
            worker.check()
            worker.stop()


def test_compaction_changes_nothing(hand: Hand, cache: MatrixCache, reads: list[int]) -> None:
    for number in range(6):
        hand.embed(names(8, first=10 * number))
    first = Worker(hand, cache)
    first.check()
    first.stop()
    ids = hand.database.read(lambda s: s.scalars(sa.select(tables.Segment.id)).all())
    compaction.merge(hand.database, hand.collection().id, ids)
    hand.embed(["new"])
    reads.clear()
    second = Worker(hand, cache)
    second.check()
    assert reads[0] == 1
    second.stop()


def test_matrices_leave_memory_oldest_first_and_come_back_from_their_files(
    hand: Hand, cache: MatrixCache, reads: list[int]
) -> None:
    for name in ("a", "b", "c"):
        hand.embed(names(50), name=name, contents={key: f"{name} {key}" for key in names(50)})
    room = 2 * 50 * (4 * DIM + 4)
    worker = Worker(hand, cache, budget_bytes=room)
    for name in ("a", "b", "c"):
        worker.check(name)
    assert worker.residents.nbytes <= room
    assert list(worker.residents._held) == [(hand.collection(name).id, "raw") for name in ("b", "c")]
    worker.residents.settle()
    reads.clear()
    worker.check("c")
    worker.residents._keeper.submit(int).result()
    worker.check("a")
    assert sum(reads) == 0
    worker.stop()


def test_without_a_cache_everything_is_in_memory(hand: Hand, tmp_path: Path) -> None:
    hand.embed(names(50))
    worker = Worker(hand, None, budget_bytes=10)
    worker.check()
    assert len(worker.matrix().ids) == 50
    worker.stop()


def test_a_deleted_collection_is_said_to_be(hand: Hand, cache: MatrixCache) -> None:
    hand.embed(names(20))
    worker = Worker(hand, cache)
    worker.check()
    collection = hand.collection()
    hand.database.write(collection_deletion.delete, "ann", "photos")
    with pytest.raises(errors.CollectionDeleted):
        worker.residents.search(collection.id, np.ones((1, DIM), np.float32), 3)
    worker.stop()


def test_a_group_with_filters_is_one_product(hand: Hand, cache: MatrixCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each query has its own filter, or none; only a narrow one is searched apart."""
    hand.embed(names(200))
    worker = Worker(hand, cache)
    matrix = worker.matrix()
    scans: list[int] = []
    best = scan.Scanner.best

    def counted(self: scan.Scanner, asked: scan.Asked, *args: Any) -> Any:
        scans.append(len(asked))
        return best(self, asked, *args)

    monkeypatch.setattr(scan.Scanner, "best", counted)
    key_of = hand.database.read(reading.keys, matrix.ids)
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


def test_a_reading_that_broke_off_leaves_nothing_behind(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the database runs again after a lost connection begins anew: nothing is there twice."""
    hand.embed(names(40), size=8)
    changes = reading.changes
    readings: list[tuple] = []

    def lost(*args: Any) -> Iterator[reading.Change]:
        readings.append(args)
        for number, change in enumerate(changes(*args)):
            if len(readings) == 1 and number == 3:
                # as it is seen by who reads a little later
                hand.delete("0000")
                raise OperationalError("", {}, Exception("the server went"), connection_invalidated=True)
            yield change

    monkeypatch.setattr(reading, "changes", lost)
    worker = Worker(hand, None)
    assert len(worker.matrix()) == 39
    assert len(readings) == 2
    worker.check()


def test_a_view_stays_until_a_tenth_came_or_went_and_no_vector_is_read_again(
    hand: Hand, cache: MatrixCache, reads: list[int]
) -> None:
    hand.embed(names(100))
    worker, other = Worker(hand, cache, view="calibrated"), Worker(hand, cache, view="calibrated")

    def seen(by: Worker) -> views.View:
        by.check()
        made = by.matrix().view
        assert made is not None
        return made

    first = seen(worker)
    assert (first.name, first.images) == ("calibrated", 100)
    hand.embed(names(9, first=200))
    # one that starts now takes the view that is there
    assert seen(worker).id == seen(other).id == first.id
    reads.clear()
    hand.embed(names(1, first=300))
    renewed = seen(other)
    assert renewed.images == 110 and renewed.id != first.id
    assert seen(worker).id == renewed.id
    stored = np.stack([vector(content) for content in hand.contents["photos"].values()])
    assert renewed.id == views.of(stored, hand.collection().space_id).id
    hand.delete(*names(11))
    assert seen(worker).images == 99
    # the new one, by each of them
    assert sum(reads) == 2
    worker.stop()
    other.stop()


def test_both_views_of_a_collection_are_searched_side_by_side(hand: Hand, cache: MatrixCache) -> None:
    hand.embed(names(60))
    for view in ("raw", "calibrated", "raw"):
        worker = Worker(hand, cache, view=view)
        worker.check()
        worker.stop()
    assert sorted(path.name.count(".calibrated.") for path in cache.folder.glob("*.matrix")) == [0, 1]


def test_pictures_that_are_all_but_one_are_ranked_all_the_same(hand: Hand, cache: MatrixCache) -> None:
    """Where nearly all are at the mean, float32 says nothing of the others' order."""
    hand.embed(names(80), contents=dict.fromkeys(names(80)[6:], "same"))
    worker = Worker(hand, cache, view="calibrated")
    worker.check(top_k=3)
    worker.stop()
