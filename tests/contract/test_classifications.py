"""Labels suggested by labels."""

from __future__ import annotations

import csv
import io

import httpx2
import pytest

from imagekin.store import segments
from imagekin_worker.kinds import pinned
from kit.analyses import asked, failure_of, result_of, resumed
from kit.calls import accepted
from kit.crew import Crew
from kit.hand import Hand, item
from kit.known_vectors import CENTERS, near
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

pytestmark = BOTH_ENGINES

COUNT, LABELLED = 48, 15
# What people put there: texts, numbers and what JSON has besides.
KINDS = ["chair", 'a "sofa"', 3]


def kind(key: str) -> object:
    return KINDS[int(key[:2]) % 3]


@pytest.fixture
def images(hand: Hand) -> list[segments.Item]:
    """Forty-eight images of three kinds, the first fifteen of them labelled."""
    hand.collection()
    items = [near(f"{at:02}.jpg", at) for at in range(COUNT)]
    for image in items[:LABELLED]:
        image.metadata = {"label": kind(image.key), "place": "Köln"}
    items[-1].metadata = {"label": None}
    hand.store(items)
    return items


@pytest.mark.usefixtures("images")
def test_images_without_a_label_get_one(client: httpx2.Client, crew: Crew) -> None:
    result = result_of(client, crew, "classify")
    rows = result["rows"]
    assert {row["key"]: row["label"] for row in rows} == {
        (key := f"{at:02}.jpg"): kind(key) for at in range(LABELLED, COUNT)
    }
    sure = [row["probability"] for row in rows]
    assert sure == sorted(sure, reverse=True)
    assert 1 / 3 < sure[-1] <= sure[0] <= 1
    assert (result["field"], result["images"], result["view"]["name"]) == ("label", COUNT - LABELLED, "calibrated")
    accuracy = result["accuracy"]
    assert (accuracy["value"], accuracy["high"], accuracy["examples"]) == (1, 1, LABELLED)
    # Wilson's interval of 15 right ones of 15
    assert accuracy["low"] == pytest.approx(0.7961, abs=1e-4)
    assert result["classes"] == [
        {"label": label, "examples": 5, "precision": 1, "recall": 1} for label in ('a "sofa"', "chair", 3)
    ]
    least = sure[len(sure) // 2]
    some = result_of(client, crew, "classify", min_probability=least)
    assert some["rows"] == [row for row in rows if row["probability"] >= least]


@pytest.mark.usefixtures("images")
def test_slices_and_another_process_suggest_the_same(
    client: httpx2.Client, server: Running, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = result_of(client, crew, "classify")
    monkeypatch.setattr(pinned, "SLICE_S", 0.0)
    assert resumed(server, client, "classify") == whole


def test_labels_that_change_meanwhile_start_it_over(
    client: httpx2.Client, server: Running, images: list[segments.Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinned, "SLICE_S", 0.0)
    job = accepted(asked(client, "classify"))
    first = Crew(server.settings)
    assert first.step()
    first.close()
    chairs = [item.key for item in images[:LABELLED] if kind(item.key) == "chair"]
    change = {"image_keys": chairs, "metadata": {"label": "lamp"}}
    assert client.patch("/v1/collections/archive/images", json=change).json() == {"changed": 5}
    second = Crew(server.settings)
    second.work()
    second.close()
    result = client.get(f"/v1/jobs/{job['id']}/result").json()
    assert {row["label"] for row in result["rows"]} == {'a "sofa"', "lamp", 3}


def test_suggestions_are_a_table_and_a_sheet(client: httpx2.Client, hand: Hand, crew: Crew) -> None:
    hand.collection()
    items = [item(f"{at}.png", at) for at in range(6)]
    for at, image in enumerate(items[:4]):
        image.metadata = {"kind": at % 2}
        image.vector = CENTERS[at % 2]
    hand.store(items)
    job = accepted(asked(client, "classify", field="kind", view="raw"))
    crew.work()
    address = f"/v1/jobs/{job['id']}"
    text = client.get(f"{address}/result", headers={"Accept": "text/csv"}).text
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert (list(rows[0]), len(rows)) == (["id", "key", "label", "probability"], 2)
    sheet = client.get(f"{address}/sheet").content
    assert sheet.startswith(b"\x89PNG")
    assert client.get(f"{address}/sheet", params={"label": "none"}).content not in (sheet, b"")


def test_a_classification_that_cannot_be_is_a_problem(
    client: httpx2.Client, stranger: httpx2.Client, hand: Hand, crew: Crew
) -> None:
    check_problem(asked(stranger, "classify"), 404, "collection_not_found")
    hand.collection()
    problem = check_problem(asked(client, "classify"), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/collection"
    items = [near(f"{at:02}.jpg", at) for at in range(6)]
    for at, image in enumerate(items):
        image.metadata = {"label": "same", "name": f"{at}", "text": "x" * 1100, "odd": [1] if at < 5 else [2]}
    hand.store(items)
    for wrong in ({"field": ""}, {"min_probability": 1.1}, {"view": "nice"}, {"n": 5}):
        check_problem(asked(client, "classify", **wrong), 422, "invalid_request")
    for field in ("label", "name", "odd", "missing"):
        assert failure_of(client, crew, "classify", field=field) == "too_few_labels"
    assert failure_of(client, crew, "classify", field="text") == "invalid_request"
