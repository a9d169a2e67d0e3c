"""Images put into the clusters of an earlier clustering."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import httpx2
import numpy as np
import pytest

from imagekin.database import tables
from imagekin_worker.kinds import assign as assign_kind
from imagekin_worker.kmeans.measure import assign as place
from kit.calls import accepted, embed, upload
from kit.crew import Crew
from kit.hand import DIM, Hand
from kit.known_vectors import near
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

pytestmark = BOTH_ENGINES


@pytest.fixture
def clustering(client: httpx2.Client, hand: Hand, crew: Crew) -> dict[str, Any]:
    """A finished clustering of 36 images around three centers, as its job."""
    hand.collection()
    hand.store([near(f"{at}.jpg", at) for at in range(36)])
    job = accepted(client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 3}))
    crew.work()
    return client.get(f"/v1/jobs/{job['id']}").json()


def assign(client: httpx2.Client, clustering: dict[str, Any], **body: Any) -> httpx2.Response:
    return client.post("/v1/jobs/assign", json={"clustering_id": clustering["id"], **body})


def assigned(client: httpx2.Client, crew: Crew, answer: httpx2.Response) -> dict[str, Any]:
    job = accepted(answer)
    crew.work()
    job = client.get(f"/v1/jobs/{job['id']}").json()
    assert job["status"] == "succeeded", job
    assert job["progress"]["fraction"] == 1
    return client.get(f"/v1/jobs/{job['id']}/result").json()


def labels(client: httpx2.Client, clustering: dict[str, Any]) -> dict[str, tuple[int, float]]:
    result = client.get(f"/v1/jobs/{clustering['id']}/result").json()
    return {each["key"]: (each["label"], each["distance"]) for each in result["assignments"]}


def test_named_images_get_their_clusters(client: httpx2.Client, clustering: dict[str, Any], crew: Crew) -> None:
    known = labels(client, clustering)
    keys = ["7.jpg", "3.jpg", "7.jpg", "11.jpg"]
    result = assigned(client, crew, assign(client, clustering, image_keys=keys))
    assert (result["clustering_id"], result["metric"]) == (clustering["id"], "euclidean")
    assert result["view"] == client.get(f"/v1/jobs/{clustering['id']}/result").json()["view"]
    assert result["view"]["name"] == "calibrated"
    found = result["assignments"]
    assert [each["key"] for each in found] == ["7.jpg", "3.jpg", "11.jpg"]
    assert [each["label"] for each in found] == [known[each["key"]][0] for each in found]
    assert [each["distance"] for each in found] == pytest.approx([known[each["key"]][1] for each in found], abs=1e-5)
    ids = [each["id"] for each in reversed(found)]
    assert assigned(client, crew, assign(client, clustering, image_ids=ids))["assignments"] == found[::-1]
    assert assigned(client, crew, assign(client, clustering, image_ids=[]))["assignments"] == []


def test_all_that_came_later_get_their_clusters(
    client: httpx2.Client, hand: Hand, clustering: dict[str, Any], crew: Crew
) -> None:
    assert assigned(client, crew, assign(client, clustering))["assignments"] == []
    known = labels(client, clustering)
    hand.store([near("new.jpg", 60), near("0.jpg", 61)])
    [gone] = hand.store([near("gone.jpg", 62)])
    client.delete(f"/v1/collections/archive/images/{gone}")
    job = accepted(assign(client, clustering))
    assert job["params"] == {"clustering_id": clustering["id"], "images": None}
    crew.work()
    answers = {
        media: client.get(f"/v1/jobs/{job['id']}/result", headers={"Accept": media})
        for media in ("application/json", "application/x-ndjson", "text/csv")
    }
    rows = answers["application/json"].json()["assignments"]
    # 60 is of the first center, 61 of the second, as 0 and 1 were
    assert {each["key"]: each["label"] for each in rows} == {"new.jpg": known["0.jpg"][0], "0.jpg": known["1.jpg"][0]}
    assert [json.loads(line) for line in answers["application/x-ndjson"].text.splitlines()] == rows
    read = list(csv.DictReader(io.StringIO(answers["text/csv"].text, newline="")))
    assert [(each["id"], int(each["label"]), float(each["distance"])) for each in read] == [
        (each["id"], each["label"], each["distance"]) for each in rows
    ]
    check_problem(client.get(f"/v1/jobs/{job['id']}/sheet"), 404, "not_found")


def test_many_are_assigned_in_slices(
    client: httpx2.Client, hand: Hand, clustering: dict[str, Any], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assign_kind, "SLICE_S", 0.0)
    for part in range(7):
        hand.store([near(f"{part}/{at}.jpg", at) for at in range(5)])
    before = crew.claims
    result = assigned(client, crew, assign(client, clustering))
    assert crew.claims - before > 7
    assert sorted(each["key"] for each in result["assignments"]) == sorted(
        f"{part}/{at}.jpg" for part in range(7) for at in range(5)
    )


def test_distances_are_those_of_the_metric(client: httpx2.Client, server: Running, hand: Hand, crew: Crew) -> None:
    hand.collection()
    hand.store([near(f"{at}.jpg", at) for at in range(12)])
    body = {"collection": "archive", "n_clusters": 3, "metric": "cosine"}
    job = accepted(client.post("/v1/jobs/cluster", json=body))
    crew.work()
    [late] = hand.store([near("late.jpg", 40)])
    result = assigned(client, crew, assign(client, job))
    assert result["metric"] == "cosine"
    row = server.database.read(lambda session: session.get_one(tables.Clustering, job["id"]).centers)
    centers = np.frombuffer(row, "<f4").reshape(3, DIM)
    late_vector = near("late.jpg", 40).vector
    assert late_vector is not None
    cosines = centers @ late_vector / np.linalg.norm(centers, axis=1) / np.linalg.norm(late_vector)
    [found] = result["assignments"]
    assert (found["id"], found["label"]) == (late, int(cosines.argmax()))
    assert found["distance"] == pytest.approx(1 - cosines.max(), abs=1e-5)
    assert place(late_vector[None], centers, "cosine")[0][0] == found["label"]


def test_an_assignment_that_cannot_be_is_a_problem(
    client: httpx2.Client, stranger: httpx2.Client, hand: Hand, server: Running, clustering: dict[str, Any]
) -> None:
    check_problem(assign(stranger, clustering), 404, "job_not_found")
    check_problem(assign(client, {"id": "0" * 32}), 404, "job_not_found")
    check_problem(assign(client, clustering, image_ids=["0" * 32]), 404, "image_not_found")
    problem = check_problem(assign(client, clustering, image_keys=["0.jpg", "none.jpg"]), 404, "image_not_found")
    assert "none.jpg" in problem["detail"]
    check_problem(assign(client, clustering, image_keys=["../x"]), 422, "invalid_key")
    both = check_problem(assign(client, clustering, image_keys=["0.jpg"], image_ids=[]), 422, "invalid_request")
    assert both["errors"][0]["pointer"] == "/image_keys"
    check_problem(assign(client, clustering, image_ids=["x"] * 10_001), 422, "invalid_request")
    check_problem(client.post("/v1/jobs/assign", json={}), 422, "invalid_request")
    other = accepted(embed(client, upload(client)))
    problem = check_problem(assign(client, other), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/clustering_id"
    open_job = accepted(client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 2}))
    check_problem(assign(client, open_job), 409, "job_not_finished")
    client.post(f"/v1/jobs/{open_job['id']}/cancel")
    check_problem(assign(client, open_job), 409, "conflict")
    job = accepted(assign(client, clustering))
    check_problem(client.get(f"/v1/jobs/{job['id']}/result"), 409, "job_not_finished")
    check_problem(stranger.get(f"/v1/jobs/{job['id']}"), 404, "job_not_found")
    client.delete("/v1/collections/archive")
    check_problem(assign(client, clustering), 404, "collection_not_found")


def test_an_assignment_to_a_clustering_that_was_deleted_fails(
    client: httpx2.Client, clustering: dict[str, Any], crew: Crew
) -> None:
    job = accepted(assign(client, clustering))
    assert client.delete(f"/v1/jobs/{clustering['id']}").status_code == 204
    crew.work()
    job = client.get(f"/v1/jobs/{job['id']}").json()
    assert (job["status"], job["error"]["code"]) == ("failed", "job_not_found")


def test_the_same_assignment_is_one_job(client: httpx2.Client, clustering: dict[str, Any]) -> None:
    client.headers["Idempotency-Key"] = "once"
    first = accepted(assign(client, clustering, image_keys=["0.jpg"]))
    assert accepted(assign(client, clustering, image_keys=["0.jpg"]))["id"] == first["id"]
    check_problem(assign(client, clustering, image_keys=["1.jpg"]), 422, "idempotency_mismatch")
