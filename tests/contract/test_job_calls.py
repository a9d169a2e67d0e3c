"""Jobs as they are posted, shown, listed, held, stopped, repeated and deleted."""

from __future__ import annotations

import io
import json
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
import sqlalchemy as sa
from hand import DIM, Hand, picture, vector
from serving import NO_REDIS, Running
from wire import ADMIN_KEY, check_problem

from imagekin import jobs, models
from imagekin.types import Lane

FIELDS = {
    "id", "kind", "status", "collection", "params", "progress", "queue_position", "created_at", "started_at",
    "finished_at", "expires_at", "parent_id", "error", "links",
}  # fmt: skip
PROGRESS = {
    "total", "done", "embedded", "reused", "skipped", "failed", "cancelled", "ignored", "images_per_s", "eta_s",
}  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


def upload(client: httpx2.Client, data: bytes = b"bytes", **params: str) -> str:
    return client.post("/v1/uploads", content=data, params=params).json()["id"]


def embed(client: httpx2.Client, upload_id: str, key: str | None = None, **body: Any) -> httpx2.Response:
    source = {"type": "upload", "upload_id": upload_id}
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/v1/jobs/embed", json={"collection": "archive", "source": source, **body}, headers=headers)


def search(client: httpx2.Client, **body: Any) -> httpx2.Response:
    return client.post("/v1/jobs/search", json={"collection": "archive", **body})


def accepted(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{body['id']}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert body.keys() >= FIELDS
    assert body["progress"].keys() >= PROGRESS
    return body


def row(server: Running, job_id: str) -> models.Job:
    return server.database.read(jobs.get, "admin", job_id)


def count(server: Running, table: type[models.Base]) -> int:
    return server.database.read(lambda session: session.scalar(sa.select(sa.func.count()).select_from(table)))


def stored_files(server: Running) -> list[Path]:
    return [path for path in (server.settings.data_dir / "storage").rglob("*") if path.is_file()]


# --- embed -----------------------------------------------------------------------------------------------------


def test_an_embed_job_of_an_upload_is_queued(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    upload_id = upload(client, picture(), filename="moon.png")
    job = accepted(embed(client, upload_id, on_conflict="skip"))
    assert (job["kind"], job["status"], job["collection"], job["queue_position"]) == ("embed", "queued", "archive", 1)
    assert job["params"] == {"source": {"type": "upload", "upload_id": upload_id}, "on_conflict": "skip"}
    assert job["progress"]["total"] is None
    assert job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert job["links"]["result"] == f"/v1/jobs/{job['id']}/result"
    assert datetime.fromisoformat(job["created_at"]).utcoffset() is not None
    assert client.get(job["links"]["self"]).json() == job
    source = row(server, job["id"]).work["source"]
    assert (source["upload_id"], source["filename"]) == (upload_id, "moon.png")
    assert server.service.storage.open(source["path"]).read() == picture()


def test_a_folder_is_a_source_below_the_roots_only(
    serve: Callable[..., Running], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "inside").mkdir()
    server = serve(source_roots=(str(folder),))
    client = server.client(ADMIN_KEY)
    Hand(server.database, server.settings).collection()

    def post(path: str) -> httpx2.Response:
        body = {"collection": "archive", "source": {"type": "folder", "path": path}}
        return client.post("/v1/jobs/embed", json=body)

    job = accepted(post(str(folder / "inside")))
    assert job["params"]["source"] == {"type": "folder", "path": str(folder / "inside")}
    check_problem(post(str(tmp_path)), 422, "source_refused")
    check_problem(post(f"{folder}/../"), 422, "source_refused")
    missing = check_problem(post(str(folder / "missing")), 422, "invalid_request")
    assert missing["errors"][0]["pointer"] == "/source"


def test_addresses_are_kept_as_a_manifest(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    urls = [{"url": "https://example.org/ä.jpg"}, {"url": "ftp://no", "key": "k", "metadata": {"year": None}}]
    body = {"collection": "archive", "source": {"type": "urls", "urls": urls}}
    job = accepted(client.post("/v1/jobs/embed", json=body, headers={"Idempotency-Key": "1"}))
    assert job["params"]["source"] == {"type": "urls", "count": 2}
    work = row(server, job["id"]).work["source"]
    assert work["type"] == "urls"
    assert row(server, job["id"]).upload_id == work["upload_id"]
    lines = server.service.storage.open(work["path"]).read().decode().splitlines()
    assert [{**json.loads(line)} for line in lines] == urls
    again = accepted(client.post("/v1/jobs/embed", json=body, headers={"Idempotency-Key": "1"}))
    assert again["id"] == job["id"]
    assert len(stored_files(server)) == 1
    body["source"]["urls"] = urls[:1]
    changed = client.post("/v1/jobs/embed", json=body, headers={"Idempotency-Key": "1"})
    check_problem(changed, 422, "idempotency_mismatch")
    assert len(stored_files(server)) == 1


@pytest.mark.parametrize(
    ("urls", "code", "pointer"),
    [
        ([], "invalid_request", "/source/urls"),
        ([{"url": "http://a.org/1"}] * 10_001, "invalid_request", "/source/urls"),
        ([{"url": "http://a.org/1"}, {"key": "a"}], "invalid_request", "/source/urls/1/url"),
        ([{"url": "http://a.org/1", "kye": "a"}], "invalid_request", "/source/urls/0/kye"),
        ([{"url": "http://a.org/1", "key": "../a"}], "invalid_key", "/source/urls/0/key"),
    ],
)  # fmt: skip
def test_lists_of_addresses_that_are_refused(
    client: httpx2.Client, hand: Hand, server: Running, urls: list[Any], code: str, pointer: str
) -> None:
    hand.collection()
    body = {"collection": "archive", "source": {"type": "urls", "urls": urls}}
    problem = check_problem(client.post("/v1/jobs/embed", json=body), 422, code)
    assert problem["errors"][0]["pointer"].replace("/urls/urls", "/urls") == pointer
    assert stored_files(server) == []


def test_an_uploaded_manifest_is_a_source(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    upload = client.post("/v1/uploads", content=b'{"url": "https://example.org/a.jpg"}\n').json()
    source = {"type": "manifest", "upload_id": upload["id"]}
    job = accepted(client.post("/v1/jobs/embed", json={"collection": "archive", "source": source}))
    assert job["params"]["source"] == source
    work = row(server, job["id"]).work["source"]
    assert (work["type"], work["sha256"]) == ("manifest", upload["sha256"])
    assert row(server, job["id"]).upload_id == upload["id"]
    source["upload_id"] = "missing"
    check_problem(
        client.post("/v1/jobs/embed", json={"collection": "archive", "source": source}), 404, "upload_not_found"
    )


def test_a_location_is_a_source_below_the_roots_only(serve: Callable[..., Running]) -> None:
    server = serve(source_roots=("s3://bucket/photos",))
    client = server.client(ADMIN_KEY)
    Hand(server.database, server.settings).collection()

    def post(url: str) -> httpx2.Response:
        body = {"collection": "archive", "source": {"type": "location", "url": url}}
        return client.post("/v1/jobs/embed", json=body)

    job = accepted(post("s3://bucket/photos/2024/"))
    assert job["params"]["source"] == {"type": "location", "url": "s3://bucket/photos/2024/"}
    check_problem(post("s3://bucket/other"), 422, "source_refused")


def test_a_search_by_address(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    body = {"collection": "archive", "query": {"url": "https://example.org/a.jpg"}}
    job = accepted(client.post("/v1/jobs/search", json=body))
    assert job["params"]["query"] == body["query"]
    assert row(server, job["id"]).work["query"] == body["query"]


def test_posted_images_become_one_zip_of_their_keys(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    files = [
        ("images", ("a.png", picture(1))),
        ("images", ("trip/u\u0308.png", picture(2))),
        ("images", ("a.png", picture(3))),
    ]
    job = accepted(client.post("/v1/jobs/embed", data={"collection": "archive", "on_conflict": "fail"}, files=files))
    work = row(server, job["id"]).work["source"]
    with zipfile.ZipFile(server.service.storage.open(work["path"])) as archive:
        members = archive.infolist()
        assert [member.filename for member in members] == ["a.png", "trip/ü.png", "a.png"]
        assert [archive.read(member) for member in members] == [picture(1), picture(2), picture(3)]
    assert job["params"] == {"source": {"type": "upload", "upload_id": work["upload_id"]}, "on_conflict": "fail"}
    assert row(server, job["id"]).upload_id == work["upload_id"]


def test_a_posted_archive_is_stored_as_it_is(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", picture())
    answer = client.post(
        "/v1/jobs/embed", data={"collection": "archive"}, files={"archive": ("photos.zip", file.getvalue())}
    )
    work = row(server, accepted(answer)["id"]).work["source"]
    assert work["filename"] == "photos.zip"
    assert server.service.storage.open(work["path"]).read() == file.getvalue()


@pytest.mark.parametrize(
    ("fields", "files", "code", "pointer"),
    [
        ({}, [("images", ("a.png", b"a"))], "invalid_request", "/collection"),
        ({"collection": "archive", "on_conflict": "maybe"}, [("images", ("a.png", b"a"))], "invalid_request",
         "/on_conflict"),
        ({"collection": "archive", "colour": "red"}, [("images", ("a.png", b"a"))], "invalid_request", "/colour"),
        ({"collection": "archive"}, [("images", ("../a.png", b"a"))], "invalid_key", "/images/0"),
        ({"collection": "archive"}, [("images", ("b.png", b"a")), ("images", ("", b"a"))], "invalid_key", "/images/1"),
        ({"collection": "archive"}, [("photos", ("a.png", b"a"))], "invalid_request", "/photos"),
        ({"collection": "archive"}, [("images", ("a.png", b"a")), ("archive", ("a.zip", b"a"))], "invalid_request",
         "/images"),
        ({"collection": "archive"}, [("archive", ("a.zip", b"a")), ("archive", ("b.zip", b"a"))], "invalid_request",
         "/archive"),
    ],
)  # fmt: skip
def test_a_wrong_form_is_pointed_at_and_leaves_nothing_behind(
    client: httpx2.Client,
    hand: Hand,
    server: Running,
    fields: dict[str, str],
    files: list[Any],
    code: str,
    pointer: str,
) -> None:
    hand.collection()
    problem = check_problem(client.post("/v1/jobs/embed", data=fields, files=files), 422, code)
    assert problem["errors"][0]["pointer"] == pointer
    assert stored_files(server) == []
    assert count(server, models.Job) == count(server, models.Upload) == 0


def test_a_form_without_images_is_refused(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    boundary = "b0"
    body = f'--{boundary}\r\nContent-Disposition: form-data; name="collection"\r\n\r\narchive\r\n--{boundary}--\r\n'
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    answer = client.post("/v1/jobs/embed", content=body.encode(), headers=headers)
    assert check_problem(answer, 422, "invalid_request")["errors"][0]["pointer"] == "/images"


@pytest.mark.parametrize(
    "body",
    [b"", b"--b0\r\n", b"no boundary at all", b"--b0\r\nContent-Disposition: form-data\r\n\r\nx",
     b"--b0\r\nX: y\r\n\r\nx\r\n--b0--"],
)  # fmt: skip
def test_a_broken_form_is_a_bad_request(client: httpx2.Client, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b0"}
    check_problem(client.post("/v1/jobs/embed", content=body, headers=headers), 400, "bad_request")
    headers = {"Content-Type": "multipart/form-data"}
    check_problem(client.post("/v1/jobs/embed", content=body, headers=headers), 400, "bad_request")


def test_a_large_form_goes_through_in_pieces(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    # as long as several pieces from the socket, full of what looks like the start of a boundary
    data = b"\r\n--" * 600_000 + b"end"
    answer = client.post("/v1/jobs/embed", data={"collection": "archive"}, files={"archive": ("a.tar", data)})
    work = row(server, accepted(answer)["id"]).work["source"]
    assert server.service.storage.open(work["path"]).read() == data


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_posted_images_without_room_for_them_may_be_sent_again(
    client: httpx2.Client, hand: Hand, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    hand.collection()

    def full(prefix: str) -> Any:
        # what is written there meets a full disk, small files as late as at the end; the pack closes it
        return Path("/dev/full").open("w+b")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    files = [("images", ("a.png", bytes(size)))]
    answer = client.post("/v1/jobs/embed", data={"collection": "archive"}, files=files)
    assert "temporary folder" in check_problem(answer, 503, "unavailable")["detail"]
    monkeypatch.undo()
    accepted(client.post("/v1/jobs/embed", data={"collection": "archive"}, files=files))


@pytest.mark.parametrize("kind", ["embed", "search"])
def test_other_bodies_are_unsupported(client: httpx2.Client, kind: str) -> None:
    answer = client.post(f"/v1/jobs/{kind}", content=b"x", headers={"Content-Type": "image/png"})
    check_problem(answer, 415, "unsupported_media_type")


def test_a_job_needs_what_it_names(client: httpx2.Client, stranger: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    check_problem(embed(client, "0" * 32), 404, "upload_not_found")
    check_problem(embed(client, upload(stranger)), 404, "upload_not_found")
    check_problem(embed(client, upload(client), collection="other"), 404, "collection_not_found")
    mine = upload(stranger)
    check_problem(embed(stranger, mine), 404, "collection_not_found")
    check_problem(search(client, query={"image_id": "0" * 32}), 404, "image_not_found")
    check_problem(search(client, query={"image_key": "none.jpg"}), 404, "image_not_found")


# --- search and cluster ----------------------------------------------------------------------------------------


def test_a_search_by_key_is_resolved_at_once(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    [image] = hand.images("ü.jpg")
    for query in ({"image_key": "u\u0308.jpg"}, {"image_id": image}):
        job = accepted(search(client, query=query))
        assert row(server, job["id"]).work == {"query": {"image_id": image}}
    assert job["params"] == {
        "query": {"image_id": image}, "top_k": 10, "min_score": None, "exclude_query": True, "filter": None,
    }  # fmt: skip


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
    ],
)
def test_a_wrong_search_is_pointed_at(client: httpx2.Client, hand: Hand, body: dict[str, Any], pointer: str) -> None:
    hand.collection()
    problem = check_problem(search(client, **body), 422, "invalid_request")
    assert pointer in {error["pointer"] for error in problem["errors"]}


def test_a_search_by_a_picture_stores_it_for_the_worker(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    fields = {"collection": "archive", "top_k": "5", "exclude_query": "false", "filter": '{"year": 1969}'}
    answer = client.post("/v1/jobs/search", data=fields, files={"image": ("query.png", picture())})
    job = accepted(answer)
    assert job["params"] == {
        "query": {"image": "query.png"}, "top_k": 5, "min_score": None, "exclude_query": False,
        "filter": {"year": 1969},
    }  # fmt: skip
    query = row(server, job["id"]).work["query"]
    assert query["filename"] == "query.png"
    assert server.service.storage.open(query["upload"]).read() == picture()


def test_a_wrong_search_form_leaves_nothing_behind(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()

    def post(name: str = "image", data: bytes = b"x", **fields: str) -> httpx2.Response:
        fields = {"collection": "archive", **fields}
        return client.post("/v1/jobs/search", data=fields, files={name: ("q.png", data)})

    for answer, pointer in [
        (post(data=b""), "/image"),
        (post(name="picture"), "/picture"),
        (post(filter="{"), "/filter"),
        (post(filter="[1]"), "/filter"),
        (post(top_k="many"), "/top_k"),
    ]:
        assert check_problem(answer, 422, "invalid_request")["errors"][0]["pointer"] == pointer
    assert stored_files(server) == []


def test_a_cluster_job_keeps_its_parameters(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    hand.images("a.jpg", "b.jpg", "c.jpg")
    body = {"collection": "archive", "n_clusters": 3, "metric": "cosine"}
    job = accepted(client.post("/v1/jobs/cluster", json=body))
    assert job["params"] == {
        "n_clusters": 3, "metric": "cosine", "algorithm": "kmeans", "seed": 100, "n_init": None,
    }  # fmt: skip
    for wrong, pointer in [
        ({"n_clusters": 4}, "/n_clusters"),
        ({"n_clusters": 0}, "/n_clusters"),
        ({"n_clusters": True}, "/n_clusters"),
        ({"metric": "manhattan"}, "/metric"),
        ({"algorithm": "guess"}, "/algorithm"),
        ({"seed": -1}, "/seed"),
    ]:
        problem = check_problem(client.post("/v1/jobs/cluster", json={**body, **wrong}), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == pointer


# --- idempotency -----------------------------------------------------------------------------------------------


def test_the_same_key_and_body_is_the_same_job(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    first = accepted(embed(client, upload(client, b"same bytes"), "k1"))
    # other white space and order, and the same bytes uploaded once more
    again = upload(client, b"same bytes")
    text = f'{{ "source": {{"upload_id": "{again}", "type": "upload"}},\n"collection": "archive" }}'
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k1"}
    assert accepted(client.post("/v1/jobs/embed", content=text, headers=headers))["id"] == first["id"]
    assert count(server, models.Job) == 1
    check_problem(embed(client, upload(client, b"other bytes"), "k1"), 422, "idempotency_mismatch")
    check_problem(embed(client, again, "k1", on_conflict="fail"), 422, "idempotency_mismatch")
    assert accepted(embed(client, again, "k2"))["id"] != first["id"]


def test_a_key_is_its_owners_and_its_addresss(client: httpx2.Client, stranger: httpx2.Client, hand: Hand) -> None:
    for owner in ("admin", "stranger"):
        hand.collection(owner=owner)
        hand.images("a.jpg", owner=owner)
    body, headers = {"collection": "archive", "n_clusters": 1}, {"Idempotency-Key": "k"}
    mine = accepted(client.post("/v1/jobs/cluster", json=body, headers=headers))
    theirs = accepted(stranger.post("/v1/jobs/cluster", json=body, headers=headers))
    assert mine["id"] != theirs["id"]
    answer = client.post(
        "/v1/jobs/search", json={"collection": "archive", "query": {"image_key": "a.jpg"}}, headers=headers
    )
    check_problem(answer, 422, "idempotency_mismatch")


def test_a_repeated_request_is_answered_when_what_it_names_is_gone(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    upload_id = upload(client)
    first = accepted(embed(client, upload_id, "k"))
    client.delete("/v1/collections/archive")
    assert client.delete(f"/v1/uploads/{upload_id}").status_code == 204
    assert accepted(embed(client, upload_id, "k"))["id"] == first["id"]


def test_the_same_form_is_the_same_job_and_is_stored_once(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()

    def post(*names: str, kind: str = "embed", **fields: str) -> httpx2.Response:
        files = [("images", (name, picture(ord(name[0])))) for name in names]
        fields = {"collection": "archive", **fields}
        return client.post("/v1/jobs/embed", data=fields, files=files, headers={"Idempotency-Key": "k"})

    first = accepted(post("a.png", "b.png"))
    assert accepted(post("a.png", "b.png"))["id"] == first["id"]
    check_problem(post("b.png", "a.png"), 422, "idempotency_mismatch")
    check_problem(post("a.png", "b.png", on_conflict="skip"), 422, "idempotency_mismatch")
    assert len(stored_files(server)) == count(server, models.Upload) == 1

    image = {"files": {"image": ("q.png", picture())}, "headers": {"Idempotency-Key": "s"}}
    found = accepted(client.post("/v1/jobs/search", data={"collection": "archive"}, **image))
    assert accepted(client.post("/v1/jobs/search", data={"collection": "archive"}, **image))["id"] == found["id"]
    assert len(stored_files(server)) == count(server, models.Upload) == 2


@pytest.mark.parametrize("form", [False, True])
def test_a_hundred_at_once_are_one_job(client: httpx2.Client, hand: Hand, server: Running, form: bool) -> None:
    hand.collection()
    hand.images("a.jpg")
    headers = {"Idempotency-Key": "k"}

    def post(_: int) -> httpx2.Response:
        if form:
            files = [("images", ("a.png", picture()))]
            return client.post("/v1/jobs/embed", data={"collection": "archive"}, files=files, headers=headers)
        return client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1}, headers=headers)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(post, range(100)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert count(server, models.Job) == count(server, models.Chunk) == 1
    assert len(stored_files(server)) == count(server, models.Upload) == int(form)


@pytest.mark.parametrize("key", ["", "x" * 256, "t\u00e4g"])
def test_a_key_that_cannot_be_kept_is_refused(client: httpx2.Client, hand: Hand, key: str) -> None:
    hand.collection()
    headers = {"Idempotency-Key": key.encode("latin-1")}
    answer = client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1}, headers=headers)
    check_problem(answer, 422, "invalid_request")


# --- limits ----------------------------------------------------------------------------------------------------


def test_past_quota_and_backlog_a_client_is_told_when_to_come_again(serve: Callable[..., Running]) -> None:
    from imagekin import auth

    server = serve(max_jobs_per_owner=1, max_backlog=2)
    hand = Hand(server.database, server.settings)

    def owner(name: str) -> httpx2.Client:
        hand.collection(owner=name)
        hand.images("a.jpg", owner=name)
        return server.client(server.database.write(auth.create, name)[1])

    def post(client: httpx2.Client) -> httpx2.Response:
        return client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1})

    first, second, third = owner("first"), owner("second"), owner("third")
    accepted(post(first))
    answer = post(first)
    check_problem(answer, 429, "quota_exceeded")
    assert int(answer.headers["Retry-After"]) >= 1
    accepted(post(second))
    answer = post(third)
    check_problem(answer, 503, "backlog")
    assert int(answer.headers["Retry-After"]) >= 1


# --- show, wait, list ------------------------------------------------------------------------------------------


def cluster(client: httpx2.Client) -> dict[str, Any]:
    return accepted(client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1}))


@pytest.fixture
def one_image(hand: Hand) -> Hand:
    hand.collection()
    hand.images("a.jpg")
    return hand


SUMMARY: dict[str, Any] = {"n_clusters": 1, "clusters": []}


def test_a_held_answer_comes_when_the_job_ends(client: httpx2.Client, one_image: Hand, server: Running) -> None:
    job = cluster(client)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.get, f"/v1/jobs/{job['id']}", headers={"Prefer": "respond-async, wait=20"})
        wait_until(lambda: server.service.watcher.waiting == 1)
        started = time.monotonic()
        one_image.finish_cluster(SUMMARY, [])
        answer = held.result(timeout=20)
    assert time.monotonic() - started < 10
    assert answer.json()["status"] == "succeeded"
    assert answer.headers["Preference-Applied"] == "wait=20"
    # and nobody polls for nothing
    wait_until(lambda: not any(thread.name == "waiting" for thread in threading.enumerate()))


def test_a_held_answer_comes_when_the_time_is_up(client: httpx2.Client, one_image: Hand) -> None:
    job = cluster(client)
    started = time.monotonic()
    answer = client.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=1"})
    assert 0.9 < time.monotonic() - started < 10
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
    assert answer.headers["Preference-Applied"] == "wait=1"


def test_an_ended_job_is_not_held(client: httpx2.Client, one_image: Hand) -> None:
    job = cluster(client)
    one_image.finish_cluster(SUMMARY, [])
    started = time.monotonic()
    answer = client.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=20"})
    assert time.monotonic() - started < 10
    assert answer.json()["status"] == "succeeded"


def test_a_held_job_may_be_deleted(client: httpx2.Client, one_image: Hand, server: Running) -> None:
    job = cluster(client)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.get, f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=20"})
        wait_until(lambda: server.service.watcher.waiting == 1)

        def remove(session: Any) -> None:
            jobs.cancel(session, "admin", job["id"])
            session.flush()
            jobs.delete(session, "admin", job["id"])

        server.database.write(remove)
        check_problem(held.result(timeout=20), 404, "job_not_found")


def test_at_most_half_of_the_threads_wait(serve: Callable[..., Running]) -> None:
    server = serve(api_threads=4)
    hand = Hand(server.database, server.settings)
    hand.collection()
    hand.images("a.jpg")
    client = server.client(ADMIN_KEY)
    job = cluster(client)
    path, headers = f"/v1/jobs/{job['id']}", {"Prefer": "wait=30"}
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(client.get, path, headers=headers) for _ in range(2)]
        wait_until(lambda: server.service.watcher.waiting == 2)
        started = time.monotonic()
        answer = client.get(path, headers=headers)
        assert time.monotonic() - started < 10
        assert answer.json()["status"] == "queued"
        assert "Preference-Applied" not in answer.headers
        hand.finish_cluster(SUMMARY, [])
        assert {each.result(timeout=20).json()["status"] for each in held} == {"succeeded"}


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_jobs_are_listed_newest_first_and_filtered(
    client: httpx2.Client, stranger: httpx2.Client, one_image: Hand
) -> None:
    one_image.collection("other")
    ended = cluster(client)
    one_image.finish_cluster(SUMMARY, [])
    queued = cluster(client)
    found = accepted(search(client, query={"image_key": "a.jpg"}))
    elsewhere = accepted(embed(client, upload(client), collection="other"))

    def listed(**params: str) -> list[str]:
        return [job["id"] for job in client.get("/v1/jobs", params=params).json()["items"]]

    assert listed() == [elsewhere["id"], found["id"], queued["id"], ended["id"]]
    assert listed(status="succeeded") == [ended["id"]]
    assert listed(kind="search") == [found["id"]]
    assert listed(collection="other") == [elsewhere["id"]]
    assert listed(collection="none") == []
    assert listed(kind="cluster", status="queued", collection="archive") == [queued["id"]]
    assert stranger.get("/v1/jobs").json() == {"items": [], "next_cursor": None}
    for name in ("status", "kind"):
        problem = check_problem(client.get("/v1/jobs", params={name: "odd"}), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == f"/{name}"


def test_pages_of_jobs_are_stable_under_new_ones(client: httpx2.Client, one_image: Hand) -> None:
    ids = [cluster(client)["id"] for _ in range(5)]
    first = client.get("/v1/jobs", params={"limit": 2}).json()
    cluster(client)
    second = client.get("/v1/jobs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    third = client.get("/v1/jobs", params={"limit": 2, "cursor": second["next_cursor"]}).json()
    assert [job["id"] for page in (first, second, third) for job in page["items"]] == ids[::-1]
    assert third["next_cursor"] is None
    # clamped, not refused
    assert len(client.get("/v1/jobs", params={"limit": 0}).json()["items"]) == 1
    assert len(client.get("/v1/jobs", params={"limit": 10**30}).json()["items"]) == 6


def test_a_cursor_that_the_list_never_gave_is_refused(client: httpx2.Client, one_image: Hand) -> None:
    for _ in range(2):
        cluster(client)
    cursor = client.get("/v1/jobs", params={"limit": 1}).json()["next_cursor"]
    check_problem(client.get("/v1/collections", params={"cursor": cursor}), 422, "invalid_request")
    for odd in ("x", "!!", "bnVsbA", cursor[:-2], "WyJqb2JzIixbMSwyXV0"):
        problem = check_problem(client.get("/v1/jobs", params={"cursor": odd}), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == "/cursor"
    check_problem(client.get("/v1/jobs", params={"limit": "ten"}), 422, "invalid_request")


# --- items, cancel, retry, delete ------------------------------------------------------------------------------


def finish_three(client: httpx2.Client, hand: Hand) -> str:
    """An embed job with two images and a failure, its id."""
    from imagekin import segments

    hand.collection()
    job_id = accepted(embed(client, upload(client)))["id"]
    broken = segments.Item("c.jpg", error=("decode_error", "The image is truncated."))
    hand.finish_embed(hand.item("a.jpg", 1), hand.item("b.jpg", 2), broken)
    return job_id


def test_the_items_of_a_job_are_paged_and_filtered(client: httpx2.Client, hand: Hand) -> None:
    job_id = finish_three(client, hand)
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert job["status"] == "partial"
    progress = job["progress"]
    assert (progress["total"], progress["done"], progress["embedded"], progress["failed"]) == (3, 3, 2, 1)
    assert progress["ignored"] == 1
    first = client.get(f"/v1/jobs/{job_id}/items", params={"limit": 2}).json()
    assert [item["key"] for item in first["items"]] == ["a.jpg", "b.jpg"]
    assert first["items"][0].keys() == {"key", "status", "image_id", "error"}
    image_id = first["items"][0]["image_id"]
    assert client.get(f"/v1/collections/archive/images/{image_id}").json()["key"] == "a.jpg"
    last = client.get(f"/v1/jobs/{job_id}/items", params={"cursor": first["next_cursor"]}).json()
    assert last["next_cursor"] is None
    assert last["items"] == [
        {"key": "c.jpg", "status": "failed", "image_id": None,
         "error": {"code": "decode_error", "detail": "The image is truncated."}}
    ]  # fmt: skip
    failed = client.get(f"/v1/jobs/{job_id}/items", params={"status": "failed"}).json()
    assert failed["items"] == last["items"]
    check_problem(client.get(f"/v1/jobs/{job_id}/items", params={"status": "odd"}), 422, "invalid_request")
    check_problem(client.get(f"/v1/jobs/{job_id}/items", params={"cursor": "odd"}), 422, "invalid_request")


def test_a_cancelled_job_stays_cancelled(client: httpx2.Client, one_image: Hand) -> None:
    job = cluster(client)
    assert accepted(client.post(f"/v1/jobs/{job['id']}/cancel"))["status"] == "cancelled"
    assert accepted(client.post(f"/v1/jobs/{job['id']}/cancel"))["status"] == "cancelled"
    problem = check_problem(client.get(f"/v1/jobs/{job['id']}/result"), 409, "conflict")
    assert "cancelled" in problem["detail"]
    other = cluster(client)
    one_image.finish_cluster(SUMMARY, [])
    check_problem(client.post(f"/v1/jobs/{other['id']}/cancel"), 409, "job_finished")


def test_a_retry_is_a_new_job_that_names_its_parent(client: httpx2.Client, hand: Hand, server: Running) -> None:
    parent = finish_three(client, hand)
    headers = {"Idempotency-Key": "again"}
    job = accepted(client.post(f"/v1/jobs/{parent}/retry", json={"items": "failed"}, headers=headers))
    assert (job["parent_id"], job["kind"], job["status"]) == (parent, "embed", "queued")
    repeated = client.post(f"/v1/jobs/{parent}/retry", json={"items": "failed"}, headers=headers)
    assert accepted(repeated)["id"] == job["id"]
    mismatch = client.post(f"/v1/jobs/{parent}/retry", json={"items": "all"}, headers=headers)
    check_problem(mismatch, 422, "idempotency_mismatch")
    assert accepted(client.post(f"/v1/jobs/{parent}/retry"))["id"] != job["id"]
    problem = check_problem(client.post(f"/v1/jobs/{parent}/retry", json={"items": "some"}), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/items"
    check_problem(client.post(f"/v1/jobs/{job['id']}/retry", json={}), 409, "job_not_finished")


def test_a_retry_needs_its_source(client: httpx2.Client, hand: Hand) -> None:
    parent = finish_three(client, hand)
    upload_id = client.get(f"/v1/jobs/{parent}").json()["params"]["source"]["upload_id"]
    assert client.delete(f"/v1/uploads/{upload_id}").status_code == 204
    check_problem(client.post(f"/v1/jobs/{parent}/retry", json={}), 409, "source_expired")


def test_a_finished_job_can_be_deleted_and_its_images_stay(client: httpx2.Client, hand: Hand) -> None:
    job_id = finish_three(client, hand)
    unfinished = accepted(embed(client, upload(client)))["id"]
    check_problem(client.delete(f"/v1/jobs/{unfinished}"), 409, "job_not_finished")
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    check_problem(client.get(f"/v1/jobs/{job_id}"), 404, "job_not_found")
    assert client.get("/v1/collections/archive").json()["image_count"] == 2


def test_another_owners_job_is_not_there(client: httpx2.Client, stranger: httpx2.Client, hand: Hand) -> None:
    job_id = finish_three(client, hand)
    for method, path in [
        ("GET", ""), ("DELETE", ""), ("GET", "/items"), ("GET", "/result"), ("GET", "/sheet"), ("POST", "/cancel"),
        ("POST", "/retry"),
    ]:  # fmt: skip
        check_problem(stranger.request(method, f"/v1/jobs/{job_id}{path}"), 404, "job_not_found")
        check_problem(client.request(method, f"/v1/jobs/{'0' * 32}{path}"), 404, "job_not_found")
    assert client.get(f"/v1/jobs/{job_id}").status_code == 200


def test_a_job_is_taken_in_while_redis_is_down(serve: Callable[..., Running]) -> None:
    server = serve(redis_url=NO_REDIS)
    hand = Hand(server.database, server.settings)
    hand.collection()
    hand.images("a.jpg")
    started = time.monotonic()
    job = cluster(server.client(ADMIN_KEY))
    assert time.monotonic() - started < 5
    assert hand.claim(Lane.BULK).job_id == job["id"]


def test_the_lane_of_a_new_job_is_rung_and_no_other(client: httpx2.Client, one_image: Hand, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        connection.flushall()
        accepted(search(client, query={"image_key": "a.jpg"}))
        wait_until(lambda: connection.llen("interactive") == 1)
        assert connection.llen("bulk") == 0
