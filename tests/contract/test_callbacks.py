"""`callback_url`: who may give one, and what the job then shows; integration/webhooks has how it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from imagekin.database import tables
from imagekin.jobs import callbacks
from kit.calls import FIELDS, accepted, search
from kit.hand import Hand, picture
from kit.receiving import SECRET
from kit.serving import Running
from kit.wire import ADMIN_KEY, check_problem

URL = "https://example.org/hook?token=of-the-receiver"


@pytest.fixture
def signing(serve: Callable[..., Running]) -> Running:
    return serve(webhook_secret=SECRET)


def archive(server: Running) -> httpx2.Client:
    hand = Hand(server.database, server.settings)
    hand.collection()
    hand.images("a.jpg")
    return server.client(ADMIN_KEY)


def posts(client: httpx2.Client, callback_url: str) -> dict[str, httpx2.Response]:
    """Post a job in every way that takes a callback."""
    here = {"collection": "archive", "callback_url": callback_url}
    upload_id = client.post("/v1/uploads", content=b"bytes").json()["id"]
    source = {"type": "upload", "upload_id": upload_id}
    job_id = accepted(search(client, query={"image_key": "a.jpg"}))["id"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    return {
        "embed": client.post("/v1/jobs/embed", json={**here, "source": source}),
        "embed form": client.post("/v1/jobs/embed", data=here, files={"images": ("b.png", picture())}),
        "search": client.post("/v1/jobs/search", json={**here, "query": {"image_key": "a.jpg"}}),
        "search form": client.post("/v1/jobs/search", data=here, files={"image": ("b.png", picture())}),
        "cluster": client.post("/v1/jobs/cluster", json={**here, "n_clusters": 1}),
        "retry": client.post(f"/v1/jobs/{job_id}/retry", json={"items": "all", "callback_url": callback_url}),
    }


def test_without_a_secret_a_callback_is_refused_with_what_to_do(server: Running) -> None:
    for kind, answer in posts(archive(server), URL).items():
        problem = check_problem(answer, 422, "invalid_request")
        assert "IMAGEKIN_WEBHOOK_SECRET" in problem["detail"], kind
        assert problem["errors"][0]["pointer"] == "/callback_url"


def test_assign_and_import_refuse_it_too(server: Running) -> None:
    client, path = archive(server), "/v1/collections/archive/import"
    for answer in [
        client.post("/v1/jobs/assign", json={"clustering_id": "any", "callback_url": URL}),
        client.post(path, json={"upload_id": "any", "callback_url": URL}),
        client.post(path, content=b"any", params={"callback_url": URL}),
        client.post(path, data={"callback_url": URL}, files={"file": b"any"}),
    ]:
        problem = check_problem(answer, 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == "/callback_url"


def test_every_job_takes_a_callback(signing: Running) -> None:
    for answer in posts(archive(signing), URL).values():
        job_id = accepted(answer)["id"]
        assert signing.database.read(lambda session, id=job_id: session.get_one(tables.Job, id).callback_url) == URL


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://example.org", "http:// or https://"),
        ("//example.org", "http:// or https://"),
        ("example.org", "http:// or https://"),
        ("https://", "valid host"),
        ("https://user:password@example.org", "user or a password"),
        ("https://example.org:22/", "port 22"),
        ("http://127.0.0.1:8080/", "not on the public internet"),
        ("http://[::1]:8080/", "not on the public internet"),
        ("http://169.254.169.254/latest", "not on the public internet"),
        ("http://[::ffff:10.0.0.1]/", "not on the public internet"),
    ],
)
def test_an_address_that_is_not_called_is_refused_at_once(signing: Running, url: str, said: str) -> None:
    problem = check_problem(
        search(archive(signing), query={"image_key": "a.jpg"}, callback_url=url), 422, "invalid_request"
    )
    assert said in problem["detail"]
    assert problem["errors"][0]["pointer"] == "/callback_url"


def test_a_job_with_a_callback_shows_its_deliveries_and_others_do_not(signing: Running) -> None:
    client = archive(signing)
    plain = accepted(search(client, query={"image_key": "a.jpg"}))
    assert client.get(f"/v1/jobs/{plain['id']}").json().keys() == FIELDS
    job_id = accepted(search(client, query={"image_key": "a.jpg"}, callback_url=URL))["id"]
    assert client.get(f"/v1/jobs/{job_id}").json()["deliveries"] == []
    assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    (errand,) = signing.database.write(callbacks.claim, tables.new_id(), 8)
    signing.database.write(callbacks.note, errand, 500, "The receiver answered 500.")
    shown: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
    (attempt,) = shown["deliveries"]
    assert attempt.keys() == {"at", "status_code", "error"}
    assert (attempt["status_code"], attempt["error"]) == (500, "The receiver answered 500.")
    assert attempt["at"] >= shown["finished_at"]
    assert all("deliveries" not in job for job in client.get("/v1/jobs").json()["items"])
    # it may have the receiver's own secret in it
    assert "of-the-receiver" not in str(shown)
