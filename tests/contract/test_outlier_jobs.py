"""Images that are least like all others, each with its nearest one."""

from __future__ import annotations

import csv
import io
import shutil
from dataclasses import replace
from typing import Any

import httpx2
import numpy as np
import pytest

from imagekin.store import segments
from imagekin_worker.analysis.outliers import Outliers
from imagekin_worker.kinds import pinned
from imagekin_worker.matrix import view
from kit.calls import accepted
from kit.crew import Crew
from kit.hand import Hand, item
from kit.known_vectors import near
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

pytestmark = BOTH_ENGINES

STRANGE = {"strange-0.jpg", "strange-1.jpg", "twin-0.jpg", "twin-1.jpg"}


def drawn() -> list[segments.Item]:
    """Images of three kinds by key, two strangers, and two files with the same bytes that are strange, too."""
    kinds = [near(f"{at:02}.jpg", at) for at in range(60)]
    strangers = [item(f"strange-{at}.jpg", 700 + at, odd=True) for at in range(2)]
    twins = [replace(item("twin-0.jpg", 800), key=f"twin-{at}.jpg") for at in range(2)]
    return [*kinds, *strangers, *twins]


@pytest.fixture
def archive(hand: Hand) -> dict[str, str]:
    """Ids by key."""
    hand.collection()
    return dict(zip([each.key for each in drawn()], hand.store(drawn()), strict=True))


def search(client: httpx2.Client, **body: Any) -> httpx2.Response:
    return client.post("/v1/jobs/outliers", json={"collection": "archive", **body})


def ended(client: httpx2.Client, job: dict[str, Any]) -> dict[str, Any]:
    job = client.get(f"/v1/jobs/{job['id']}").json()
    assert (job["status"], job["progress"]["fraction"]) == ("succeeded", 1), job
    return client.get(f"/v1/jobs/{job['id']}/result").json()


def found(client: httpx2.Client, crew: Crew, **body: Any) -> dict[str, Any]:
    job = accepted(search(client, **body))
    crew.work()
    return ended(client, job)


@pytest.mark.parametrize("name", ["calibrated", "raw"])
def test_the_strangest_come_first_as_the_analysis_has_them(
    client: httpx2.Client, server: Running, archive: dict[str, str], crew: Crew, name: str
) -> None:
    rows = np.stack([each.vector for each in drawn() if each.vector is not None])
    identical = np.arange(len(rows))
    identical[-1] = len(rows) - 2
    core = Outliers(
        rows, view.of(rows, "space", name), identical=identical, memory_budget_bytes=1 << 24,
        folder=server.settings.data_dir,
    )  # fmt: skip
    core.advance()
    expected, keys = core.result(), [each.key for each in drawn()]
    result = found(client, crew, n=8, view=name)
    assert {row["key"] for row in result["rows"][:4]} == STRANGE
    assert [(row["rank"], row["key"], row["nearest"]["key"]) for row in result["rows"]] == [
        (rank, keys[row], keys[expected.nearest[row]]) for rank, row in enumerate(expected.order[:8].tolist(), 1)
    ]
    scores = [row["score"] for row in result["rows"]]
    assert scores == pytest.approx(expected.scores[expected.order[:8]], abs=1e-5)
    assert scores == sorted(scores, reverse=True)
    first = result["rows"][0]
    assert first["id"] == archive[first["key"]] and first["nearest"]["id"] == archive[first["nearest"]["key"]]
    # twins do not hide each other
    assert not any(row["nearest"]["key"].startswith("twin") for row in result["rows"] if row["key"].startswith("twin"))
    assert (result["n"], result["images"], result["view"]["name"]) == (8, len(rows), name)
    assert result["view"]["images"] == len(rows)


@pytest.mark.usefixtures("archive")
def test_slices_and_another_process_give_the_same_answer(
    client: httpx2.Client, server: Running, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = found(client, crew)
    assert whole["n"] == 64
    # what that left would be taken instead
    shutil.rmtree(server.settings.cache_folder)
    monkeypatch.setattr(pinned, "SLICE_S", 0.0)
    monkeypatch.setattr("imagekin_worker.analysis.pairs.QUERY_ROWS", 32)
    job, fractions = accepted(search(client)), [0.0]
    while True:
        # each claim in a process of its own, which remembers nothing
        process = Crew(server.settings)
        try:
            if not process.step():
                break
        finally:
            process.close()
        fractions.append(client.get(f"/v1/jobs/{job['id']}").json()["progress"]["fraction"])
    assert len(fractions) > 4 and fractions == sorted(fractions)
    assert ended(client, job) == whole


@pytest.mark.usefixtures("archive")
def test_a_job_is_let_go_after_a_slice_only_if_others_wait(
    client: httpx2.Client, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process would read all vectors again."""
    monkeypatch.setattr(pinned, "SLICE_S", 1e-9)
    monkeypatch.setattr(pinned, "SLICES", 1e12)

    def asked(n: int) -> dict[str, Any]:
        return accepted(search(client, n=n))

    alone = asked(8)
    assert crew.step()
    whole = ended(client, alone)
    first, second = asked(8), asked(7)
    assert crew.step()
    status = [client.get(f"/v1/jobs/{job['id']}").json()["status"] for job in (first, second)]
    assert status == ["running", "queued"]
    crew.work()
    assert ended(client, first) == whole and ended(client, second)["rows"] == whole["rows"][:7]


@pytest.mark.usefixtures("archive")
def test_a_filter_lines_and_a_sheet(client: httpx2.Client, crew: Crew) -> None:
    assert {row["key"] for row in found(client, crew, filter={"odd": True})["rows"]} == {
        "strange-0.jpg", "strange-1.jpg",
    }  # fmt: skip
    job = accepted(search(client, n=40))
    crew.work()
    result, path = ended(client, job), f"/v1/jobs/{job['id']}"
    text = client.get(f"{path}/result", headers={"Accept": "text/csv"}).text
    assert [(row["key"], row["nearest.id"]) for row in csv.DictReader(io.StringIO(text, newline=""))] == [
        (row["key"], row["nearest"]["id"]) for row in result["rows"]
    ]
    pages = [client.get(f"{path}/sheet", params={"page": page}).content for page in (1, 2)]
    assert all(page.startswith(b"\x89PNG") for page in pages) and pages[0] != pages[1]


def test_a_search_that_cannot_be_is_a_problem(
    client: httpx2.Client, stranger: httpx2.Client, hand: Hand, crew: Crew
) -> None:
    check_problem(search(stranger), 404, "collection_not_found")
    hand.collection()
    problem = check_problem(search(client), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/collection"
    for wrong in ({"n": 0}, {"n": 10_001}, {"view": "nice"}, {"filter": 7}, {"threshold": 1}):
        check_problem(search(client, **wrong), 422, "invalid_request")
    hand.images("alone.jpg")
    alone = found(client, crew)
    assert [(row["key"], row["score"], row["nearest"]) for row in alone["rows"]] == [("alone.jpg", 0, None)]
    job = accepted(search(client, filter={"odd": True}))
    crew.work()
    assert client.get(f"/v1/jobs/{job['id']}").json()["error"]["code"] == "invalid_request"
