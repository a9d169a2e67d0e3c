"""Indexes of vectors over HTTP: built, searched, checked, removed; refused where there cannot be one."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from imagekin.maintenance.upkeep import Upkeep
from kit.analyses import ended
from kit.calls import accepted
from kit.crew import Crew
from kit.hand import DIM, Hand, item, vector
from kit.patience import until
from kit.serving import Running
from kit.wire import check_problem

COUNT = 400
on_postgresql = pytest.mark.parametrize("engine", ["postgresql"])


def post(client: httpx2.Client, path: str = "", **body: Any) -> httpx2.Response:
    return client.post(f"/v1/collections/archive/index{path}", json=body)


def done(client: httpx2.Client, crew: Crew, answer: httpx2.Response) -> dict[str, Any]:
    job = accepted(answer)

    def over() -> bool:
        crew.work()
        return client.get(f"/v1/jobs/{job['id']}").json()["finished_at"] is not None

    until(over, "the job's end")
    return ended(client, job)


def found(client: httpx2.Client, crew: Crew, **body: Any) -> dict[str, Any]:
    job = accepted(client.post("/v1/jobs/search", json={"collection": "archive", **body}))
    crew.work()
    return ended(client, job)


def keys(result: dict[str, Any]) -> list[str]:
    return [each["key"] for each in result["neighbors"]]


def shown(client: httpx2.Client) -> dict[str, Any]:
    return client.get("/v1/collections/archive").json()


@pytest.fixture
def archive(hand: Hand) -> list[str]:
    """The ids of images whose contents are numbers from 0 on, one in ten of another place."""
    hand.collection()
    items = [item(f"{at:03}.jpg", at, place="far" if at % 10 else "near") for at in range(COUNT)]
    return [id for start in range(0, COUNT, 50) for id in hand.store(items[start : start + 50])]


def test_sqlite_says_what_an_index_needs(client: httpx2.Client, archive: list[str]) -> None:
    problem = check_problem(post(client, index="hnsw"), 422, "invalid_request")
    assert "PostgreSQL with the extension pgvector 0.8" in problem["detail"]
    assert problem["errors"][0]["pointer"] == "/index"
    assert (shown(client)["index"], shown(client)["index_state"]) == ("exact", None)
    check_problem(post(client, "/check"), 409, "conflict")


@on_postgresql
@pytest.mark.parametrize("view", ["calibrated", "raw"])
def test_searches_by_an_index_are_those_of_all_vectors(
    client: httpx2.Client, crew: Crew, archive: list[str], server: Running, hand: Hand, view: str
) -> None:
    queries = [{"image_id": archive[7]}, {"embedding": vector(1000).tolist()}]
    exact = [found(client, crew, query=query, view=view) for query in queries]
    result = done(client, crew, post(client, index="hnsw"))
    assert (result["index"], result["images"]) == ("hnsw", COUNT)
    assert result["nbytes"] > 2 * DIM * COUNT
    state = shown(client)
    assert (state["index"], state["index_state"]["status"], state["index_state"]["images"]) == ("hnsw", "ready", COUNT)
    # what is near by the index alone: no resident matrix may answer
    server.database.engine.dispose()
    answers = [found(client, crew, query=query, view=view) for query in queries]
    assert [each["neighbors"] for each in answers] == [each["neighbors"] for each in exact]
    assert [each["view"] for each in answers] == [each["view"] for each in exact]

    # what came, went and was replaced since
    hand.store([item("new.jpg", 5000), item("003.jpg", 5001)])
    hand.delete("004.jpg") if "004.jpg" in hand.contents["archive"] else None
    assert keys(found(client, crew, query={"embedding": vector(5000).tolist()}, view=view, top_k=1)) == ["new.jpg"]
    assert keys(found(client, crew, query={"embedding": vector(5001).tolist()}, view=view, top_k=1)) == ["003.jpg"]
    assert "003.jpg" not in keys(found(client, crew, query={"embedding": vector(3).tolist()}, view=view, top_k=1))
    assert client.delete(f"/v1/collections/archive/images/{archive[4]}").status_code == 204
    assert "004.jpg" not in keys(found(client, crew, query={"embedding": vector(4).tolist()}, view=view))

    # a filter that leaves many, and one that leaves few
    near = keys(found(client, crew, query={"embedding": vector(17).tolist()}, view=view, filter={"place": "near"}))
    assert len(near) == 10 and all(int(key[:3]) % 10 == 0 for key in near)
    assert keys(
        found(client, crew, query={"embedding": vector(17).tolist()}, view=view, filter={"place": "far"}, top_k=1)
    ) == ["017.jpg"]

    assert done(client, crew, post(client, index="exact"))["index"] == "exact"
    assert shown(client)["index"] == "exact"
    Upkeep(server.database, hand.storage).run(9)
    with server.database.engine.connect() as connection:
        assert not [name for name in sa.inspect(connection).get_table_names() if name.startswith("hnsw_")]


@on_postgresql
def test_an_index_is_checked_against_exact_searches(client: httpx2.Client, crew: Crew, archive: list[str]) -> None:
    check_problem(post(client, "/check"), 409, "conflict")
    done(client, crew, post(client, index="hnsw"))
    check = done(client, crew, post(client, "/check", queries=20))["check"]
    assert (check["queries"], check["top_k"], check["view"]["name"]) == (20, 10, "calibrated")
    assert check["recall"] >= 0.98 and check["low"] <= check["recall"] <= check["high"]
    assert check["ms"] > 0 and check["exact_ms"] > 0
