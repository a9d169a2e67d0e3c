"""Results and contact sheets."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import httpx2
import pytest
from PIL import Image

from imagekin.database import tables
from kit.calls import accepted, cluster, embed, finish_three, search, upload
from kit.hand import Hand, item, picture
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem


@pytest.fixture
def found(client: httpx2.Client, hand: Hand) -> tuple[str, dict[str, Any]]:
    """A finished search, its id and result."""
    hand.collection()
    ids = hand.images("query.jpg", '=near, "quoted".jpg', "far.jpg")
    job = accepted(search(client, query={"image_id": ids[0]}, top_k=2))
    summary = {
        "query": {"image_id": ids[0]},
        "top_k": 2,
        "neighbors": [
            {"rank": 1, "id": ids[1], "key": '=near, "quoted".jpg', "score": 0.9, "metadata": {"place": "Ürümqi"}},
            {"rank": 2, "id": ids[2], "key": "far.jpg", "score": 0.1, "metadata": {}},
        ],
    }
    hand.finish_search(summary)
    return job["id"], summary


def rows(ids: list[str]) -> list[dict[str, Any]]:
    labels = [0, 1, 0, 0]
    return [{"id": id, "key": f"{at}.jpg", "label": labels[at], "distance": at / 10} for at, id in enumerate(ids)]


@pytest.fixture
def clustered(client: httpx2.Client, hand: Hand) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """A finished clustering in two parts, its id, summary and assignments, as they are answered."""
    hand.collection()
    ids = hand.images("0.jpg", "1.jpg", "2.jpg", "3.jpg")
    job = cluster(client)
    summary = {
        "n_clusters": 2, "metric": "euclidean", "algorithm": "kmeans", "seed": 100, "inertia": 1.5, "iterations": 3,
        "clusters": [
            {"label": 0, "size": 3, "medoid": {"id": ids[0], "key": "0.jpg"}, "cohesion": 0.9},
            {"label": 1, "size": 1, "medoid": {"id": ids[1], "key": "1.jpg"}, "cohesion": 1.0},
        ],
    }  # fmt: skip
    hand.finish_cluster(summary, rows(ids))
    return job["id"], summary, [{**row, "name": None} for row in rows(ids)]


def get(client: httpx2.Client, job_id: str, accept: str) -> httpx2.Response:
    answer = client.get(f"/v1/jobs/{job_id}/result", headers={"Accept": accept})
    assert answer.status_code == 200, answer.text
    return answer


@BOTH_ENGINES
def test_a_search_result_in_its_three_forms(client: httpx2.Client, found: tuple[str, dict[str, Any]]) -> None:
    job_id, summary = found
    assert get(client, job_id, "*/*").headers["Content-Type"] == "application/json"
    assert get(client, job_id, "application/json").json() == summary
    lines = get(client, job_id, "application/x-ndjson")
    assert lines.headers["Content-Type"] == "application/x-ndjson"
    assert [json.loads(line) for line in lines.text.splitlines()] == summary["neighbors"]
    table = get(client, job_id, "text/csv")
    assert table.headers["Content-Type"] == "text/csv; charset=utf-8"
    read = list(csv.DictReader(io.StringIO(table.text, newline="")))
    assert [row["key"] for row in read] == [neighbor["key"] for neighbor in summary["neighbors"]]
    assert [float(row["score"]) for row in read] == [0.9, 0.1]
    assert json.loads(read[0]["metadata"]) == {"place": "Ürümqi"}
    assert get(client, job_id, "image/gif").json() == summary
    assert get(client, job_id, "text/csv;q=0.1, application/json").json() == summary


@BOTH_ENGINES
def test_a_cluster_result_in_its_three_forms(
    client: httpx2.Client, clustered: tuple[str, dict[str, Any], list[dict[str, Any]]]
) -> None:
    job_id, summary, assignments = clustered
    assert get(client, job_id, "application/json").json() == {**summary, "assignments": assignments}
    lines = get(client, job_id, "application/x-ndjson").text.splitlines()
    assert [json.loads(line) for line in lines] == assignments
    read = list(csv.DictReader(io.StringIO(get(client, job_id, "text/csv").text, newline="")))
    known = {"name": None}
    numbers = [{**row, "label": int(row["label"]), "distance": float(row["distance"]), **known} for row in read]
    assert numbers == assignments and {row["name"] for row in read} == {""}


@BOTH_ENGINES
def test_clusters_are_named(
    client: httpx2.Client, clustered: tuple[str, dict[str, Any], list[dict[str, Any]]], server: Running
) -> None:
    job_id, summary, assignments = clustered
    address, plain = f"/v1/jobs/{job_id}/clusters", client.get(f"/v1/jobs/{job_id}/sheet").content

    def names() -> dict[str, list[Any]]:
        result = get(client, job_id, "application/json").json()
        lines = get(client, job_id, "application/x-ndjson").text.splitlines()
        table = csv.DictReader(io.StringIO(get(client, job_id, "text/csv").text, newline=""))
        return {
            "clusters": [each.get("name") for each in result["clusters"]],
            "json": [each["name"] for each in result["assignments"]],
            "lines": [json.loads(line)["name"] for line in lines],
            "table": [row["name"] or None for row in table],
        }

    def called(first: str | None, second: str | None) -> dict[str, list[Any]]:
        rows = [(first, second)[each["label"]] for each in assignments]
        return {"clusters": [first, second], "json": rows, "lines": rows, "table": rows}

    answer = client.patch(f"{address}/0", json={"name": "chairs 🪑"})
    assert (answer.status_code, answer.json()) == (200, {**summary["clusters"][0], "name": "chairs 🪑"})
    assert names() == called("chairs 🪑", None)
    assert client.get(f"/v1/jobs/{job_id}/sheet").content != plain
    assert client.patch(f"{address}/1", json={"name": "lamps"}).status_code == 200
    assert client.patch(f"{address}/0", json={"name": "stools"}).json()["name"] == "stools"
    assert names() == called("stools", "lamps")
    assert client.patch(f"{address}/0", json={"name": None}).json()["name"] is None
    assert names() == called(None, "lamps")
    assert client.get(f"/v1/jobs/{job_id}/sheet").content == plain

    for wrong in ({}, {"name": ""}, {"name": "x" * 257}, {"name": 7}, {"name": "a\0"}, {"name": "x", "title": "x"}):
        problem = check_problem(client.patch(f"{address}/0", json=wrong), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == ("/title" if "title" in wrong else "/name"), problem
    for label in ("2", "-1", "x", "00000000000", "²"):
        check_problem(client.patch(f"{address}/{label}", json={"name": "x"}), 404, "not_found")
    assert names() == called(None, "lamps")

    def expire(session: Any) -> None:
        session.get(tables.Job, job_id).expires_at = 1.0

    server.database.write(expire)
    check_problem(client.patch(f"{address}/0", json={"name": "x"}), 410, "result_expired")


def test_only_a_finished_clustering_has_names(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    hand.images("a.jpg")
    job_id = cluster(client)["id"]
    check_problem(client.patch(f"/v1/jobs/{job_id}/clusters/0", json={"name": "x"}), 409, "job_not_finished")
    assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    check_problem(client.patch(f"/v1/jobs/{job_id}/clusters/0", json={"name": "x"}), 409, "conflict")
    embed_id = finish_three(client, hand)
    problem = check_problem(client.patch(f"/v1/jobs/{embed_id}/clusters/0", json={"name": "x"}), 404, "not_found")
    assert "embed" in problem["detail"]


@BOTH_ENGINES
def test_an_embed_result_is_the_summary(client: httpx2.Client, hand: Hand) -> None:
    job_id = finish_three(client, hand)
    expected = {
        "collection": "archive", "total": 3, "embedded": 2, "reused": 0, "skipped": 0, "failed": 1, "cancelled": 0,
        "ignored": 1,
    }  # fmt: skip
    assert get(client, job_id, "application/json").json() == expected
    assert json.loads(get(client, job_id, "application/x-ndjson").text) == expected
    [row] = csv.DictReader(io.StringIO(get(client, job_id, "text/csv").text, newline=""))
    assert (row["collection"], row["total"]) == ("archive", "3")


def test_a_result_has_its_time(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    job_id = accepted(embed(client, upload(client)))["id"]
    check_problem(client.get(f"/v1/jobs/{job_id}/result"), 409, "job_not_finished")
    check_problem(client.get(f"/v1/jobs/{job_id}/sheet"), 409, "job_not_finished")
    hand.finish_embed(item("a.jpg", 0))
    assert client.get(f"/v1/jobs/{job_id}").json()["expires_at"] is not None
    assert client.get(f"/v1/jobs/{job_id}/result").status_code == 200

    def expire(session: Any) -> None:
        session.get(tables.Job, job_id).expires_at = 1.0

    server.database.write(expire)
    for path in ("result", "items"):
        check_problem(client.get(f"/v1/jobs/{job_id}/{path}"), 410, "result_expired")
    assert client.get(f"/v1/jobs/{job_id}").status_code == 200


def test_a_failed_job_says_why_it_has_no_result(client: httpx2.Client, hand: Hand, server: Running) -> None:
    from imagekin.jobs import end

    hand.collection()
    hand.images("a.jpg")
    job_id = cluster(client)["id"]
    server.database.write(end.fail, job_id, "weights_unavailable", "There are no such weights.")
    problem = check_problem(client.get(f"/v1/jobs/{job_id}/result"), 409, "conflict")
    assert "There are no such weights." in problem["detail"]


def size(answer: httpx2.Response) -> tuple[int, int]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.format == "PNG"
        return image.size


def test_a_searchs_sheet(client: httpx2.Client, found: tuple[str, dict[str, Any]]) -> None:
    width, height = size(client.get(f"/v1/jobs/{found[0]}/sheet"))
    assert min(width, height) > 100
    # also when an image of it is gone
    for image in (found[1]["query"]["image_id"], found[1]["neighbors"][0]["id"]):
        assert client.delete(f"/v1/collections/archive/images/{image}").status_code == 204
    assert size(client.get(f"/v1/jobs/{found[0]}/sheet")) == (width, height)


def test_the_sheet_of_a_search_by_picture_shows_it(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    pictures = []
    for thumbnail in (picture(kind="JPEG"), None):
        answer = client.post(
            "/v1/jobs/search", data={"collection": "archive"}, files={"image": ("query.png", picture())}
        )
        hand.finish_search({"query": {"image": "query.png"}, "top_k": 10, "neighbors": []}, thumbnail)
        pictures.append(client.get(f"/v1/jobs/{accepted(answer)['id']}/sheet"))
    assert size(pictures[0]) == size(pictures[1])
    assert pictures[0].content != pictures[1].content


def test_a_clusterings_sheets(
    client: httpx2.Client, clustered: tuple[str, dict[str, Any], list[dict[str, Any]]]
) -> None:
    path = f"/v1/jobs/{clustered[0]}/sheet"
    first, second = client.get(path, params={"label": 0}), client.get(path, params={"label": 1})
    assert size(first) == size(second)
    assert first.content != second.content
    assert client.get(path).content == first.content
    for label in ("2", "-1", "x"):
        problem = check_problem(client.get(path, params={"label": label}), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == "/label"


def test_an_embed_job_has_no_sheet(client: httpx2.Client, hand: Hand) -> None:
    check_problem(client.get(f"/v1/jobs/{finish_three(client, hand)}/sheet"), 404, "not_found")
