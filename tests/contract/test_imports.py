"""Vectors in from files."""

from __future__ import annotations

import io
from collections.abc import Callable

import httpx2
import numpy as np
import pytest

from imagekin_worker.kinds import plan
from kit.calls import accepted, row, stored_files, upload
from kit.crew import Crew
from kit.hand import DIM, Hand, item, vector
from kit.known_vectors import EMBEDDINGS
from kit.serving import BOTH_ENGINES, Running
from kit.vector_files import export, finished, items, npz, outcomes, post, read, table, with_metadata
from kit.wire import check_problem

pytestmark = BOTH_ENGINES


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("format", ["npz", "parquet"])
def test_a_round_trip_is_exact(client: httpx2.Client, hand: Hand, crew: Crew, format: str, dtype: str) -> None:
    hand.collection(dtype=dtype)
    hand.collection("copy", dtype=dtype)
    below = ("ü", "https://example.org")
    hand.store([item(f"{below[seed % 2]}/{seed}.jpg", seed, n=seed) for seed in range(1300)])
    job = finished(client, crew, post(client, export(client, format), "copy"))
    assert job["status"] == "succeeded"
    assert (job["progress"]["total"], job["progress"]["embedded"], job["progress"]["done"]) == (1300, 1300, 1300)
    first, second = (read(export(client, format, name), format) for name in ("archive", "copy"))
    at = np.argsort(second["keys"])[np.argsort(np.argsort(first["keys"]))]
    assert [second["keys"][row] for row in at] == first["keys"]
    assert first["embeddings"].tobytes() == second["embeddings"][at].tobytes()
    assert [second["metadata"][row] for row in at] == first["metadata"]
    image = client.get("/v1/collections/copy/images").json()["items"][0]
    assert (image["width"], image["height"], image["format"]) == (None, None, None)
    assert image["content_hash"].startswith("vector:")
    assert len(image["content_hash"]) <= 64
    check_problem(client.get(f"/v1/collections/copy/images/{image['id']}/thumbnail"), 404, "not_found")
    # once more: it is all there
    again = finished(client, crew, post(client, export(client, format), "copy"))
    assert (again["progress"]["reused"], again["progress"]["total"]) == (1300, 1300)


@pytest.mark.parametrize("make", [npz, table])
def test_an_import_in_its_three_forms(
    client: httpx2.Client, server: Running, space_id: str, crew: Crew, make: Callable[..., bytes]
) -> None:
    data = make(space_id, ["a.jpg", "b.jpg"], EMBEDDINGS[:2])
    raw = finished(client, crew, post(client, data))
    assert outcomes(client, raw) == [("a.jpg", "embedded", None), ("b.jpg", "embedded", None)]
    form = client.post("/v1/collections/archive/import", files={"file": ("v", data)}, data={"on_conflict": "skip"})
    assert finished(client, crew, form)["progress"]["reused"] == 2
    upload_id = upload(client, data)
    named = client.post("/v1/collections/archive/import", json={"upload_id": upload_id, "on_conflict": "fail"})
    job = finished(client, crew, named)
    assert job["params"] == {"source": {"type": "upload", "upload_id": upload_id}, "on_conflict": "fail"}
    assert job["progress"]["reused"] == 2
    assert client.get(f"/v1/jobs/{job['id']}/result").json()["total"] == 2
    assert client.get("/v1/jobs", params={"kind": "import"}).json()["items"][0]["id"] == job["id"]
    assert client.get("/v1/collections/archive").json()["image_count"] == 2


@pytest.mark.parametrize(
    ("on_conflict", "expected"),
    [("replace", ("embedded", None)), ("skip", ("skipped", None)), ("fail", ("failed", "duplicate_key"))],
)
def test_a_key_that_is_there_with_other_content(
    client: httpx2.Client,
    hand: Hand,
    space_id: str,
    crew: Crew,
    on_conflict: str,
    expected: tuple[str, str | None],
) -> None:
    [known] = hand.store([item("a.jpg", 9, kept=True)])
    job = finished(
        client, crew, post(client, npz(space_id, ["a.jpg", "b.jpg"], EMBEDDINGS[:2]), on_conflict=on_conflict)
    )
    assert outcomes(client, job) == [("a.jpg", *expected), ("b.jpg", "embedded", None)]
    image = client.get(f"/v1/collections/archive/images/{known}").json()
    # without metadata in the file, what is there stays
    assert image["metadata"] == {"kept": True}
    found = client.get(f"/v1/collections/archive/images/{known}/embedding").json()["embedding"]
    assert np.array_equal(np.float32(found), EMBEDDINGS[0] if on_conflict == "replace" else vector(9, DIM))


def test_rows_that_cannot_be_kept_fail_alone(client: httpx2.Client, space_id: str, crew: Crew) -> None:
    matrix = np.tile(EMBEDDINGS[:1], (7, 1)).astype(np.float64)
    matrix[1, 5], matrix[2, 0], matrix[3, 0] = np.nan, 1e300, 1e30
    keys = ["good", "nan", "inf", "long", "../up", "good", "also good"]
    job = finished(client, crew, post(client, npz(space_id, keys, matrix)))
    assert job["status"] == "partial"
    assert outcomes(client, job) == [
        ("good", "embedded", None), ("nan", "failed", "decode_error"), ("inf", "failed", "decode_error"),
        ("long", "failed", "decode_error"), ("up", "failed", "fetch_refused"), ("good", "failed", "duplicate_key"),
        ("also good", "embedded", None),
    ]  # fmt: skip
    assert "not finite" in items(client, job)[1]["error"]["detail"]


def test_rows_of_parquet_that_cannot_be_kept_fail_alone(client: httpx2.Client, space_id: str, crew: Crew) -> None:
    embeddings = [EMBEDDINGS[0], EMBEDDINGS[0][:-1], None, [None] * DIM, EMBEDDINGS[1]]
    job = finished(client, crew, post(client, table(space_id, ["a", "b", "c", "d", None], embeddings)))
    statuses = [(key, code) for key, _, code in outcomes(client, job)]
    assert statuses == [("a", None), *((key, "decode_error") for key in ("b", "c", "d", "row 4"))]
    assert "63 numbers instead of 64" in items(client, job)[1]["error"]["detail"]


def test_metadata_that_cannot_be_kept_fails_its_row(client: httpx2.Client, space_id: str, crew: Crew) -> None:
    lines = ['{"a": 1}', "[1]", '{"a": NaN}', '{"a": "\\u0000"}', '{"a": "\\ud800"}', "[" * 50_000, '{"a": 1e999}',
             "{" + " " * 99_999 + "}", "", "{}"]  # fmt: skip
    job = finished(client, crew, post(client, with_metadata(space_id, lines)))
    statuses = [status for _, status, _ in outcomes(client, job)]
    assert statuses == ["embedded", *["failed"] * 8, "embedded"]
    assert client.get("/v1/collections/archive/images").json()["items"][0]["metadata"] == {"a": 1}


def test_an_import_of_nothing(client: httpx2.Client, space_id: str, crew: Crew) -> None:
    job = finished(client, crew, post(client, npz(space_id, np.empty(0, "<U1"), np.empty((0, DIM), np.float32))))
    assert (job["status"], job["error"]["code"]) == ("failed", "empty_source")
    problem = check_problem(post(client, b""), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/file"


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_numbers_of_other_sizes_and_orders(client: httpx2.Client, space_id: str, crew: Crew, dtype: str) -> None:
    keys = np.array([b"a", "ü".encode()]) if dtype == "<f2" else np.array(["a", "ü"]).astype(">U3")
    job = finished(client, crew, post(client, npz(space_id, keys, EMBEDDINGS[:2].astype(dtype))))
    assert job["status"] == "succeeded"
    found = read(export(client), "npz")
    assert found["keys"] == ["a", "ü"]
    assert np.array_equal(found["embeddings"], EMBEDDINGS[:2].astype(dtype).astype("<f4"))


def test_compressed_files_are_read(client: httpx2.Client, space_id: str, crew: Crew) -> None:
    count = 1500
    matrix = np.random.default_rng(5).standard_normal((count, DIM)).astype(np.float32)
    file = io.BytesIO()
    np.savez_compressed(file, space_id=space_id, keys=[f"{at}" for at in range(count)], embeddings=matrix)
    for data in (file.getvalue(), table(space_id, [f"{at}" for at in range(count)], matrix, row_group_size=700)):
        job = finished(client, crew, post(client, data))
        assert (job["status"], job["progress"]["total"]) == ("succeeded", count)
        assert np.array_equal(read(export(client), "npz")["embeddings"], matrix)
    assert job["progress"]["reused"] == count


def test_an_import_is_planned_in_slices(
    client: httpx2.Client, space_id: str, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SLICE_S", 0.0)
    count = 30
    keys = [f"{at}.jpg" for at in range(count)]
    matrix = np.random.default_rng(6).standard_normal((count, DIM)).astype(np.float32)
    for data in (npz(space_id, keys, matrix), table(space_id, keys, matrix, row_group_size=12)):
        before = crew.claims
        job = finished(client, crew, post(client, data))
        assert (job["status"], job["progress"]["total"]) == ("succeeded", count)
        assert crew.claims - before > count
    assert read(export(client), "npz")["keys"] == keys


def test_the_failed_rows_of_an_import_are_tried_again(client: httpx2.Client, space_id: str, crew: Crew) -> None:
    matrix = EMBEDDINGS[:2].copy()
    matrix[1, 0] = np.inf
    parent = finished(client, crew, post(client, npz(space_id, ["a", "b"], matrix)))
    again = finished(client, crew, client.post(f"/v1/jobs/{parent['id']}/retry", json={"items": "failed"}))
    assert (again["parent_id"], again["status"], again["progress"]["total"]) == (parent["id"], "failed", 1)
    every = finished(client, crew, client.post(f"/v1/jobs/{parent['id']}/retry", json={"items": "all"}))
    assert outcomes(client, every) == [("a", "reused", None), ("b", "failed", "decode_error")]


def test_the_same_import_is_one_job(client: httpx2.Client, server: Running, space_id: str) -> None:
    data = npz(space_id, ["a"], EMBEDDINGS[:1])
    client.headers["Idempotency-Key"] = "once"
    first = accepted(post(client, data))
    assert accepted(post(client, data))["id"] == first["id"]
    assert len(stored_files(server)) == 1
    check_problem(post(client, data, on_conflict="skip"), 422, "idempotency_mismatch")
    client.headers["Idempotency-Key"] = "named"
    jobs = [
        accepted(client.post("/v1/collections/archive/import", json={"upload_id": upload(client, data)}))["id"]
        for _ in range(2)
    ]
    assert jobs[0] == jobs[1] != first["id"]
    assert row(server, first["id"]).work["source"]["space_id"] == space_id


def test_an_import_that_cannot_be_is_a_problem(
    client: httpx2.Client, stranger: httpx2.Client, server: Running, space_id: str
) -> None:
    data = npz(space_id, ["a"], EMBEDDINGS[:1])
    path = "/v1/collections/archive/import"
    check_problem(post(client, data, "none"), 404, "collection_not_found")
    check_problem(post(stranger, data), 404, "collection_not_found")
    check_problem(client.post(path, json={"upload_id": "0" * 32}), 404, "upload_not_found")
    check_problem(client.post(path, json={}), 422, "invalid_request")
    check_problem(client.post(path, json={"upload_id": upload(stranger, data)}), 404, "upload_not_found")
    for params, pointer in (({"on_conflict": "ask"}, "/on_conflict"), ({"colour": "red"}, "/colour")):
        problem = check_problem(post(client, data, **params), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == pointer
    check_problem(client.post(path, json={"upload_id": upload(client, b"hello world")}), 422, "invalid_request")
    two = [("file", ("a", data)), ("file", ("b", data))]
    check_problem(client.post(path, files=two), 422, "invalid_request")
    check_problem(client.post(path, files={"file": ("a", b"")}), 422, "invalid_request")


def test_a_large_body_is_refused(serve: Callable[..., Running]) -> None:
    server = serve(max_upload_bytes=1000)
    Hand(server.database, server.settings).collection()
    client = server.client("ik_the-first-key")
    check_problem(post(client, bytes(2000)), 413, "too_large")
