"""Indexes between jobs: caught up, dropped when nothing uses them, looked at by the doctor and by readiness."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from imagekin import catalog
from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import DType, Lane, Precision
from imagekin.jobs import end
from imagekin.maintenance import collection_deletion, index_renewal
from imagekin.maintenance.upkeep import Upkeep
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from imagekin.store import collections, index_search, indexes
from imagekin.store.blobs import Blobs
from imagekin.store.indexes import Index
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import pinned
from imagekin_worker.matrix import index_rows, indexed
from imagekin_worker.matrix.view import CALIBRATED, RAW
from kit.breakages import examine, found
from kit.crew import Crew
from kit.hand import Hand, item, vector
from kit.patience import until

COUNT = 300


@pytest.fixture
def node(settings: Settings) -> Iterator[Node]:
    with closing(Node(settings, Lane.INTERACTIVE)) as node:
        yield node


def build(hand: Hand, crew: Crew) -> Index:
    job = hand.submit(kind=JobKind.INDEX, params={"index": "hnsw"})
    while hand.view(job).finished_at is None:
        crew.work()
    assert hand.view(job).status == "succeeded", hand.view(job).error
    index = hand.database.read(indexes.ready, hand.collection().id)
    assert index is not None and index.id == job.id
    return index


@pytest.fixture
def index(hand: Hand, crew: Crew) -> Index:
    """The index of a collection of images whose contents are numbers from 0 on."""
    hand.collection()
    hand.store([item(f"{at:03}", at) for at in range(COUNT)])
    return build(hand, crew)


def current(hand: Hand) -> Index:
    index = hand.database.read(indexes.ready, hand.collection().id)
    assert index is not None
    return index


def best(node: Node, hand: Hand, content: int, view: str = CALIBRATED) -> str:
    _, [neighbors] = node.searches.search(hand.collection().id, vector(content)[None], 1, view=view)
    return neighbors[0].key


def rows(hand: Hand, index: Index) -> set[str]:
    with hand.database.engine.connect() as connection:
        return set(connection.scalars(sa.text(f"SELECT image_id FROM {index.table}")))


def test_what_came_joins_the_graph_and_is_found_before_and_after(
    hand: Hand, node: Node, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_rows, "CAUGHT_UP_ROWS", 10)
    ids = [id for at in range(5) for id in hand.store([item(f"new{at}-{n}", 1000 + 10 * at + n) for n in range(7)])]
    hand.store([item("000", 2000)])
    assert (best(node, hand, 1013), best(node, hand, 2000), best(node, hand, 1013, RAW)) == ("new1-3", "000", "new1-3")
    assert not rows(hand, index) & set(ids)

    assert index_rows.catch_up_all(hand.database, 30) == 2
    caught_up = current(hand)
    # fewer than a step is worth are left for the next one
    assert hand.database.read(indexes.behind, caught_up, 100) == 8
    assert len(rows(hand, index) & set(ids)) == 28
    assert (best(node, hand, 1013), best(node, hand, 2000), best(node, hand, 1013, RAW)) == ("new1-3", "000", "new1-3")
    # two processes at once: the second finds that it is done
    assert index_rows.catch_up(hand.database, index) is None
    assert found(examine(hand)) == set()


def test_a_search_reads_the_vectors_of_few_candidates(
    hand: Hand, node: Node, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    pieces_of = index_search.pieces_of

    def counted(*args: object) -> object:
        for piece in pieces_of(*args):  # type: ignore[arg-type] - as it was called
            read.append(len(piece.ids))
            yield piece

    monkeypatch.setattr(index_search, "pieces_of", counted)
    assert best(node, hand, 7) == "007"
    assert 0 < sum(read) < indexed.LEAST_CANDIDATES


def test_more_than_memory_is_for_is_searched_exactly(hand: Hand, node: Node, index: Index) -> None:
    hand.store([item(f"new{at}", 1000 + at) for at in range(50)])
    node.searches.most_bytes = 100 * 64
    assert best(node, hand, 1010) == "new10"
    assert node.residents.nbytes > 0


def test_an_outgrown_index_is_built_again_once(
    hand: Hand, crew: Crew, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_renewal, "LEAST_BEHIND", 100)

    def renewed() -> int:
        return hand.database.write(index_renewal.renew, hand.settings)

    hand.store([item(f"new{at}", 1000 + at) for at in range(100)])
    assert renewed() == 0
    hand.store([item("another", 2000)])
    assert (renewed(), renewed()) == (1, 0)
    while crew.step():
        pass
    assert current(hand).images == COUNT + 101
    assert current(hand).id != index.id
    # grown by steps that were all caught up
    hand.sql("UPDATE vector_indexes SET images = 150")
    assert renewed() == 1


def test_what_nothing_uses_is_dropped(hand: Hand, crew: Crew, index: Index) -> None:
    def upkept() -> int:
        return Upkeep(hand.database, hand.storage).run(9)["indexes_dropped"]

    assert upkept() == 0
    second = build(hand, crew)
    assert (upkept(), current(hand)) == (1, second)
    # cancelled in the middle
    job = hand.submit(kind=JobKind.INDEX, params={"index": "hnsw"})
    begun = Index(job.id, hand.collection().id, index.dim, 1)
    hand.database.write(indexes.begin, begun, b"")
    assert upkept() == 0
    hand.database.write(end.cancel, hand.owner, job.id)
    assert upkept() == 1
    hand.database.write(collection_deletion.delete, hand.owner, hand.name)
    assert upkept() == 1
    with hand.database.engine.connect() as connection:
        assert [name for name in sa.inspect(connection).get_table_names() if name.startswith("hnsw_")] == []


def test_an_index_that_a_backup_reads_holds_up_no_upkeep(hand: Hand, crew: Crew, index: Index) -> None:
    upkeep = Upkeep(hand.database, hand.storage)
    build(hand, crew)
    with hand.database.engine.connect() as backup:
        backup.execute(sa.text(f"SELECT FROM {index.table} LIMIT 1"))
        began = time.monotonic()
        assert upkeep.run(9)["indexes_dropped"] == 0
        assert time.monotonic() - began < indexes.LOCK_TIMEOUT_S
    assert upkeep.run(9)["indexes_dropped"] == 1


def test_the_doctor_and_readiness_see_what_is_broken(hand: Hand, node: Node, index: Index) -> None:
    told = hand.database.read(indexes.told)
    assert told == "ok: 1 ready"
    hand.sql(f"DELETE FROM {index.table} WHERE image_id IN (SELECT image_id FROM {index.table} LIMIT 3)")
    stray = os.urandom(16).hex()
    hand.sql(f"CREATE TABLE hnsw_{stray} (image_id text)")
    report = examine(hand)
    assert found(report) == {"index_rows", "indexes_used"}
    assert "lacks 3" in report.outcomes["index_rows"].details[0]
    hand.sql(f"DROP INDEX {index.graph}")
    assert "1 not sound" in hand.database.read(indexes.told)
    # searched exactly meanwhile
    assert best(node, hand, 5) == "005"
    assert "indexes_sound" in found(examine(hand))
    assert examine(hand, repair=True).ok
    assert hand.database.read(indexes.told) == "ok"


def test_more_numbers_than_halves_can_be_indexed_go_by_their_signs(hand: Hand, crew: Crew, node: Node) -> None:
    dim, draw = 4096, np.random.default_rng(0)
    space = catalog.resolve_space("vgg19", None, Precision.EXACT, hand.settings.weights_dir)
    hand.database.write(collections.create, hand.owner, hand.name, space, DType.FLOAT32)
    hand.contents[hand.name] = {}
    vectors = np.maximum(draw.standard_normal((200, dim)), 0).astype("<f4")
    made = [item(f"{at:03}", at) for at in range(200)]
    for one, row in zip(made, vectors, strict=True):
        one.vector = row
    hand.store(made)
    index = build(hand, crew)
    assert index.type == "bit(4096)"
    for view in CALIBRATED, RAW:
        _, [exact] = node.residents.search(index.collection_id, vectors[7:8], 10, view=view)
        _, [neighbors] = node.searches.search(index.collection_id, vectors[7:8], 10, view=view)
        assert [(one.key, one.score) for one in neighbors] == [(one.key, one.score) for one in exact]
        assert neighbors[0].key == "007"


def at_work(hand: Hand) -> int:
    """Return how many statements sleep in the test's database."""
    sleeping = (
        "state = 'active' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid() AND datname = current_database()"
    )
    with hand.database.engine.connect() as connection:
        return connection.scalar(sa.text(f"SELECT count(*) FROM pg_stat_activity WHERE {sleeping}")) or 0


@pytest.fixture
def short_turns(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Have a graph take some seconds more, and each turn of a job end as soon as it can."""
    real = indexes.build

    def slow(seconds: float) -> None:
        def build(connection: sa.Connection, *arguments: Any) -> None:
            connection.execute(sa.text(f"SELECT pg_sleep({seconds})"))
            real(connection, *arguments)

        monkeypatch.setattr(pinned, "lasts", lambda *_: False)
        monkeypatch.setattr(indexes, "build", build)

    return slow


def begun(hand: Hand, crew: Crew) -> tables.Job:
    """Return a job whose graph is built past its turn."""
    hand.collection()
    hand.store([item(f"{at:03}", at) for at in range(COUNT)])
    job = hand.submit(kind=JobKind.INDEX, params={"index": "hnsw"})
    crew.work()
    assert (at_work(hand), hand.view(job).status) == (1, "running")
    return job


def test_a_graph_is_waited_for_past_its_turn(hand: Hand, crew: Crew, short_turns: Callable[[float], None]) -> None:
    short_turns(1.5)
    job = begun(hand, crew)

    def over() -> bool:
        crew.work()
        return hand.view(job).finished_at is not None

    until(over, "the end of the job")
    assert (hand.view(job).status, current(hand).images) == ("succeeded", COUNT)


def test_a_cancelled_job_stops_what_postgresql_builds(
    hand: Hand, crew: Crew, short_turns: Callable[[float], None]
) -> None:
    short_turns(300)
    job = begun(hand, crew)
    hand.database.write(end.cancel, hand.owner, job.id)
    until(lambda: at_work(hand) == 0, "the statement's end")
    assert hand.database.read(indexes.ready, job.collection_id) is None


def test_what_postgresql_refuses_fails_the_job(hand: Hand, crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "build", lambda connection, *_: connection.execute(sa.text("SELECT 1 / 0")))
    hand.collection()
    hand.store([item("a", 0)])
    job = hand.submit(kind=JobKind.INDEX, params={"index": "hnsw"})
    crew.work()
    error = hand.view(job).error
    assert error is not None and "division by zero" in error.detail


def test_a_database_without_the_extension_says_what_to_do(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    role = f"weak_{os.urandom(4).hex()}"
    hand.sql(f"CREATE ROLE {role} LOGIN")
    url = sa.make_url(hand.settings.database).set(username=role).render_as_string(hide_password=False)
    weak = Database(url)
    assert "have an administrator run `CREATE EXTENSION vector`" in (weak.write(indexes.why_not) or "")
    weak.dispose()
    hand.sql(f"DROP ROLE {role}")
    monkeypatch.setattr(indexes, "EXTENSION", "nowhere")
    assert "not installed on the database's machine" in (hand.database.write(indexes.why_not) or "")
    monkeypatch.undo()
    assert hand.database.write(indexes.why_not) is None
    monkeypatch.setattr(indexes, "LEAST_VERSION", (99, 0))
    assert "ALTER EXTENSION vector UPDATE" in (hand.database.write(indexes.why_not) or "")


def test_vectors_in_object_storage_are_indexed_and_ranked(hand: Hand, settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"blob_url": str(tmp_path / "blobs")})
    hand = replace(hand, database=Database(settings.database, blobs=Blobs.of(settings)), settings=settings)
    hand.collection()
    contents = {f"{at:03}": at for at in range(100)}
    for start in range(0, 100, 50):
        keys = list(contents)[start : start + 50]
        hand.embed(keys, contents={key: contents[key] for key in keys})
    with closing(Crew(settings)) as crew, closing(Node(settings, Lane.INTERACTIVE)) as node:
        build(hand, crew)
        assert hand.sql("UPDATE segments SET data = data WHERE length(data) = 0") == 2
        for view in CALIBRATED, RAW:
            assert best(node, hand, 70, view) == "070"
        hand.embed(["new"], contents={"new": 1000})
        assert best(node, hand, 1000) == "new"
    hand.database.dispose()
