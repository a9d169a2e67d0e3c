"""A worker claims what comes next while it still works, so that its lanes never wait for a claim."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image
from sqlalchemy.exc import OperationalError

from imagekin import errors
from imagekin.catalog import Space
from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import JobStatus, Lane
from imagekin.jobs import claim, items, split, view
from imagekin.schemas.kinds import PLAN, JobKind
from imagekin.settings import Settings
from imagekin_worker.context import process_state
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import FIRST_IMAGES, Node
from imagekin_worker.kinds import embed
from imagekin_worker.network import backbones
from imagekin_worker.network.models import Models
from imagekin_worker.process import dispatch, tasks
from kit.hand import Hand
from kit.patience import until

CHUNKS = 5


@pytest.fixture
def hand(database: Database, settings: Settings, tmp_path: Path) -> Hand:
    for number in range(CHUNKS * FIRST_IMAGES):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / f"{number:03}.png")
    return Hand(database, settings.model_copy(update={"source_roots": (str(tmp_path),), "lanes": 2}))


@pytest.fixture
def node(hand: Hand) -> Iterator[Node]:
    node = Node(hand.settings, Lane.BULK)
    yield node
    node.close()


@pytest.fixture
def job(hand: Hand, node: Node) -> tables.Job:
    """A job of several chunks, planned."""
    job = hand.submit(work={"source": {"type": "folder", "path": hand.settings.source_roots[0]}})
    [plan] = node.claim("plan/x")
    assert plan.kind == PLAN
    do(node, [plan])
    assert chunks(hand) == [("ready", FIRST_IMAGES)] * CHUNKS
    return job


def do(node: Node, claims: list[claim.Claim]) -> Lease:
    lease = node.lease(claims)
    with lease:
        dispatch.do(node, claims, lease)
    return lease


def chunks(hand: Hand) -> list[tuple[str, int]]:
    chunk = tables.Chunk
    query = sa.select(chunk.status, chunk.size).where(chunk.kind == JobKind.EMBED).order_by(chunk.seq)
    return [(status, size) for status, size in hand.database.read(lambda session: session.execute(query).all())]


def read(hand: Hand, job: tables.Job) -> tables.Job:
    return hand.database.read(lambda session: session.get_one(tables.Job, job.id))


def test_one_run_goes_on_with_what_comes_next(hand: Hand, node: Node, job: tables.Job) -> None:
    claims = node.claim("ring/x")
    assert sum(claim.size for claim in claims) == FIRST_IMAGES
    lease = do(node, claims)
    assert {claim.claimed_by for claim in lease.claims} == {"ring/x"}
    assert len(lease.claims) == CHUNKS
    assert (read(hand, job).status, read(hand, job).embedded) == (JobStatus.SUCCEEDED, CHUNKS * FIRST_IMAGES)


def test_a_run_ends_in_time(hand: Hand, node: Node, job: tables.Job) -> None:
    claims = node.claim("ring/x")
    # a network that loads for long is handed back, which is another rule
    node.backbone(claims[0].space_id)
    node.settings = node.settings.model_copy(update={"soft_time_limit_s": 1e-9})
    assert len(do(node, claims).claims) == 1
    assert chunks(hand) == [("done", FIRST_IMAGES)] + [("ready", FIRST_IMAGES)] * (CHUNKS - 1)


def test_what_was_claimed_ahead_is_handed_back_where_there_is_no_time_for_it(
    hand: Hand, node: Node, job: tables.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a fast worker planned chunks that take a slow one half of its time limit each."""
    monkeypatch.setattr(embed, "BEGIN_UNTIL", 0)
    lease = do(node, node.claim("ring/x"))
    assert len(lease.claims) == 2
    assert chunks(hand) == [("done", FIRST_IMAGES)] + [("ready", FIRST_IMAGES)] * (CHUNKS - 1)
    monkeypatch.undo()
    do(node, node.claim("ring/y"))
    assert read(hand, job).status == JobStatus.SUCCEEDED


def test_a_slow_worker_divides_what_a_fast_one_planned(hand: Hand, node: Node) -> None:
    job = hand.submit(work={"source": {"type": "folder", "path": hand.settings.source_roots[0]}})
    claims = node.claim("plan/x")
    node.note_speed(claims[0].space_id, 1000, 1)
    do(node, claims)
    assert chunks(hand) == [("ready", 80)]
    slow = Node(hand.settings, Lane.BULK)
    try:
        slow.note_speed(claims[0].space_id, 4, 1)
        do(slow, slow.claim("ring/x"))
    finally:
        slow.close()
    # twice what it does in 1.5 s, until what is left takes less than eight times that
    assert chunks(hand) == [("done", 12)] * 3 + [("done", 44)]
    assert read(hand, job).status == JobStatus.SUCCEEDED
    every, _ = hand.database.read(lambda s: items.page(s, view.get(s, job.owner, job.id), None, None, 100))
    assert [item.key for item in every] == [f"{number:03}.png" for number in range(80)]


def test_a_division_whose_answer_got_lost_is_not_made_again(hand: Hand, node: Node, job: tables.Job) -> None:
    [mine] = node.claim("ring/x")
    for _ in range(2):
        hand.database.write(split.keep, mine, 6)
    assert chunks(hand)[:3] == [("claimed", 6), ("ready", FIRST_IMAGES - 6), ("ready", FIRST_IMAGES)]
    hand.database.write(claim.release, [mine])
    with pytest.raises(errors.LeaseLost):
        hand.database.write(split.keep, mine, 3)


def test_a_network_that_loads_for_long_is_no_chunks_fault(
    hand: Hand, node: Node, job: tables.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = threading.Event()

    def load(space: Space, settings: Settings) -> backbones.Backbone:
        assert opened.wait(60)
        return backbones.load(space, settings)

    node.models = Models(node.settings, load)
    monkeypatch.setattr(process_state, "LOADING_PART", 1e-6)
    for _ in range(node.settings.max_attempts + 1):
        tasks.work(node, node.claim("ring/x"))
        assert chunks(hand) == [("ready", FIRST_IMAGES)] * CHUNKS
    opened.set()
    monkeypatch.undo()
    tasks.work(node, node.claim("ring/y"))
    assert (read(hand, job).status, read(hand, job).failed) == (JobStatus.SUCCEEDED, 0)


def test_a_process_that_must_go_claims_no_more_and_hands_back(hand: Hand, node: Node, job: tables.Job) -> None:
    claims = node.claim("ring/x")
    node.leaving.set()
    assert do(node, claims).claims == claims


def test_a_database_that_is_away_just_then_costs_what_is_in_hand_nothing(
    hand: Hand, node: Node, job: tables.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = node.claim("ring/x")

    def away(*_: object, **__: object) -> list[claim.Claim]:
        raise OperationalError("claim", None, Exception("away"))

    monkeypatch.setattr(node, "claim", away)
    do(node, claims)
    assert chunks(hand)[0] == ("done", FIRST_IMAGES)


def test_what_is_added_to_a_lease_while_it_is_renewed_is_held(hand: Hand, node: Node, job: tables.Job) -> None:
    first, second = node.claim("ring/x"), node.claim("ring/x")
    lease = Lease(node.database, first, lease_s=30, renew_s=0.01)
    renewed = sa.select(tables.Chunk.lease_until).filter_by(seq=second[0].seq, job_id=job.id)
    with lease:
        lease.add(second)
        before = hand.database.read(lambda session: session.scalar(renewed))
        until(lambda: hand.database.read(lambda session: session.scalar(renewed)) != before, "a renewal")
        assert all(lease.holds(claim) for claim in first + second)
        lease.finished(first[0])
        assert not lease.lost
        hand.database.write(claim.release, second)
        until(lambda: lease.lost, "the loss")
