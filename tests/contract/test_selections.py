"""Which images to look at or to label first."""

from __future__ import annotations

import contextlib
import csv
import io
from typing import Any

import httpx2
import numpy as np
import pytest

from imagekin_worker.kinds import pinned
from imagekin_worker.matrix import view as views
from kit.analyses import asked, ended, result_of, resumed
from kit.calls import accepted
from kit.crew import Crew
from kit.hand import DIM, Hand, item, vector
from kit.known_vectors import near
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

pytestmark = BOTH_ENGINES

COUNT = 40


@pytest.fixture
def images(hand: Hand) -> list[str]:
    """Forty images of the archive, a third of them marked odd."""
    hand.collection()
    items = [item(f"{at:02}.jpg", at, **({"odd": True} if at % 3 == 0 else {})) for at in range(COUNT)]
    return hand.store(items)


def select(client: httpx2.Client, **body: Any) -> httpx2.Response:
    return asked(client, "select", **{"n": 6, **body})


def chosen(client: httpx2.Client, crew: Crew, **body: Any) -> dict[str, Any]:
    return result_of(client, crew, "select", **{"n": 6, **body})


def keys(result: dict[str, Any]) -> list[str]:
    return [row["key"] for row in result["rows"]]


def in_view() -> np.ndarray:
    vectors = np.stack([vector(at, DIM) for at in range(COUNT)]).astype(np.float32)
    return views.of(vectors, "space").exact(vectors)


@pytest.mark.usefixtures("images")
def test_diverse_takes_the_farthest_first(client: httpx2.Client, crew: Crew) -> None:
    rows = in_view()
    first = int((rows @ rows.mean(0)).argmax())
    expected, distances = [first], []
    for _ in range(5):
        cosines = (rows @ rows[expected].T).max(1)
        expected.append(int(cosines.argmin()))
        distances.append(1 - cosines.min())
    result = chosen(client, crew, method="diverse")
    assert keys(result) == [f"{at:02}.jpg" for at in expected]
    assert [row["rank"] for row in result["rows"]] == [1, 2, 3, 4, 5, 6]
    assert [row["distance"] for row in result["rows"][1:]] == pytest.approx(distances, abs=1e-5)
    assert result["coverage"] == pytest.approx((rows @ rows[expected].T).max(1).mean(), abs=1e-5)
    assert (result["view"]["name"], result["view"]["images"]) == ("calibrated", COUNT)
    assert (result["method"], result["n"]) == ("diverse", 6)
    raw = chosen(client, crew, method="diverse", view="raw")
    assert raw["view"]["name"] == "raw"
    assert raw["view"]["id"] != result["view"]["id"]


def test_representative_takes_one_of_each_kind(client: httpx2.Client, hand: Hand, crew: Crew) -> None:
    hand.collection()
    hand.store([near(f"{at:02}.jpg", at) for at in range(36)])
    result = chosen(client, crew, n=3)
    assert {int(key[:2]) % 3 for key in keys(result)} == {0, 1, 2}
    job = accepted(select(client, n=3))
    crew.work()
    text = client.get(f"/v1/jobs/{job['id']}/result", headers={"Accept": "text/csv"}).text
    assert [row["key"] for row in csv.DictReader(io.StringIO(text, newline=""))] == keys(result)
    sheet = client.get(f"/v1/jobs/{job['id']}/sheet")
    assert sheet.content.startswith(b"\x89PNG")


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("method", ["diverse", "representative"])
def test_slices_and_another_process_give_the_same_answer(
    client: httpx2.Client, server: Running, crew: Crew, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = chosen(client, crew, method=method)
    monkeypatch.setattr(pinned, "SLICE_S", 0.0)
    before = crew.claims
    assert chosen(client, crew, method=method) == whole
    assert crew.claims - before > 5
    assert resumed(server, client, "select", n=6, method=method) == whole


@pytest.mark.parametrize("many", [False, True])
def test_metadata_that_change_meanwhile_do_not_start_it_over(
    client: httpx2.Client, server: Running, hand: Hand, images: list[str], many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinned, "SLICE_S", 0.0)
    job, revision = accepted(asked(client, "select", n=6, method="diverse")), hand.collection().revision
    path = "/v1/collections/archive/images"
    with contextlib.closing(Crew(server.settings)) as first:
        assert first.step()
    if many:
        client.patch(path, json={"image_ids": images, "metadata": {"said": 1}}).raise_for_status()
    else:
        client.patch(f"{path}/{images[0]}", json={"metadata": {"said": 1}}).raise_for_status()
    assert hand.collection().revision == revision + 1
    with contextlib.closing(Crew(server.settings)) as other:
        other.work()
    assert ended(client, job)["revision"] == revision


def test_a_filter_and_what_is_avoided_bound_the_choice(
    client: httpx2.Client, hand: Hand, images: list[str], crew: Crew
) -> None:
    odd = {f"{at:02}.jpg" for at in range(0, COUNT, 3)}
    result = chosen(client, crew, n=100, method="diverse", filter={"odd": True})
    assert (set(keys(result)), result["n"], len(result["rows"])) == (odd, len(odd), len(odd))
    # the view is the whole collection's, so its distances compare with others
    assert result["view"] == chosen(client, crew)["view"]
    rows = in_view()
    farthest = int((rows @ rows[:3].T).max(1).argmin())
    named = chosen(client, crew, n=1, method="diverse", avoid=images[:3])
    assert keys(named) == [f"{farthest:02}.jpg"]
    hand.collection("labelled")
    assert keys(chosen(client, crew, n=2, avoid="labelled")) == keys(chosen(client, crew, n=2))
    hand.store([item(f"known/{at}.jpg", at) for at in range(3)], "labelled")
    assert chosen(client, crew, n=1, method="diverse", avoid="labelled")["rows"] == named["rows"]


def test_a_selection_that_cannot_be_is_a_problem(
    client: httpx2.Client, stranger: httpx2.Client, hand: Hand, images: list[str], crew: Crew
) -> None:
    check_problem(select(stranger), 404, "collection_not_found")
    check_problem(select(client, avoid="nowhere"), 404, "collection_not_found")
    check_problem(select(client, avoid=["0" * 32]), 404, "image_not_found")
    for wrong in ({"n": 0}, {"n": 10_001}, {"method": "best"}, {"view": "nice"}, {"avoid": 7}):
        check_problem(select(client, **wrong), 422, "invalid_request")
    other = {"name": "other", "backbone": "resnet50"}
    assert client.post("/v1/collections", json=other).status_code == 201
    problem = check_problem(select(client, avoid="other"), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/avoid"
    hand.collection("empty")
    problem = check_problem(select(client, collection="empty"), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/collection"
    job = accepted(select(client, filter={"odd": "never"}))
    check_problem(client.get(f"/v1/jobs/{job['id']}/result"), 409, "job_not_finished")
    crew.work()
    job = client.get(f"/v1/jobs/{job['id']}").json()
    assert (job["status"], job["error"]["code"]) == ("failed", "invalid_request")
