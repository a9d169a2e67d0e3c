"""Calls that come again under one idempotency key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from imagekin.database import tables
from kit.calls import accepted, count, embed, stored_files, upload
from kit.hand import Hand, picture
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

pytestmark = BOTH_ENGINES


def test_the_same_key_and_body_is_the_same_job(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    first = accepted(embed(client, upload(client, b"same bytes"), "k1"))
    # other white space and order, and the same bytes uploaded once more
    again = upload(client, b"same bytes")
    text = f'{{ "source": {{"upload_id": "{again}", "type": "upload"}},\n"collection": "archive" }}'
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k1"}
    assert accepted(client.post("/v1/jobs/embed", content=text, headers=headers))["id"] == first["id"]
    assert count(server, tables.Job) == 1
    check_problem(embed(client, upload(client, b"other bytes"), "k1"), 422, "idempotency_mismatch")
    check_problem(embed(client, again, "k1", on_conflict="fail"), 422, "idempotency_mismatch")
    assert accepted(embed(client, again, "k2"))["id"] != first["id"]


def test_a_key_is_its_owners_and_its_addresss(client: httpx2.Client, stranger: httpx2.Client, hand: Hand) -> None:
    for owner in ("admin", "stranger"):
        hand.of(owner).collection()
        hand.of(owner).images("a.jpg")
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

    def post(*names: str, **fields: str) -> httpx2.Response:
        files = [("images", (name, picture(ord(name[0])))) for name in names]
        fields = {"collection": "archive", **fields}
        return client.post("/v1/jobs/embed", data=fields, files=files, headers={"Idempotency-Key": "k"})

    first = accepted(post("a.png", "b.png"))
    assert accepted(post("a.png", "b.png"))["id"] == first["id"]
    check_problem(post("b.png", "a.png"), 422, "idempotency_mismatch")
    check_problem(post("a.png", "b.png", on_conflict="skip"), 422, "idempotency_mismatch")
    assert len(stored_files(server)) == count(server, tables.Upload) == 1

    image = {"files": {"image": ("q.png", picture())}, "headers": {"Idempotency-Key": "s"}}
    found = accepted(client.post("/v1/jobs/search", data={"collection": "archive"}, **image))
    assert accepted(client.post("/v1/jobs/search", data={"collection": "archive"}, **image))["id"] == found["id"]
    assert len(stored_files(server)) == count(server, tables.Upload) == 2


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
    assert count(server, tables.Job) == count(server, tables.Chunk) == 1
    assert len(stored_files(server)) == count(server, tables.Upload) == int(form)


@pytest.mark.parametrize("key", ["", "x" * 256, "t\u00e4g"])
def test_a_key_that_cannot_be_kept_is_refused(client: httpx2.Client, hand: Hand, key: str) -> None:
    hand.collection()
    headers = {b"Idempotency-Key": key.encode("latin-1")}
    answer = client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1}, headers=headers)
    check_problem(answer, 422, "invalid_request")
