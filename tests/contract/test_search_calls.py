"""Searches and clusterings as they are posted."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx2
import pytest
from PIL import ExifTags, Image

from kit.calls import accepted, row, search
from kit.crew import Crew
from kit.hand import DIM, Hand, numbered, picture, vector
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

pytestmark = BOTH_ENGINES


def test_a_search_by_address(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    body = {"collection": "archive", "query": {"url": "https://example.org/a.jpg"}}
    job = accepted(client.post("/v1/jobs/search", json=body))
    assert job["params"]["query"] == body["query"]
    assert row(server, job["id"]).work["query"] == body["query"]


def test_a_search_by_key_is_resolved_at_once(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    [image] = hand.images("ü.jpg")
    for query in ({"image_key": "u\u0308.jpg"}, {"image_id": image}):
        job = accepted(search(client, query=query))
        assert row(server, job["id"]).work == {"query": {"image_id": image}}
    assert job["params"] == {
        "query": {"image_id": image}, "top_k": 10, "min_score": None, "exclude_query": True,
        "view": "calibrated", "filter": None, "crop": None, "collapse_duplicates": False,
    }  # fmt: skip


def test_a_part_of_a_picture_is_searched_for(client: httpx2.Client, hand: Hand, crew: Crew) -> None:
    """The part is that of the upright picture, and found as the same pixels in a file of their own are."""
    hand.collection()
    hand.images(*numbered(40))
    lying = Image.open(io.BytesIO(picture(7, (80, 60))))
    upright, turn = lying.transpose(Image.Transpose.ROTATE_270), Image.Exif()
    turn[ExifTags.Base.Orientation] = 6

    def png(image: Image.Image, **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, "PNG", **options)
        return file.getvalue()

    def found(image: bytes, **fields: str) -> tuple[dict[str, Any], bytes]:
        files = {"image": ("a.png", image)}
        answer = client.post("/v1/jobs/search", data={"collection": "archive", **fields}, files=files)
        job = accepted(answer)
        crew.work()
        sheet = client.get(f"/v1/jobs/{job['id']}/sheet")
        return client.get(f"/v1/jobs/{job['id']}/result").json(), sheet.content

    cropped, sheet = found(png(lying, exif=turn), crop="[0.25, 0.5, 0.5, 0.25]")
    part, _ = found(png(upright.crop((15, 40, 45, 60))))
    whole, other_sheet = found(png(lying, exif=turn))
    assert cropped["crop"] == [0.25, 0.5, 0.5, 0.25] and "crop" not in part
    assert cropped["neighbors"] == part["neighbors"] != whole["neighbors"]
    assert sheet != other_sheet
    everything, _ = found(png(lying, exif=turn), crop="[0, 0, 1, 1]")
    assert everything["neighbors"] == whole["neighbors"]
    for wrong, pointer in (("left", "/crop"), ("[0, 0, 2, 1]", "/crop/2"), ("[0, 0, 0, 1]", "/crop"), ("7", "/crop")):
        form = {"data": {"collection": "archive", "crop": wrong}, "files": {"image": ("a.png", picture())}}
        problem = check_problem(client.post("/v1/jobs/search", **form), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == pointer, problem


def test_marks_beside_a_picture_refine_its_search(client: httpx2.Client, hand: Hand, crew: Crew) -> None:
    """A picture in a form with right and wrong images is what the same stored images are in JSON."""
    hand.collection()
    ids = hand.images(*numbered(40))
    marks = {"positives": [{"image_id": ids[1]}], "negatives": [{"image_id": ids[2]}]}
    form = {name: json.dumps(marked) for name, marked in marks.items()}
    answer = client.post(
        "/v1/jobs/search", data={"collection": "archive", **form}, files={"image": ("a.png", picture(5))}
    )
    job = accepted(answer)
    assert job["params"]["query"] == {**marks, "positives": [{"image": "a.png"}, *marks["positives"]]}
    crew.work()
    found = client.get(f"/v1/jobs/{job['id']}/result").json()
    shown = {each["id"] for each in found["neighbors"]}
    assert shown and not shown & {ids[1], ids[2]}
    assert found["ask"] and client.get(f"/v1/jobs/{job['id']}/sheet").status_code == 200
    wrong = {"collection": "archive", "negatives": '[{"image_id": "nowhere"}]'}
    check_problem(
        client.post("/v1/jobs/search", data=wrong, files={"image": ("a.png", picture(5))}), 404, "image_not_found"
    )


def test_a_search_by_embedding_must_fit_the_space(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    embedding = [float(number) for number in vector(1, DIM)]
    job = accepted(search(client, query={"embedding": embedding}, top_k=3, min_score=0.5, filter={"year": 1969}))
    assert row(server, job["id"]).work["query"]["embedding"] == pytest.approx(embedding)
    assert (job["params"]["top_k"], job["params"]["min_score"], job["params"]["filter"]) == (3, 0.5, {"year": 1969})
    for wrong in (embedding[1:], [0.0] * DIM, [1e300] * DIM, [1e30] * DIM):
        problem = check_problem(search(client, query={"embedding": wrong}), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == "/query/embedding"
    nan = b'{"collection": "archive", "query": {"embedding": [NaN]}}'
    answer = client.post("/v1/jobs/search", content=nan, headers={"Content-Type": "application/json"})
    check_problem(answer, 400, "bad_request")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"query": {"image_id": 5}}, "/query/image_id"),
        ({"query": {"embedding": ["a"]}}, "/query/embedding/0"),
        ({"query": {"image_id": "a", "image_key": "b"}}, "/query/image_key"),
        ({"query": {"url": "ftp://example.org/a.jpg"}}, "/query/url"),
        ({"query": {"url": "http://user:secret@example.org/a.jpg"}}, "/query/url"),
        ({"query": "a.jpg"}, "/query"),
        ({}, "/query"),
        ({"query": {"image_id": "a"}, "top_k": 0}, "/top_k"),
        ({"query": {"image_id": "a"}, "top_k": "3"}, "/top_k"),
        ({"query": {"image_id": "a"}, "exclude_query": 1}, "/exclude_query"),
        ({"query": {"image_id": "a"}, "callback_url": "ftp://example.org"}, "/callback_url"),
        ({"query": {"image_id": "a"}, "filter": {"a": "\0"}}, "/filter/a"),
        ({"query": {"image_id": "a"}, "collapse_duplicates": "yes"}, "/collapse_duplicates"),
        ({"query": {"image_id": "a"}, "crop": [0, 0, 0.5, 0.5]}, "/crop"),
        ({"query": {"url": "https://example.org/a.jpg"}, "crop": [0, 0, 0.5]}, "/crop"),
        ({"query": {"url": "https://example.org/a.jpg"}, "crop": [0, 0, 0.5, 1.5]}, "/crop/3"),
        ({"query": {"url": "https://example.org/a.jpg"}, "crop": [0, 0, "all", 1]}, "/crop/2"),
        ({"query": {"url": "https://example.org/a.jpg"}, "crop": [0, 0, 0, 1]}, "/crop"),
        ({"query": {"url": "https://example.org/a.jpg"}, "crop": [0.6, 0, 0.5, 1]}, "/crop"),
        ({"positives": [{"url": "https://example.org/a.jpg"}], "crop": [0, 0, 0.5, 0.5]}, "/crop"),
    ],
)
def test_a_wrong_search_is_pointed_at(client: httpx2.Client, hand: Hand, body: dict[str, Any], pointer: str) -> None:
    hand.collection()
    problem = check_problem(search(client, **body), 422, "invalid_request")
    assert pointer in {error["pointer"] for error in problem["errors"]}


def test_a_cluster_job_keeps_its_parameters(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    hand.images("a.jpg", "b.jpg", "c.jpg")
    body = {"collection": "archive", "n_clusters": 3, "metric": "cosine"}
    job = accepted(client.post("/v1/jobs/cluster", json=body))
    assert job["params"] == {
        "n_clusters": 3, "metric": "cosine", "algorithm": "kmeans", "view": "calibrated", "seed": 100,
        "n_init": None,
    }  # fmt: skip
    auto = accepted(client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": "auto"}))
    assert (auto["params"]["n_clusters"], auto["params"]["max_clusters"]) == ("auto", 50)
    hand.collection("empty")
    nothing = client.post("/v1/jobs/cluster", json={"collection": "empty", "n_clusters": "auto"})
    assert check_problem(nothing, 422, "invalid_request")["errors"][0]["pointer"] == "/n_clusters"
    for wrong, pointer in [
        ({"n_clusters": 4}, "/n_clusters"),
        ({"n_clusters": 0}, "/n_clusters"),
        ({"n_clusters": True}, "/n_clusters"),
        ({"n_clusters": "many"}, "/n_clusters"),
        ({"n_clusters": "auto", "max_clusters": 1}, "/max_clusters"),
        ({"max_clusters": 501}, "/max_clusters"),
        ({"metric": "manhattan"}, "/metric"),
        ({"algorithm": "guess"}, "/algorithm"),
        ({"view": "guess"}, "/view"),
        ({"seed": -1}, "/seed"),
    ]:
        problem = check_problem(client.post("/v1/jobs/cluster", json={**body, **wrong}), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == pointer
