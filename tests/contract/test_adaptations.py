"""Collections in spaces that labels made better."""

from __future__ import annotations

from typing import Any

import httpx2
import numpy as np
import pytest

from imagekin.database import tables
from imagekin.store import segments
from imagekin_worker.kinds import adapt, pinned
from kit.analyses import asked, ended, failure_of, result_of, resumed
from kit.calls import accepted
from kit.crew import Crew
from kit.hand import DIM, Hand, item, picture, vector
from kit.known_vectors import near
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

pytestmark = BOTH_ENGINES

COUNT, LABELLED = 72, 45
NAMES = ("chair", "lamp", "sofa")


@pytest.fixture
def images(hand: Hand) -> list[segments.Item]:
    """Images whose class shows in four of 64 dimensions beside louder ones, most of them labelled."""
    hand.collection()
    items = []
    for at in range(COUNT):
        image = item(f"{at:02}.jpg", at)
        image.vector = vector(at, DIM)
        image.vector[-4:] *= 8
        image.vector[4 * (at % 3) : 4 * (at % 3) + 4] += 3
        image.metadata = {"label": NAMES[at % 3]} if at < LABELLED else {"place": "Köln"}
        image.thumbnail = picture(at, kind="JPEG") if at % 2 else None
        items.append(image)
    for start in range(0, COUNT, 20):
        hand.store(items[start : start + 20])
    return items


def vectors(client: httpx2.Client, name: str) -> dict[str, np.ndarray]:
    found = client.get(f"/v1/collections/{name}/images", params={"limit": 1000}).json()["items"]
    address = f"/v1/collections/{name}/images"
    return {
        image["key"]: np.array(client.get(f"{address}/{image['id']}/embedding").json()["embedding"], np.float32)
        for image in found
    }


def kin(client: httpx2.Client, crew: Crew, name: str) -> float:
    """Return of the five nearest of some images without a label the share of their kind."""
    shares = []
    for at in range(LABELLED, COUNT, 2):
        body = {"collection": name, "query": {"image_key": f"{at:02}.jpg"}, "top_k": 5}
        job = accepted(client.post("/v1/jobs/search", json=body))
        crew.work()
        found = client.get(f"/v1/jobs/{job['id']}/result").json()["neighbors"]
        shares.append(np.mean([int(one["key"][:2]) % 3 == at % 3 for one in found]))
    return float(np.mean(shares))


@pytest.mark.usefixtures("images")
def test_kin_are_nearer_in_the_new_collection(client: httpx2.Client, crew: Crew) -> None:
    result = result_of(client, crew, "adapt", name="taught")
    assert result["after"]["map"] > result["before"]["map"] + 0.15
    assert 0 < result["gain"]["map"][0] < result["gain"]["map"][1]
    assert (result["collection"], result["better"], result["images"]) == ("taught", True, COUNT)
    made, before = (client.get(f"/v1/collections/{name}").json() for name in ("taught", "archive"))
    assert (made["image_count"], made["backbone"]) == (COUNT, before["backbone"])
    assert made["space_id"] == result["space_id"] != before["space_id"]
    assert made["dim"] == result["dim"] == DIM + len(NAMES) - 1
    assert kin(client, crew, "taught") > kin(client, crew, "archive") + 0.2
    image, old = (
        next(
            one
            for one in client.get(f"/v1/collections/{name}/images", params={"limit": 1000}).json()["items"]
            if one["key"] == "47.jpg"
        )
        for name in ("taught", "archive")
    )
    for same in ("content_hash", "width", "height", "format", "metadata"):
        assert image[same] == old[same]
    thumbnail = client.get(f"/v1/collections/taught/images/{image['id']}/thumbnail")
    assert thumbnail.content == picture(47, kind="JPEG")


def test_pictures_that_come_later_go_through_network_and_projection(
    client: httpx2.Client, server: Running, images: list[segments.Item], crew: Crew
) -> None:
    result_of(client, crew, "adapt", name="taught")
    new = picture(999)
    for name in ("taught", "archive"):
        job = accepted(client.post("/v1/jobs/embed", data={"collection": name}, files={"images": ("new.png", new)}))
        crew.work()
        assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"
    plain, taught = vectors(client, "archive"), vectors(client, "taught")
    space = client.get("/v1/collections/taught").json()["space_id"]

    def saved(session: Any) -> bytes:
        return session.get_one(tables.Space, space).projection or b""

    projection = adapt.projections.Projection.load(server.database.read(saved))
    for key in ("new.png", "03.jpg"):
        np.testing.assert_allclose(taught[key], projection.apply(plain[key][None])[0], atol=1e-6)
    # a picture to search with takes the same way
    job = accepted(
        client.post("/v1/jobs/search", data={"collection": "taught", "top_k": "1"}, files={"image": ("q.png", new)})
    )
    crew.work()
    [nearest] = client.get(f"/v1/jobs/{job['id']}/result").json()["neighbors"]
    assert (nearest["key"], nearest["score"]) == ("new.png", pytest.approx(1, abs=1e-5))


@pytest.mark.usefixtures("images")
def test_slices_and_another_process_make_the_same_collection(
    client: httpx2.Client, server: Running, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = result_of(client, crew, "adapt", name="whole")
    monkeypatch.setattr(pinned, "SLICE_S", 0.0)
    monkeypatch.setattr(adapt, "IMAGES_PER_COMMIT", 1)
    found = resumed(server, client, "adapt", processes=12, name="sliced")
    assert {**found, "collection": "whole"} == whole
    one, other = vectors(client, "whole"), vectors(client, "sliced")
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


def test_what_is_not_better_is_not_made(client: httpx2.Client, hand: Hand, crew: Crew) -> None:
    hand.collection()
    items = [near(f"{at:02}.jpg", at) for at in range(36)]
    for at, image in enumerate(items):
        image.metadata = {"label": NAMES[at % 3], "few": at % 3 if at < 6 else None, "one": at}
    hand.store(items)
    assert failure_of(client, crew, "adapt", name="taught") == "not_better"
    assert failure_of(client, crew, "adapt", name="taught", field="few") == "not_better"
    assert failure_of(client, crew, "adapt", name="taught", field="one") == "too_few_labels"
    check_problem(client.get("/v1/collections/taught"), 404, "collection_not_found")
    result = result_of(client, crew, "adapt", name="taught", force=True)
    assert (result["better"], result["images"]) == (False, 36)
    unknown = {"precision_at_5": None, "map": None}
    assert result_of(client, crew, "adapt", name="forced", field="few", force=True)["after"] == unknown
    job = accepted(asked(client, "adapt", name="again", force=True))
    crew.work()
    text = client.get(f"/v1/jobs/{job['id']}/result", headers={"Accept": "text/csv"}).text
    assert text.startswith('"collection","field","before"')
    assert ended(client, job)["collection"] == "again"


@pytest.mark.usefixtures("images")
def test_an_adaptation_that_cannot_be_is_a_problem(
    client: httpx2.Client, stranger: httpx2.Client, hand: Hand, crew: Crew
) -> None:
    check_problem(asked(stranger, "adapt", name="taught"), 404, "collection_not_found")
    for wrong in ({}, {"name": "a b"}, {"name": "taught", "field": ""}, {"name": "taught", "view": "raw"}):
        check_problem(asked(client, "adapt", **wrong), 422, "invalid_request")
    check_problem(asked(client, "adapt", name="archive"), 409, "collection_exists")
    first, second = (accepted(asked(client, "adapt", name="taught")) for _ in range(2))
    crew.work()
    assert ended(client, first)["collection"] == "taught"
    failed = client.get(f"/v1/jobs/{second['id']}").json()
    assert (failed["status"], failed["error"]["code"]) == ("failed", "collection_exists")
    body = {"collection": "taught", "name": "twice"}
    problem = check_problem(client.post("/v1/jobs/adapt", json=body), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/collection"
