"""What befalls one chunk of a claim befalls none of those that were claimed with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import JobStatus, Lane
from imagekin.jobs import claim, end, results
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from imagekin_worker.context.process_state import Node
from imagekin_worker.process import dispatch
from kit.hand import Hand, vector

Search = Callable[[np.ndarray], tables.Job]


@pytest.fixture
def engine() -> str:
    return "sqlite"


@pytest.fixture
def hand(database: Database, settings: Settings, tmp_path: Path) -> Hand:
    Image.new("RGB", (40, 40)).save(tmp_path / "black.png")
    return Hand(database, settings.model_copy(update={"source_roots": (str(tmp_path),), "lanes": 1}))


@pytest.fixture
def node(hand: Hand) -> Iterator[Callable[[Lane], Node]]:
    nodes: list[Node] = []

    def node(lane: Lane) -> Node:
        nodes.append(Node(hand.settings, lane))
        return nodes[-1]

    yield node
    for each in nodes:
        each.close()


@pytest.fixture
def search(hand: Hand) -> Search:
    hand.embed(["a", "b", "c"])

    def search(query: np.ndarray) -> tables.Job:
        job = hand.submit(kind=JobKind.SEARCH, work={"query": {"embedding": query.tolist()}})
        params = {"query": {}, "top_k": 2, "exclude_query": False}
        hand.database.write(lambda session: setattr(session.get_one(tables.Job, job.id), "params", params))
        return job

    return search


def remove(database: Database, job: tables.Job) -> None:
    database.write(end.cancel, job.owner, job.id)
    database.write(end.delete, job.owner, job.id)


def status(database: Database, job: tables.Job) -> str:
    return database.read(lambda session: session.get_one(tables.Job, job.id)).status


def do(node: Node, claims: list[claim.Claim]) -> None:
    with node.lease(claims) as lease:
        dispatch.do(node, claims, lease)


def test_a_query_that_cannot_be_compared_fails_alone(hand: Hand, node: Callable[[Lane], Node], search: Search) -> None:
    huge, good = search(np.full(64, 1e30)), search(vector("b"))
    worker = node(Lane.INTERACTIVE)
    claims = worker.claim("ring/x")
    assert len(claims) == 2
    do(worker, claims)
    assert status(hand.database, huge) == JobStatus.FAILED
    assert status(hand.database, good) == JobStatus.SUCCEEDED
    found = hand.database.read(results.summary, good.id)
    assert found is not None
    assert found["neighbors"][0]["key"] == "b"


def test_a_search_that_is_deleted_once_it_is_claimed_is_left_out(
    hand: Hand, node: Callable[[Lane], Node], search: Search
) -> None:
    gone, good = search(vector("a")), search(vector("b"))
    worker = node(Lane.INTERACTIVE)
    claims = worker.claim("ring/x")
    assert len(claims) == 2
    remove(hand.database, gone)
    do(worker, claims)
    assert status(hand.database, good) == JobStatus.SUCCEEDED


def test_images_whose_job_is_deleted_once_they_are_claimed_are_left_out(
    hand: Hand, node: Callable[[Lane], Node]
) -> None:
    worker = node(Lane.BULK)
    source = {"type": "folder", "path": f"{hand.settings.source_roots[0]}/black.png"}
    gone, good = (hand.submit(name, work={"source": source}) for name in ("ones", "others"))
    for number in range(2):
        do(worker, worker.claim(f"plan-{number}/x"))
    claims = worker.claim("ring/x")
    assert {claim.job_id for claim in claims} == {gone.id, good.id}
    remove(hand.database, gone)
    do(worker, claims)
    assert status(hand.database, good) == JobStatus.SUCCEEDED
