"""A search asks the database as seldom as it can: each transaction is a way to another machine and back."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from PIL import Image
from sqlalchemy import event

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import JobStatus, Lane
from imagekin.schemas.kinds import JobKind
from imagekin_worker.context.process_state import Node
from imagekin_worker.process import dispatch
from kit.hand import Hand, vector


@pytest.fixture
def engine() -> str:
    return "sqlite"


@pytest.fixture
def node(hand: Hand) -> Iterator[Node]:
    node = Node(hand.settings.model_copy(update={"lanes": 1}), Lane.INTERACTIVE)
    yield node
    node.close()


@pytest.fixture
def search(hand: Hand, node: Node) -> Callable[[dict], int]:
    """Submit a search of this query, do it, and return the number of transactions that took."""
    hand.embed(["a", "b", "c"])

    def search(query: dict) -> int:
        job = hand.submit(kind=JobKind.SEARCH, work={"query": query})
        params = {"query": {}, "top_k": 2, "exclude_query": False}
        hand.database.write(lambda session: setattr(session.get_one(tables.Job, job.id), "params", params))
        with counted(node.database) as begun:
            claims = node.claim(f"ring/{job.id}")
            with node.lease(claims) as lease:
                dispatch.do(node, claims, lease)
        done = hand.database.read(lambda session: session.get_one(tables.Job, job.id))
        assert done.status == JobStatus.SUCCEEDED
        return len(begun)

    return search


@contextmanager
def counted(database: Database) -> Iterator[list[sa.Connection]]:
    """Count the transactions that begin in the block."""
    begun: list[sa.Connection] = []

    def note(connection: sa.Connection) -> None:
        begun.append(connection)

    event.listen(database.engine, "begin", note)
    yield begun
    event.remove(database.engine, "begin", note)


def test_a_vector_takes_five(search: Callable[[dict], int]) -> None:
    query = {"embedding": vector("b").tolist()}
    search(query)
    assert search(query) == 5


def test_an_image_of_the_collection_takes_six(hand: Hand, search: Callable[[dict], int]) -> None:
    id = hand.database.read(lambda session: session.scalars(sa.select(tables.Image.id).filter_by(key="b")).one())
    search({"image_id": id})
    assert search({"image_id": id}) == 6


def test_a_picture_takes_five_once_its_network_is_known(hand: Hand, search: Callable[[dict], int]) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), "teal").save(file, "PNG")
    hand.storage.write("queries/teal", io.BytesIO(file.getvalue()), 1 << 20)
    query = {"upload": "queries/teal"}
    assert search(query) <= 7
    assert search(query) == 5
