"""Many workers that store into one collection: what each looked up before, and what readers see meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import ItemStatus, OnConflict
from imagekin.jobs import finish as finish_step
from imagekin.jobs import plan as plan_step
from imagekin.maintenance import compaction, upkeep
from imagekin.store import reading, segments
from kit.breakages import examine, found
from kit.hand import Hand, numbered, vector, whole

WRITERS, CHUNKS, NEW, SHARED = 4, 30, 16, 3
# Of so many chunks one replaces images that others replace as well; these wait for each other at the images themselves.
REPLACING = 5


def test_who_catches_up_by_revision_misses_nothing(hand: Hand) -> None:
    """Readers follow four writers; wherever they stand, they have what a reader has who reads all at that moment."""
    for number in range(CHUNKS):
        keys = [f"new-{number}-{at}" for at in range(NEW)]
        if number % REPLACING == 0:
            keys += numbered(SHARED)
        hand.submit()
        [claim] = hand.claims(gathering=True)
        pieces = [[{"key": key, "ref": {}} for key in keys]]
        hand.database.write(plan_step.add, claim, pieces, ignored=0, cursor=None, finished=True)
    faults: list[BaseException] = []
    stopped = threading.Event()
    stands: list[int] = []
    writers = [_Thread(faults, _write, hand) for _ in range(WRITERS)]
    readers = [_Thread(faults, _follow, hand, stopped, stands) for _ in range(2)]
    for thread in [*writers, *readers]:
        thread.start()
    for thread in writers:
        thread.join()
    stopped.set()
    for thread in readers:
        thread.join()
    assert faults == []
    collection = hand.collection()
    # they did follow, and came to the end; each transaction raised the revision by one
    assert len(set(stands)) > 4
    assert max(stands) == collection.revision == CHUNKS
    assert collection.image_count == CHUNKS * NEW + SHARED
    assert hand.database.read(_mistaken, collection.id) == []
    _pass_hours(hand)
    upkeep.Upkeep(hand.database, hand.storage).run(9)
    assert found(examine(hand)) == set()


class _Thread(threading.Thread):
    """Work beside the test, whose faults are kept."""

    def __init__(self, faults: list[BaseException], work: Callable[..., None], *args: Any) -> None:
        super().__init__()
        self._faults, self._work, self._args = faults, work, args

    def run(self) -> None:
        try:
            self._work(*self._args)
        except BaseException as fault:
            self._faults.append(fault)
            raise


def _write(hand: Hand) -> None:
    left = sa.select(sa.func.count()).select_from(tables.Chunk).where(tables.Chunk.status == "ready")
    while hand.database.read(lambda session: session.scalar(left)):
        # another may be at what is ready just now
        for claim in hand.claims():
            made = hand.made_of(claim)
            items = [whole(item.key, f"picture of {item.key} in {claim.job_id[-12:]}") for item in made]
            finish_step.chunk(hand.database, claim, items, OnConflict.REPLACE)


def _follow(hand: Hand, stopped: threading.Event, stands: list[int]) -> None:
    held: dict[str, bytes] = {}
    at, last = 0, False
    while not last:
        last = stopped.is_set()
        at = hand.database.read(_caught_up, hand.collection().id, held, at)
        stands.append(at)


def _caught_up(session: Session, collection_id: str, held: dict[str, bytes], at: int) -> int:
    """Bring what is held from revision `at` to the newest, hold it against all there is, and return that revision."""
    revision, count = reading.head(session, collection_id)
    for change in reading.changes(session, collection_id, at, revision):
        held.update(zip(change.ids, map(bytes, change.stored), strict=True))
    everything: dict[str, bytes] = {}
    for change in reading.changes(session, collection_id, 0, revision):
        everything.update(zip(change.ids, map(bytes, change.stored), strict=True))
    assert len(everything) == count
    assert held == everything
    return revision


def _mistaken(session: Session, collection_id: str) -> list[str]:
    """Return the keys of images that have another content's vector."""
    rows = session.scalars(sa.select(tables.Image).filter_by(collection_id=collection_id))
    return [row.key for row in rows if (segments.vector(session, row) != vector(row.content_hash.lstrip("0"))).any()]


def _pass_hours(hand: Hand) -> None:
    hand.sql("UPDATE segments SET created_at = created_at - 7200")


def _stored(hand: Hand) -> None:
    hand.store([whole("b", "first"), whole("new", "theirs")])


def _replaced(hand: Hand) -> None:
    hand.store([whole("a", "theirs")])


def _deleted(hand: Hand) -> None:
    hand.delete("a")


def _moved(hand: Hand) -> None:
    ids = hand.database.read(lambda session: session.scalars(sa.select(tables.Image.segment_id).distinct()).all())
    compaction.merge(hand.database, hand.collection().id, ids)


CHANGES = (_stored, _replaced, _deleted, _moved)


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_since_it_was_looked_up_is_looked_up_again(
    hand: Hand, change: Callable[[Hand], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk replaces `a`, leaves `b` and brings `new`; meanwhile another is at the same images."""
    hand.embed(["a"], contents={"a": "old"})
    hand.embed(["b"], contents={"b": "first"})
    hand.plan(["a", "b", "new"])
    chunk = hand.claim()
    items = [whole("a", "ours"), whole("b", "first"), whole("new", "ours")]
    looks = 0
    draft = segments.draft

    def drafted(*args: Any, **options: Any) -> segments.Draft:
        nonlocal looks
        made = draft(*args, **options)
        looks += 1
        if looks == 1:
            change(hand)
        return made

    monkeypatch.setattr(segments, "draft", drafted)
    counts = finish_step.chunk(hand.database, chunk, items, OnConflict.REPLACE)
    assert looks > 1
    assert counts == {ItemStatus.EMBEDDED: 2, ItemStatus.REUSED: 1}
    hand.contents["photos"] = {"a": "ours", "b": "first", "new": "ours"}
    hand.check()
    assert hand.collection().image_count == 3
    assert hand.database.read(_mistaken, hand.collection().id) == []
    _pass_hours(hand)
    upkeep.Upkeep(hand.database, hand.storage).run(9)
    assert found(examine(hand)) == set()


def test_blobs_that_were_swept_are_written_again(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may stop for hours between the two transactions, as one does that a debugger holds."""
    if hand.database.is_sqlite:
        pytest.skip("there it is one transaction")
    hand.plan(["a", "b"])
    chunk, images = hand.claim(), finish_step.images

    def late(session: Session, *args: Any) -> Any:
        _pass_hours(hand)
        assert upkeep.Upkeep(hand.database, hand.storage).run(9)["segments_abandoned"] == 1
        monkeypatch.setattr(finish_step, "images", images)
        return images(session, *args)

    monkeypatch.setattr(finish_step, "images", late)
    hand.finish(chunk)
    hand.check()
    assert hand.count(tables.Segment) == 1


def test_staged_blobs_stay_until_they_are_old(hand: Hand, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FEWEST_SMALL", 2)
    hand.embed(numbered(4), size=1)
    collection = hand.collection()
    database.write(segments.stage, collection.id, [whole("new", "new")], OnConflict.REPLACE)
    keep = upkeep.Upkeep(database, hand.storage)
    assert keep.run(9) == {"segments_merged": 4}
    assert found(examine(hand)) == set()
    hand.check()
    _pass_hours(hand)
    assert found(examine(hand)) == {"segments_used"}
    assert upkeep.Upkeep(database, hand.storage).run(9) == {"segments_abandoned": 1}
    assert hand.count(tables.Segment) == hand.count(tables.Thumbnails) == 1
    assert found(examine(hand)) == set()
    hand.check()


def test_blobs_are_staged_while_another_holds_the_collection(hand: Hand, database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("it has one writer at a time")
    collection = hand.collection()
    with database.engine.begin() as connection, Session(connection) as other:
        segments.lock(other, collection.id)
        other.execute(sa.update(tables.Collection).values(revision=tables.Collection.revision + 1))
        with database.engine.begin() as second, Session(second) as session:
            session.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
            segments.stage(session, collection.id, [whole("new", "new")], OnConflict.REPLACE)
    assert hand.count(tables.Segment) == 1
