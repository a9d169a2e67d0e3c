"""Owners don't see each other: what is another's is answered as what is not there, in every call of the API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy.orm import Session

from imagekin import api_keys
from imagekin.enums import OnConflict
from imagekin.store import collections, reuse
from kit.calls import accepted
from kit.hand import Hand, item, picture
from kit.serving import BOTH_ENGINES, Running
from kit.wire import ADMIN_KEY, PROBLEM, check_problem

OWN = "mine"


@dataclass(frozen=True)
class Names:
    """What a request may name."""

    collection: str
    image_id: str
    image_key: str
    job_id: str
    upload_id: str


# What an address may have in it.
IN_PATHS = {"name": "collection", "image_id": "image_id", "job_id": "job_id", "upload_id": "upload_id"}
# The calls that name nothing which could be another's; what they show and do is tested below.
NAMELESS = {
    "backbones_index", "collections_index", "collections_create", "jobs_index", "uploads_create", "session_show",
    "session_sign_in", "session_sign_out",
}  # fmt: skip


def bodies(operation: str, names: Names) -> list[dict[str, Any]]:
    """Return what to send to an operation: each names one thing that is not the caller's."""
    source = {"type": "upload", "upload_id": names.upload_id}
    here = {"collection": names.collection}
    mine = {"collection": OWN}
    form = {"data": here, "files": {"image": ("a.png", picture())}}
    known: dict[str, list[dict[str, Any]]] = {
        "images_annotate": [{"json": {"metadata": {"seen": True}}}],
        "images_annotate_many": [
            {"json": {"image_ids": [names.image_id], "metadata": {"seen": True}}},
            {"json": {"image_keys": [names.image_key], "metadata": {"seen": True}}},
        ],
        "images_delete_many": [{"json": {"image_ids": [names.image_id]}}, {"json": {"image_keys": [names.image_key]}}],
        "images_known": [{"json": {"images": [{"key": names.image_key, "content_hash": f"{0:064x}"}]}}],
        "jobs_retry": [{}, {"json": {"items": "all"}}],
        "submissions_embed": [
            {"json": {**here, "source": source}},
            {"json": {**mine, "source": source}},
            {"json": {**mine, "source": {**source, "type": "manifest"}}},
            {"json": {**here, "source": {"type": "urls", "urls": [{"url": "https://example.org/a.jpg"}]}}},
            {"data": here, "files": {"images": ("a.png", picture())}},
            {"data": here, "files": {"archive": ("a.zip", b"bytes")}},
        ],
        "submissions_search": [
            {"json": {**here, "query": {"image_id": names.image_id}}},
            {"json": {**here, "query": {"image_key": names.image_key}}},
            {"json": {**here, "query": {"embedding": [1.0] * 64}}},
            {"json": {**mine, "query": {"image_id": names.image_id}}},
            {"json": {**mine, "query": {"image_key": names.image_key}}},
            form,
        ],
        "submissions_cluster": [{"json": {**here, "n_clusters": 1}}],
        "results_name_cluster": [{"json": {"name": "seen"}}, {"json": {"name": None}}],
        "submissions_select": [
            {"json": {**here, "n": 1}},
            {"json": {**mine, "n": 1, "avoid": names.collection}},
            {"json": {**mine, "n": 1, "avoid": [names.image_id]}},
        ],
        "submissions_map": [{"json": here}],
        "submissions_adapt": [{"json": {**here, "name": "own"}}],
        "submissions_classify": [{"json": here}],
        "submissions_split": [{"json": here}],
        "submissions_outliers": [{"json": here}],
        "submissions_duplicates": [{"json": here}, {"json": {**mine, "against": names.collection}}],
        "submissions_assign": [
            {"json": {"clustering_id": names.job_id}},
            {"json": {"clustering_id": names.job_id, "image_ids": [names.image_id]}},
            {"json": {"clustering_id": names.job_id, "image_keys": [names.image_key]}},
        ],
        "verdicts_give": [
            {"json": {"pairs": [{"a": names.image_id, "b": own, "verdict": "same"} for own in (names.image_id, "b")]}}
        ],
        "verdicts_take_back": [{"json": {"pairs": [{"a": names.image_id, "b": "b"}]}}],
        "submissions_index": [{"json": {"index": "exact"}}],
        "submissions_check_index": [{"json": {}}],
        "vectors_import_": [{"json": {"upload_id": names.upload_id}}],
    }
    return known.get(operation, [])


@dataclass
class World:
    """A server with an owner who has everything, and a stranger who has a collection and an image."""

    server: Running
    owner: httpx2.Client
    stranger: httpx2.Client
    theirs: list[Names]
    mine: Names

    def missing(self, names: Names) -> Names:
        """Return names of the same form that nobody has given."""
        return Names(**{field: uuid4().hex[: len(value)] for field, value in asdict(names).items()})

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield method, path and description of every call that the server describes."""
        for path, methods in self.server.client().get("/openapi.json").json()["paths"].items():
            for method, description in methods.items():
                yield method.upper(), path, description

    def everything(self) -> list[Any]:
        """Return all that the owner sees."""
        paths = ["/v1/collections", "/v1/collections/archive/images", "/v1/jobs"]
        paths += [f"/v1/jobs/{names.job_id}/result" for names in self.theirs[:3]]
        return [self.owner.get(path).raise_for_status().json() for path in paths]


@pytest.fixture
def world(server: Running, client: httpx2.Client, stranger: httpx2.Client, hand: Hand) -> World:
    hand.collection()
    ids = hand.images("theirs-0.jpg", "theirs-1.jpg", "theirs-2.jpg")
    other = hand.of("stranger")
    other.collection(OWN)
    own = Names(OWN, other.images("mine.jpg", name=OWN)[0], "mine.jpg", "", "")
    upload_id = client.post("/v1/uploads", content=b"bytes").json()["id"]
    job_ids = []

    def post(kind: str, **body: Any) -> None:
        job_ids.append(accepted(client.post(f"/v1/jobs/{kind}", json={"collection": "archive", **body}))["id"])

    post("embed", source={"type": "upload", "upload_id": upload_id})
    hand.finish_embed(item("theirs-3.jpg", 3))
    post("search", query={"image_id": ids[0]})
    hand.finish_search({"query": {"image_id": ids[0]}, "top_k": 10, "neighbors": []})
    post("cluster", n_clusters=1)
    rows = [{"id": id, "key": f"theirs-{at}.jpg", "label": 0, "distance": 0.0} for at, id in enumerate(ids)]
    clusters = [{"label": 0, "size": 3, "medoid": {"id": ids[0], "key": "theirs-0.jpg"}, "cohesion": 1.0}]
    about = {
        "n_clusters": 1,
        "metric": "euclidean",
        "algorithm": "kmeans",
        "seed": 100,
        "inertia": 0.0,
        "iterations": 1,
    }
    hand.finish_cluster({**about, "clusters": clusters}, rows)
    # one that can still be cancelled
    post("search", query={"image_id": ids[0]})
    theirs = [Names("archive", ids[0], "theirs-0.jpg", job_id, upload_id) for job_id in job_ids]
    return World(server, client, stranger, theirs, own)


def requests(method: str, path: str, operation: str, names: Names) -> list[dict[str, Any]]:
    address = path.format(**{place: getattr(names, field) for place, field in IN_PATHS.items()}, label=0)
    return [{"method": method, "url": address, **body} for body in bodies(operation, names) or [{}]]


def signature(answer: httpx2.Response, names: Names) -> tuple[int, str, dict[str, str]]:
    """Return all of an answer but the names in it, the moment and how long the body is."""
    text = answer.text
    for field, value in asdict(names).items():
        text = text.replace(value, f"<{field}>") if value else text
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return (
        answer.status_code,
        text,
        {name: value for name, value in headers.items() if name not in ("date", "content-length")},
    )


def test_what_is_anothers_is_answered_as_what_is_not_there_in_every_call(world: World) -> None:
    before, asked = world.everything(), set()
    for method, path, description in world.operations():
        operation = description["operationId"]
        if operation in NAMELESS:
            continue
        takes_body = "application/json" in description.get("requestBody", {}).get("content", {})
        assert not takes_body or bodies(operation, world.theirs[0]), f"what does {operation} take? Say it in bodies()."
        for theirs in world.theirs:
            # another's image is no more to be had through a collection of one's own
            for names in {theirs, replace(theirs, collection=OWN)} if "image_id" in path else {theirs}:
                missing = world.missing(names)
                if names.collection == OWN:
                    missing = replace(missing, collection=OWN)
                pairs = zip(
                    requests(method, path, operation, names), requests(method, path, operation, missing), strict=True
                )
                for theirs_request, missing_request in pairs:
                    answer = world.stranger.request(**theirs_request)
                    found = signature(answer, names)
                    assert found == signature(world.stranger.request(**missing_request), missing), theirs_request
                    assert answer.headers["Content-Type"] == PROBLEM
                    assert answer.status_code == 404, (theirs_request, answer.text)
                    asked.add(operation)
    assert len(asked) > 18
    assert world.everything() == before


def test_lists_show_ones_own_alone(world: World) -> None:
    assert [each["name"] for each in world.stranger.get("/v1/collections").json()["items"]] == [OWN]
    assert world.stranger.get("/v1/jobs").json()["items"] == []
    cursor = world.owner.get("/v1/jobs?limit=1").json()["next_cursor"]
    assert world.stranger.get("/v1/jobs", params={"cursor": cursor}).json()["items"] == []
    for name in ("archive", "nothing"):
        assert world.stranger.get("/v1/jobs", params={"collection": name}).json() == {"items": [], "next_cursor": None}


def test_names_and_idempotency_keys_are_each_owners_own(world: World) -> None:
    answer = world.stranger.post("/v1/collections", json={"name": "archive", "backbone": "fake"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["image_count"] == 0
    sent = {"json": {"collection": OWN, "query": {"image_key": "mine.jpg"}}, "headers": {"Idempotency-Key": "one"}}
    mine = accepted(world.stranger.post("/v1/jobs/search", **sent))
    sent["json"] = {"collection": "archive", "query": {"image_key": "theirs-0.jpg"}}
    theirs = accepted(world.owner.post("/v1/jobs/search", **sent))
    assert mine["id"] != theirs["id"]


def test_the_content_of_others_is_not_reused(world: World) -> None:
    """That somebody has a picture must not show by its being `reused`."""

    def known(session: Session, owner: str, name: str) -> bool:
        collection = collections.get(session, owner, name)
        (answer,) = reuse.known(session, collection, [("new.jpg", f"{0:064x}")], OnConflict.REPLACE)
        return answer is not None

    for owner in ("admin", "third"):
        Hand(world.server.database, world.server.settings, owner).collection("empty")
    assert world.server.database.read(known, "admin", "empty")
    assert not world.server.database.read(known, "third", "empty")


def test_a_revoked_key_stops_at_once_and_its_owners_other_key_does_not(server: Running) -> None:
    (first, first_key), (_, second_key) = (server.database.write(api_keys.create, "ada") for _ in range(2))
    first_client, second_client = server.client(first_key), server.client(second_key)
    assert first_client.get("/v1/jobs").status_code == 200
    server.database.write(api_keys.revoke, first.id)
    check_problem(first_client.get("/v1/jobs"), 401, "unauthorized")
    assert second_client.get("/v1/jobs").status_code == 200


@BOTH_ENGINES
def test_where_keys_cannot_be_looked_up_nobody_gets_in(serve: Callable[..., Running]) -> None:
    server = serve()
    _, key = server.database.write(api_keys.create, "ada")
    with server.database.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE api_keys RENAME TO elsewhere")
    problem = check_problem(server.client(key).get("/v1/backbones"), 503, "unavailable")
    assert "api_keys" not in str(problem)
    check_problem(server.client("ik_guess").get("/v1/backbones"), 503, "unavailable")
    # the operator's own key needs no table
    assert server.client(ADMIN_KEY).get("/v1/backbones").status_code == 200
