"""Claims: whose turn it is, what goes together, and fences against who is late."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter

import pytest
import sqlalchemy as sa

from imagekin import errors
from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import ItemStatus, Lane
from imagekin.jobs import claim as claim_step
from imagekin.jobs import finish as finish_step
from imagekin.jobs import plan as plan_step
from imagekin.schemas.kinds import PLAN, JobKind
from imagekin.settings import Settings
from kit.hand import Hand, numbered


def test_one_chunk_goes_to_one_claimant(hand: Hand, database: Database, settings: Settings) -> None:
    hand.plan(numbered(60), size=1)
    taken, lock = [], threading.Lock()

    def work(name: str) -> None:
        while True:
            pair = claim_step.Preference(most_images=2)
            claims = database.write(claim_step.claim, Lane.BULK, f"{name}-{len(taken)}/{name}", settings, pair)
            if not claims:
                return
            with lock:
                taken.extend((claim.job_id, claim.seq) for claim in claims)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # a claim skips rows that another is taking, so a thread may leave early; nothing may be taken twice
    assert max(Counter(taken).values()) == 1
    while claims := hand.claims(most_images=10):
        taken.extend((claim.job_id, claim.seq) for claim in claims)
    assert len(set(taken)) == 60


def test_a_late_finish_is_refused(hand: Hand, database: Database, settings: Settings) -> None:
    job = hand.plan(numbered(2), size=2)
    late = hand.claim()
    database.write(lambda s: s.execute(sa.update(tables.Chunk).values(lease_until=0)))
    second = hand.claim()
    assert (second.seq, second.attempt) == (late.seq, late.attempt + 1)
    with pytest.raises(errors.LeaseLost):
        hand.finish(late)
    assert database.write(claim_step.renew, [late], 30) == set()
    assert database.write(claim_step.renew, [second], 30) == {(job.id, second.seq)}
    hand.finish(second)
    assert hand.view(job).progress.embedded == 2
    named = sa.select(sa.func.count(sa.distinct(tables.Image.segment_id)))
    assert database.read(lambda session: session.scalar(named)) == 1


def test_finishing_again_what_is_finished_changes_nothing(hand: Hand, database: Database) -> None:
    job = hand.plan(numbered(2), size=2)
    chunk = hand.claim()
    items = hand.made_of(chunk)
    assert database.write(finish_step.images, chunk, items)[ItemStatus.EMBEDDED] == 2
    assert database.write(finish_step.images, chunk, items) == Counter()
    assert hand.view(job).progress.done == 2


def test_plannings_of_one_owner_take_turns(hand: Hand) -> None:
    first, second, third = (hand.submit().id for _ in range(3))
    assert [hand.claims(last_planned=last)[0].job_id for last in (first, second, third)] == [second, third, first]


def test_owners_take_turns(hand: Hand) -> None:
    for owner in ("ann", "ann", "ann", "bob", "cat"):
        hand.submit(owner=owner)
    turns, last = [], ""
    for _ in range(5):
        (taken,) = hand.claims(after_owner=last)
        last = taken.owner
        turns.append(last)
    assert turns == ["ann", "bob", "cat", "ann", "ann"]


def test_work_for_a_network_in_memory_comes_first(hand: Hand) -> None:
    first, second = hand.submit(kind=JobKind.SEARCH, space_id="cold"), hand.submit(kind=JobKind.SEARCH, space_id="warm")
    assert [one.job_id for one in hand.claims(Lane.INTERACTIVE, warm=("other", "warm"))] == [second.id]
    # and what nobody has in memory is done all the same
    assert [one.job_id for one in hand.claims(Lane.INTERACTIVE, warm=("other", "warm"))] == [first.id]


def test_planning_needs_no_network_and_waits_for_none(hand: Hand) -> None:
    first = hand.submit(space_id="cold")
    hand.submit(space_id="warm")
    assert hand.claims(warm=("warm",))[0].job_id == first.id


def test_a_claim_takes_small_chunks_of_many_jobs(hand: Hand, database: Database) -> None:
    for _ in range(3):
        hand.submit()
    for plan in [hand.claim() for _ in range(3)]:
        pieces = [[{"key": "a", "ref": {}}, {"key": "b", "ref": {}}]]
        database.write(plan_step.add, plan, pieces, ignored=0, cursor=2, finished=True)
    assert len(hand.claims(most_images=5)) == 2
    assert len(hand.claims(most_images=5)) == 1


def test_planning_and_images_take_turns(hand: Hand, database: Database) -> None:
    hand.submit()
    plan = hand.claim()
    pieces = [[{"key": "a", "ref": {}}], [{"key": "b", "ref": {}}]]
    database.write(plan_step.add, plan, pieces, ignored=0, cursor=2, finished=False)
    database.write(claim_step.release, [plan])
    assert hand.claims(after_planning=True)[0].kind == JobKind.EMBED
    assert hand.claim().kind == PLAN
    assert hand.claims(after_planning=True)[0].kind == JobKind.EMBED
    assert hand.claims(after_planning=True) == []


def test_searches_are_taken_together(hand: Hand) -> None:
    for _ in range(5):
        hand.submit(kind=JobKind.SEARCH)
    assert len(hand.claims(Lane.INTERACTIVE, most_searches=4)) == 4
    assert hand.claims(Lane.BULK) == []
    assert len(hand.claims(Lane.INTERACTIVE, most_searches=4)) == 1


def test_what_joins_a_claim_is_of_its_kind_and_space_and_killed_nobody(hand: Hand, database: Database) -> None:
    hand.plan(numbered(6), size=2)
    first = hand.claim()
    assert [one.seq for one in hand.claims(like=first)] == [2]
    third = hand.claim()
    database.write(lambda s: s.execute(sa.update(tables.Chunk).filter_by(seq=third.seq).values(deaths=1)))
    database.write(claim_step.release, [first])
    # whose turn it is killed a process, or is of another kind or space: it gets a claim of its own
    assert hand.claims(like=dataclasses.replace(first, deaths=1)) == []
    assert hand.claims(like=dataclasses.replace(first, space_id="other")) == []
    assert hand.claims(like=dataclasses.replace(first, kind=JobKind.ASSIGN)) == []
    hand.submit(owner="abe")
    assert hand.claims(like=first) == []
    assert hand.claim().kind == PLAN
    assert [one.seq for one in hand.claims(like=first)] == [first.seq]


def test_a_chunk_that_killed_a_process_joins_nobody(hand: Hand, database: Database) -> None:
    hand.plan(numbered(4), size=2)
    first = hand.claim()
    database.write(lambda s: s.execute(sa.update(tables.Chunk).where(tables.Chunk.seq > first.seq).values(deaths=1)))
    assert hand.claims(like=first) == []
    assert [one.deaths for one in hand.claims()] == [1]
