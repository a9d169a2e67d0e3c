"""Collections laid out in the plane."""

from __future__ import annotations

import csv
import io
from io import BytesIO

import httpx2
import numpy as np
import pytest
from PIL import Image

from imagekin_worker.kinds import pinned
from kit.analyses import asked, failure_of, result_of, resumed
from kit.calls import accepted
from kit.crew import Crew
from kit.hand import Hand
from kit.known_vectors import near
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

pytestmark = BOTH_ENGINES

COUNT = 36


@pytest.fixture
def images(hand: Hand) -> None:
    """Thirty-six images of three kinds."""
    hand.collection()
    hand.store([near(f"{at:02}.jpg", at) for at in range(COUNT)])


@pytest.mark.usefixtures("images")
def test_alike_images_lie_together(client: httpx2.Client, crew: Crew) -> None:
    result = result_of(client, crew, "map")
    assert [row["key"] for row in result["rows"]] == [f"{at:02}.jpg" for at in range(COUNT)]
    assert (result["seed"], result["images"], result["view"]["name"]) == (100, COUNT, "calibrated")
    places = np.array([(row["x"], row["y"]) for row in result["rows"]])
    assert places.min() >= 0
    assert places.max() <= 1
    assert np.ptp(places, axis=0).max() == pytest.approx(1)
    distances = np.linalg.norm(places[:, None] - places, axis=2) + 9 * np.eye(COUNT)
    nearest = np.argsort(distances, axis=1)[:, :5]
    assert (nearest % 3 == np.arange(COUNT)[:, None] % 3).mean() > 0.9
    assert result_of(client, crew, "map")["rows"] == result["rows"]
    assert result_of(client, crew, "map", seed=3, view="raw")["view"]["name"] == "raw"


@pytest.mark.usefixtures("images")
def test_slices_and_another_process_give_the_same_map(
    client: httpx2.Client, server: Running, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = result_of(client, crew, "map")
    monkeypatch.setattr(pinned, "SLICE_S", 0.0)
    assert resumed(server, client, "map") == whole


def test_a_map_is_a_picture(client: httpx2.Client, hand: Hand, crew: Crew) -> None:
    hand.collection()
    hand.images("a.png", "b.png", "c.png")
    job = accepted(asked(client, "map"))
    crew.work()
    text = client.get(f"/v1/jobs/{job['id']}/result", headers={"Accept": "text/csv"}).text
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert ([row["key"] for row in rows], list(rows[0])) == (["a.png", "b.png", "c.png"], ["id", "key", "x", "y"])
    sheet = client.get(f"/v1/jobs/{job['id']}/sheet")
    with Image.open(BytesIO(sheet.content)) as picture:
        assert (picture.format, picture.width > 1600) == ("PNG", True)


@pytest.mark.usefixtures("images")
def test_a_map_that_cannot_be_is_a_problem(
    client: httpx2.Client, stranger: httpx2.Client, hand: Hand, crew: Crew
) -> None:
    check_problem(asked(stranger, "map"), 404, "collection_not_found")
    for wrong in ({"seed": -1}, {"view": "nice"}, {"perplexity": 5}):
        check_problem(asked(client, "map", **wrong), 422, "invalid_request")
    hand.collection("empty")
    problem = check_problem(client.post("/v1/jobs/map", json={"collection": "empty"}), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/collection"
    assert failure_of(client, crew, "map", filter={"kind": "none"}) == "invalid_request"
