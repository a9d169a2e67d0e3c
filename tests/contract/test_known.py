"""What a client asks before it sends: which images are there, and which job was posted under a key."""

from __future__ import annotations

import unicodedata

import httpx2
import pytest

from kit.calls import accepted
from kit.hand import Hand
from kit.serving import BOTH_ENGINES
from kit.wire import check_problem

PATH = "/v1/collections/archive/images/known"


def content(seed: int) -> str:
    return f"{seed:064x}"


def ask(client: httpx2.Client, *pairs: tuple[str, str]) -> list[dict[str, str]]:
    images = [{"key": key, "content_hash": content_hash} for key, content_hash in pairs]
    answer = client.post(PATH, json={"images": images})
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


@BOTH_ENGINES
def test_key_and_content_must_be_there_together(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    first, second = hand.images("a.jpg", "sub/b.jpg")
    hand.collection("other")
    hand.images("a.jpg", "c.jpg", name="other")
    asked = [
        ("sub/b.jpg", content(1)),
        ("a.jpg", content(0)),
        ("a.jpg", content(1)),
        ("c.jpg", content(1)),
        ("new.jpg", content(0)),
    ]
    assert ask(client, *asked) == [
        {"key": "sub/b.jpg", "content_hash": content(1), "id": second},
        {"key": "a.jpg", "content_hash": content(0), "id": first},
    ]
    assert client.delete(f"/v1/collections/archive/images/{first}").status_code == 204
    assert [found["id"] for found in ask(client, *asked)] == [second]


def test_keys_in_any_spelling(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    (id,) = hand.images("caf\u00e9.jpg")
    asked = unicodedata.normalize("NFD", "caf\u00e9.jpg")
    # what cannot be a key is not there, and does not keep the others from an answer
    found = ask(client, ("../etc", content(0)), (asked, content(0)), ("\u00e9" * 1000, content(0)))
    assert found == [{"key": asked, "content_hash": content(0), "id": id}]


def test_many_at_once_and_no_more(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    hand.images(*(f"{number}.jpg" for number in range(1200)))
    asked = [(f"{number}.jpg", content(number)) for number in range(10_001)]
    assert [found["key"] for found in ask(client, *asked[:10_000])] == [key for key, _ in asked[:1200]]
    problem = client.post(PATH, json={"images": [{"key": key, "content_hash": of} for key, of in asked]})
    assert check_problem(problem, 422, "invalid_request")["errors"][0]["pointer"] == "/images"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"images": []}, "/images"),
        ({"images": [{"key": "a"}]}, "/images/0/content_hash"),
        ({"images": [{"key": "a", "content_hash": "A" * 64}]}, "/images/0/content_hash"),
        ({"images": [{"key": "", "content_hash": content(0)}]}, "/images/0/key"),
    ],
)
def test_what_is_not_asked_well(client: httpx2.Client, hand: Hand, body: object, pointer: str) -> None:
    hand.collection()
    problem = check_problem(client.post(PATH, json=body), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == pointer


def test_an_unknown_collection(client: httpx2.Client) -> None:
    body = {"images": [{"key": "a", "content_hash": content(0)}]}
    check_problem(client.post(PATH, json=body), 404, "collection_not_found")


@BOTH_ENGINES
def test_a_job_is_found_by_its_idempotency_key(client: httpx2.Client, stranger: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    hand.images("a.jpg")
    body = {"collection": "archive", "query": {"image_key": "a.jpg"}}
    for key in ("one", "two"):
        job = accepted(client.post("/v1/jobs/search", json=body, headers={"Idempotency-Key": key}))
    found = client.get("/v1/jobs", params={"idempotency_key": "two", "collection": "archive"}).json()["items"]
    assert [each["id"] for each in found] == [job["id"]]
    assert client.get("/v1/jobs?idempotency_key=three").json()["items"] == []
    assert stranger.get("/v1/jobs?idempotency_key=two").json()["items"] == []
