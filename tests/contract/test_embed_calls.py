"""Embed jobs as they are posted, by the source that they name."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kit.calls import accepted, embed, row, search, stored_files, upload
from kit.hand import Hand, picture
from kit.serving import BOTH_ENGINES, Running
from kit.wire import ADMIN_KEY, check_problem

pytestmark = BOTH_ENGINES


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
