"""Columns of all images in one binary answer."""

from __future__ import annotations

import json
import tracemalloc

import httpx2
import numpy as np
import pytest
from sqlalchemy.orm import Session

from imagekin.client import Client
from kit.hand import Hand, item
from kit.serving import BOTH_ENGINES, Running
from kit.wire import ADMIN_KEY, check_problem

COLUMNS = "/v1/collections/archive/columns"
KEYS = ["b.jpg", "ß/😀.jpg", "a.jpg"]


@pytest.fixture
def ids(hand: Hand) -> list[str]:
    hand.collection()
    items = [item(KEYS[0], 0, label="chair"), item(KEYS[1], 1, label=["x", True]), item(KEYS[2], 2)]
    items[0].width, items[0].height, items[0].format = 640, 480, "JPEG"
    return hand.store(items)


@BOTH_ENGINES
def test_columns_are_of_all_images_in_one_order(
    server: Running, client: httpx2.Client, hand: Hand, ids: list[str]
) -> None:
    job = client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1}).json()["id"]
    check_problem(client.get(COLUMNS, params={"names": f"result.{job}.label"}), 409, "job_not_finished")
    rows = [{"id": ids[at], "key": KEYS[at], "label": at, "distance": 0.5 * at} for at in (2, 0)]
    hand.finish_cluster({"n_clusters": 1, "clusters": []}, rows)
    names = ["key", "id", "width", "height", "format", "created_at", "content_hash", "metadata.label", "metadata.no"]
    names += [f"result.{job}.label", f"result.{job}.distance", f"result.{job}.key"]
    found = Client(server.url, ADMIN_KEY).columns("archive", names)
    assert list(found) == names
    assert (found["key"], found["id"]) == (KEYS, ids)
    np.testing.assert_array_equal(found["width"], np.array([640, np.nan, np.nan], np.float32))
    assert found["format"] == ["JPEG", "", ""]
    assert found["created_at"][0] == client.get(f"/v1/collections/archive/images/{ids[0]}").json()["created_at"]
    assert found["content_hash"] == [f"{at:064x}" for at in range(3)]
    assert (found["metadata.label"], found["metadata.no"]) == (["chair", ["x", True], None], [None] * 3)
    np.testing.assert_array_equal(found[f"result.{job}.label"], np.array([0, np.nan, 2], np.float32))
    np.testing.assert_array_equal(found[f"result.{job}.distance"], np.array([0, np.nan, 1], np.float32))
    assert found[f"result.{job}.key"] == ["b.jpg", None, "a.jpg"]


def test_columns_are_cached_by_revision(client: httpx2.Client, ids: list[str]) -> None:
    def get(names: str, etag: str | None = None) -> httpx2.Response:
        return client.get(COLUMNS, params={"names": names}, headers={"If-None-Match": etag} if etag else {})

    first = get("id,metadata.label")
    etag = first.headers["ETag"]
    assert (get("id,metadata.label", etag).status_code, get("id", etag).status_code) == (304, 200)
    client.patch("/v1/collections/archive/images", json={"image_ids": ids[:1], "metadata": {"label": "stool"}})
    again = get("id,metadata.label", etag)
    assert again.status_code == 200
    assert again.headers["ETag"] != etag


def test_the_form_is_as_documented(client: httpx2.Client, ids: list[str]) -> None:
    answer = client.get(COLUMNS, params={"names": "key,width"})
    assert answer.headers["Content-Type"] == "application/vnd.imagekin.columns"
    data = answer.content
    length = int.from_bytes(data[4:8], "little")
    head = json.loads(data[8 : 8 + length])
    assert (data[:4], head["count"], [each["type"] for each in head["columns"]]) == (b"IKC1", 3, ["text", "number"])
    start = 8 + length + -length % 8
    assert np.frombuffer(data, "<u4", 4, start).tolist() == [0, 5, 16, 21]
    assert data[start + 16 :][:21].decode() == "".join(KEYS)
    start += head["columns"][0]["bytes"]
    assert np.frombuffer(data, "<f4", 3, start + -start % 8)[0] == 640


def test_what_is_no_column_is_pointed_at(client: httpx2.Client, hand: Hand, ids: list[str]) -> None:
    for names in ("", "size", "id,metadata_", ",".join(f"metadata.{at}" for at in range(40))):
        problem = check_problem(client.get(COLUMNS, params={"names": names}), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == "/names"
    check_problem(client.get(COLUMNS, params={"names": "result.nothing.x"}), 404, "job_not_found")
    hand.collection("other")
    hand.images("a.jpg", name="other")
    job = client.post("/v1/jobs/cluster", json={"collection": "other", "n_clusters": 1}).json()["id"]
    check_problem(client.get(COLUMNS, params={"names": f"result.{job}.x"}), 422, "invalid_request")


def test_memory_does_not_grow_with_the_collection(server: Running, client: httpx2.Client, hand: Hand) -> None:
    from imagekin.store import collections, columns

    hand.collection()
    peaks = []
    for count in (5_000, 15_000):
        hand.store([item(f"{count}/{at}" + "x" * 200, at % 50) for at in range(count)])

        def drain(session: Session) -> int:
            return sum(
                map(len, columns.write(session, collections.get(session, "admin", "archive"), ["id", "key"], {}))
            )

        tracemalloc.start()
        assert server.database.read(drain) > 200 * count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0], peaks
