"""Splits without leaks: near-duplicates stay on one side, and the images' metadata say on which."""

from __future__ import annotations

import csv
import io
import itertools
import json
from typing import Any

import httpx2
import pytest

from imagekin.jobs import results
from imagekin.maintenance import sweep
from imagekin.store import bulk, segments
from imagekin_worker.kinds import pinned
from kit.analyses import asked, ended, failure_of, result_of, resumed
from kit.calls import accepted
from kit.crew import Crew
from kit.hand import Hand
from kit.known_vectors import image
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

pytestmark = BOTH_ENGINES

KINDS = ["chair", 3, None]
STRANGERS, COPIES = 60, 12
ALL = STRANGERS + 3 * COPIES
SHARES = {"train": 0.5, "val": 0.25, "test": 0.25}


def drawn() -> list[segments.Item]:
    """Strangers of two kinds and of none; some have copies: the same bytes, a crop, and a crop of the crop."""
    items = [image(f"{at:02}.jpg", at, metadata={"label": KINDS[at % 3], "at": at}) for at in range(STRANGERS)]
    for at in range(COPIES):
        about: dict[str, Any] = {"metadata": {"label": KINDS[at % 3]}}
        items.append(image(f"{at:02}-bytes.jpg", at, **about))
        # the second crop is like the first, and not like the picture
        crop = image(f"{at:02}-crop.jpg", 100 + at, like=at, cosine=0.95, **about)
        items += [crop, image(f"{at:02}-farther.jpg", 200 + at, like=crop.vector, cosine=0.95, **about)]
    return items


@pytest.fixture
def archive(server: Running, hand: Hand) -> list[segments.Item]:
    hand.collection()
    items = drawn()
    hand.store(items)
    return items


def sides(client: httpx2.Client, field: str = "split") -> dict[str, Any]:
    listed = client.get("/v1/collections/archive/images", params={"limit": 1000}).json()["items"]
    return {each["key"]: each["metadata"].get(field) for each in listed}


@pytest.mark.usefixtures("archive")
def test_no_leak_remains_and_shares_come_out(client: httpx2.Client, crew: Crew) -> None:
    result = result_of(client, crew, "split", shares=SHARES, stratify="label")
    found = sides(client)
    assert found == {row["key"]: row["share"] for row in result["rows"]}
    assert result["images"] == len(found) == ALL
    groups = {}
    for row in result["rows"]:
        groups.setdefault(row["group"], set()).add(row["key"])
    alone = groups.pop(None)
    assert alone == {f"{at:02}.jpg" for at in range(COPIES, STRANGERS)}
    assert sorted(groups.values(), key=min) == [
        {f"{at:02}{end}.jpg" for end in ("", "-bytes", "-crop", "-farther")} for at in range(COPIES)
    ]
    assert (result["groups"], result["grouped"], result["field"]) == (COPIES, 4 * COPIES, "split")
    for share in result["counts"]:
        size = SHARES[share["share"]] * ALL
        assert share["wanted"] == SHARES[share["share"]]
        # four near-duplicates go together
        assert abs(share["images"] - size) <= 2
        assert [each["label"] for each in share["classes"]] == ["chair", 3, None]
        assert all(abs(each["count"] - size / 3) <= 2.5 for each in share["classes"])
        assert sum(each["count"] for each in share["classes"]) == share["images"]
        assert share["images"] == sum(side == share["share"] for side in found.values())
    leaks = result_of(client, crew, "duplicates", between="split")
    assert leaks["groups"] == [] and leaks["images"] == ALL
    assert leaks["threshold"] == result["threshold"]
    # a split that knows nothing of them leaks
    at_random = dict(zip(sorted(found), itertools.cycle(["train", "test"]), strict=False))
    for side in ("train", "test"):
        keys = [key for key, share in at_random.items() if share == side]
        body = {"image_keys": keys, "metadata": {"split": side}}
        assert client.patch("/v1/collections/archive/images", json=body).status_code == 200
    assert len(result_of(client, crew, "duplicates", between="split")["groups"]) == COPIES


@pytest.mark.usefixtures("archive")
def test_verdicts_join_and_part(client: httpx2.Client, crew: Crew) -> None:
    listed = client.get("/v1/collections/archive/images", params={"limit": 1000}).json()["items"]
    ids = {each["key"]: each["id"] for each in listed}
    pairs = [
        {"a": ids["30.jpg"], "b": ids["31.jpg"], "verdict": "same"},
        {"a": ids["00.jpg"], "b": ids["00-crop.jpg"], "verdict": "different"},
        {"a": ids["00.jpg"], "b": ids["00-farther.jpg"], "verdict": "different"},
    ]
    assert client.post("/v1/collections/archive/verdicts", json={"pairs": pairs}).json() == {"changed": 3}
    group = {row["key"]: row["group"] for row in result_of(client, crew, "split")["rows"]}
    assert group["30.jpg"] == group["31.jpg"] is not None
    assert group["00.jpg"] == group["00-bytes.jpg"] != group["00-crop.jpg"] == group["00-farther.jpg"]
    assert result_of(client, crew, "duplicates", between="split")["groups"] == []


@pytest.mark.usefixtures("archive")
def test_slices_and_another_process_give_the_same_split(
    client: httpx2.Client, server: Running, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, written = result_of(client, crew, "split", stratify="label"), sides(client)
    # the order of an object's members does not matter; a seed does
    other = result_of(client, crew, "split", stratify="label", shares={"test": 0.1, "val": 0.1, "train": 0.8})
    assert other["rows"] == whole["rows"]
    assert result_of(client, crew, "split", stratify="label", seed=7, field="fold")["rows"] != whole["rows"]
    monkeypatch.setattr(pinned, "SLICE_S", 0.0)
    monkeypatch.setattr("imagekin_worker.analysis.prints.TAKEN", 32)
    monkeypatch.setattr("imagekin_worker.analysis.pairs.QUERY_ROWS", 32)
    monkeypatch.setattr(results, "ROWS_PER_PART", 16)
    body = {"metadata": {"split": None}, "filter": {}}
    assert client.patch("/v1/collections/archive/images", json=body).status_code == 200
    found = resumed(server, client, "split", processes=30, stratify="label")
    assert {**found, "revision": 0} == {**whole, "revision": 0}
    assert sides(client) == written


class Killed(BaseException):
    """What ends a worker's process."""


@pytest.mark.usefixtures("archive")
def test_a_worker_that_dies_among_the_images_changes_nothing(
    client: httpx2.Client, server: Running, hand: Hand, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, written = result_of(client, crew, "split", stratify="label"), sides(client)
    body = {"metadata": {"split": None}, "filter": {}}
    assert client.patch("/v1/collections/archive/images", json=body).status_code == 200
    monkeypatch.setattr(results, "ROWS_PER_PART", 16)
    job, merge, left = accepted(asked(client, "split", stratify="label")), bulk.merge, 5

    def dies(*arguments: Any) -> int:
        nonlocal left
        left -= 1
        if not left:
            raise Killed
        return merge(*arguments)

    monkeypatch.setattr(bulk, "merge", dies)
    with pytest.raises(Killed):
        crew.step()
    some = sides(client)
    # a transaction has a part's images or none of them
    assert 0 < sum(side is not None for side in some.values()) < ALL
    monkeypatch.setattr(bulk, "merge", merge)
    hand.sql("UPDATE chunks SET lease_until = 0")
    server.database.write(sweep.sweep, server.settings)
    other = Crew(server.settings)
    other.work()
    other.close()
    assert {**ended(client, job), "revision": 0} == {**whole, "revision": 0}
    assert sides(client) == written


@pytest.mark.usefixtures("archive")
def test_a_cancelled_split_stops_where_it_is(
    client: httpx2.Client, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinned, "SLICE_S", 0.0)
    monkeypatch.setattr(results, "ROWS_PER_PART", 16)
    job = accepted(asked(client, "split"))
    while not any(sides(client).values()):
        crew.step()
    progress = client.get(f"/v1/jobs/{job['id']}").json()["progress"]["fraction"]
    assert 0.8 < progress < 1
    assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    crew.work()
    assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled"
    assert not all(sides(client).values())
    check_problem(client.get(f"/v1/jobs/{job['id']}/result"), 409, "conflict")
    # images that go meanwhile are in the result alone
    job = accepted(asked(client, "split", field="fold"))
    while not any(sides(client, "fold").values()):
        crew.step()
    gone = client.get("/v1/collections/archive/images", params={"limit": 2}).json()["items"]
    ids = {"image_ids": [each["id"] for each in gone]}
    assert client.request("DELETE", "/v1/collections/archive/images", json=ids).json() == {"changed": 2}
    crew.work()
    assert ended(client, job)["images"] == len(sides(client)) + 2 and all(sides(client, "fold").values())


@pytest.mark.usefixtures("archive")
def test_a_split_is_a_table_and_sheets(client: httpx2.Client, crew: Crew) -> None:
    job = accepted(asked(client, "split"))
    crew.work()
    result, path = ended(client, job), f"/v1/jobs/{job['id']}"
    assert all(share["classes"] == [] for share in result["counts"])
    text = client.get(f"{path}/result", headers={"Accept": "text/csv"}).text
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["id"], row["key"], row["share"], row["group"]) for row in rows] == [
        (row["id"], row["key"], row["share"], "" if row["group"] is None else str(row["group"]))
        for row in result["rows"]
    ]
    lines = client.get(f"{path}/result", headers={"Accept": "application/x-ndjson"}).text.splitlines()
    assert [json.loads(line) for line in lines] == result["rows"]
    pictures = [client.get(f"{path}/sheet", params=params) for params in ({}, {"label": "val"}, {"label": "train"})]
    assert all(one.content.startswith(b"\x89PNG") for one in pictures)
    assert len({one.content for one in pictures}) == 3
    again = client.get(f"{path}/sheet", params={"label": "train", "page": 2})
    assert again.content not in (pictures[2].content, b"")
    problem = check_problem(client.get(f"{path}/sheet", params={"label": "dev"}), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/label"


def test_a_split_that_cannot_be_is_a_problem(
    client: httpx2.Client, stranger: httpx2.Client, server: Running, hand: Hand, crew: Crew
) -> None:
    check_problem(asked(stranger, "split"), 404, "collection_not_found")
    hand.collection()
    problem = check_problem(asked(client, "split"), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/collection"
    items = [image(f"{at}.jpg", at, metadata={"text": "x" * 1100, "full": "y" * 64_300}) for at in range(3)]
    hand.store(items)
    for pointer, wrong in (
        ("/shares", {"shares": {}}),
        ("/shares", {"shares": {"train": 0.8, "test": 0.1}}),
        ("/shares", {"shares": {"train": 0.8, "test": 0.21}}),
        ("/shares/test", {"shares": {"train": 1.0, "test": 0}}),
        ("/shares/test", {"shares": {"train": 0.5, "test": "0.5"}}),
        ("/field", {"field": ""}),
        ("/stratify", {"stratify": "split"}),
        ("/stratify", {"field": "label", "stratify": "label"}),
        ("/seed", {"seed": -1}),
        ("/threshold", {"threshold": 0}),
        ("/view", {"view": "raw"}),
    ):
        problem = check_problem(asked(client, "split", **wrong), 422, "invalid_request")
        assert [each["pointer"] for each in problem["errors"]] == [pointer], (wrong, problem)
    problem = check_problem(asked(client, "split", shares={"train": 0.8, "test": 0.1}), 422, "invalid_request")
    assert "0.9" in problem["errors"][0]["detail"]
    assert failure_of(client, crew, "split", stratify="text") == "invalid_request"
    # no room in the metadata for the share
    assert failure_of(client, crew, "split", field="f" * 256, shares={"t" * 128: 1.0}) == "invalid_request"
    assert result_of(client, crew, "split", shares={"all": 1.0})["counts"][0]["images"] == 3
    thirds = result_of(client, crew, "split", shares={"a": 0.333, "b": 0.333, "c": 0.333})
    assert [share["images"] for share in thirds["counts"]] == [1, 1, 1]
