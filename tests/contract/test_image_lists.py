"""Images by the page, changed many at once, and their labels counted."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from imagekin.store import collections
from kit.hand import Hand, item
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

IMAGES = "/v1/collections/archive/images"
KEYS = ["b/2.jpg", "a/1.jpg", "a/😀.jpg", "B/3.jpg", "a/\ufb01.jpg", "ab.jpg"]
REFUSED = (422, "invalid_request")
METADATA: list[dict[str, Any]] = [
    {"label": "chair", "n": 1},
    {"label": "table"},
    {"label": "chair", "n": 2},
    {"label": 'a "Stuhl"'},
    {"label": None, "n": 1},
    {"n": 1.5},
]


@pytest.fixture
def ids(hand: Hand) -> list[str]:
    hand.collection()
    return hand.store([item(key, at, **METADATA[at]) for at, key in enumerate(KEYS)])


def listed(client: httpx2.Client, limit: int = 2, **params: Any) -> tuple[list[str], set[int]]:
    """Return the keys of a list, page by page, and the totals that its pages told."""
    keys: list[str] = []
    totals: set[int] = set()
    cursor = ""
    while cursor is not None:
        page = client.get(IMAGES, params={"limit": limit, "cursor": cursor, **params}).raise_for_status().json()
        keys += [image["key"] for image in page["items"]]
        totals.add(page["total"])
        cursor = page["next_cursor"]
    return keys, totals


@BOTH_ENGINES
def test_a_list_is_ordered_narrowed_and_counted(client: httpx2.Client, ids: list[str]) -> None:
    assert listed(client) == (KEYS, {6})
    assert listed(client, order="-created") == (KEYS[::-1], {6})
    assert listed(client, order="key") == (sorted(KEYS), {6})
    assert listed(client, prefix="a/", order="key") == (["a/1.jpg", "a/\ufb01.jpg", "a/😀.jpg"], {3})
    assert listed(client, prefix="a/\ufb01") == (["a/\ufb01.jpg"], {1})
    assert listed(client, prefix="%") == ([], {0})
    assert listed(client, filter='{"label": "chair"}') == (["b/2.jpg", "a/😀.jpg"], {2})
    assert listed(client, filter='{"label": ["chair", "table"], "!n": 2}', order="key") == (["a/1.jpg", "b/2.jpg"], {2})
    assert listed(client, filter='{"label": null}', prefix="a") == (["a/\ufb01.jpg", "ab.jpg"], {2})
    assert listed(client, filter="{}", limit=1) == (KEYS, {6})


def test_what_a_list_does_not_know_is_pointed_at(client: httpx2.Client, ids: list[str]) -> None:
    first = client.get(IMAGES, params={"limit": 1, "order": "key"}).json()["next_cursor"]
    for params, pointer in (
        ({"order": "size"}, "/order"),
        ({"filter": "label=chair"}, "/filter"),
        ({"filter": "[]"}, "/filter"),
        ({"filter": json.dumps({"a": "x" * 17_000})}, "/filter"),
        ({"cursor": first}, "/cursor"),
    ):
        problem = check_problem(client.get(IMAGES, params=params), *REFUSED)
        assert problem["errors"][0]["pointer"] == pointer, params


@BOTH_ENGINES
def test_many_images_are_labelled_and_deleted_at_once(client: httpx2.Client, server: Running, ids: list[str]) -> None:
    def revision() -> int:
        return server.database.read(collections.get, "admin", "archive").revision

    def patch(**body: Any) -> int:
        before = revision()
        changed = client.patch(IMAGES, json=body).raise_for_status().json()["changed"]
        assert (revision() > before) == bool(changed)
        return changed

    def metadata(at: int) -> dict[str, Any]:
        return client.get(f"{IMAGES}/{ids[at]}").json()["metadata"]

    assert patch(image_ids=[ids[0], ids[1], ids[0]], metadata={"n": None, "split": "train"}) == 2
    assert metadata(0) == {"label": "chair", "split": "train"}
    assert patch(image_keys=["ab.jpg", "B\\3.jpg"], metadata={"label": {"name": "lamp"}}) == 2
    assert metadata(5) == {"n": 1.5, "label": {"name": "lamp"}}
    # walked while it changes what it looks for
    assert patch(filter={"label": "chair"}, metadata={"label": "seat"}) == 2
    assert patch(filter={"label": "chair"}, metadata={"label": "seat"}) == 0
    assert patch(image_ids=[], metadata={"label": "seat"}) == 0

    found = client.request("DELETE", IMAGES, json={"filter": {"label": "seat"}})
    assert found.json() == {"changed": 2}
    assert client.request("DELETE", IMAGES, json={"image_keys": ["ab.jpg"]}).json() == {"changed": 1}
    assert listed(client) == (["a/1.jpg", "B/3.jpg", "a/\ufb01.jpg"], {3})
    assert client.get("/v1/collections/archive").json()["image_count"] == 3
    assert client.request("DELETE", IMAGES, json={"filter": {}}).json() == {"changed": 3}
    assert listed(client) == ([], {0})


def test_a_choice_that_does_not_hold_changes_nothing(client: httpx2.Client, ids: list[str]) -> None:
    label = {"metadata": {"label": "x"}}
    for body in ({}, {"image_ids": ids, "filter": {}}, {"image_ids": ids * 1667}, {"image_ids": None}):
        check_problem(client.patch(IMAGES, json={**body, **label}), *REFUSED)
        check_problem(client.request("DELETE", IMAGES, json=body), *REFUSED)
    check_problem(client.patch(IMAGES, json={"image_ids": [*ids, "0" * 32], **label}), 404, "image_not_found")
    check_problem(client.patch(IMAGES, json={"image_keys": ["ab.jpg", "none"], **label}), 404, "image_not_found")
    check_problem(client.request("DELETE", IMAGES, json={"image_keys": ["../up"]}), 422, "invalid_key")
    large = {"filter": {}, "metadata": {"text": "x" * 60_000}}
    assert client.patch(IMAGES, json=large).json() == {"changed": 6}
    problem = check_problem(client.patch(IMAGES, json={"filter": {}, "metadata": {"more": "x" * 6_000}}), *REFUSED)
    assert problem["errors"][0]["pointer"] == "/metadata"
    assert "b/2.jpg" in problem["detail"]
    assert listed(client, filter='{"label": "chair"}') == (["b/2.jpg", "a/😀.jpg"], {2})


@BOTH_ENGINES
def test_labels_are_counted_most_first(client: httpx2.Client, ids: list[str]) -> None:
    def counts(**params: Any) -> list[tuple[Any, int]]:
        page = client.get("/v1/collections/archive/labels", params=params).raise_for_status().json()
        rest = counts(**{**params, "cursor": page["next_cursor"]}) if page["next_cursor"] else []
        return [(each["value"], each["count"]) for each in page["items"]] + rest

    assert counts() == counts(limit=1) == [("chair", 2), ('a "Stuhl"', 1), ("table", 1)]
    assert counts(field="n") == [(1, 2), (1.5, 1), (2, 1)]
    client.patch(IMAGES, json={"image_ids": ids[:3], "metadata": {'$."ö': True}})
    client.patch(IMAGES, json={"image_ids": ids[3:5], "metadata": {'$."ö': ["a", {"b": None}]}})
    assert counts(field='$."ö') == [(True, 3), (["a", {"b": None}], 2)]
    assert counts(field="nothing") == []
    check_problem(client.get("/v1/collections/archive/labels", params={"cursor": "x"}), *REFUSED)


def test_ten_thousand_are_labelled_in_one_call(client: httpx2.Client, hand: Hand) -> None:
    """What the gallery does when a large part of a collection is selected."""
    hand.collection()
    ids = hand.store([item(f"{at}.jpg", at) for at in range(10_000)])
    assert client.patch(IMAGES, json={"image_ids": ids, "metadata": {"label": "x"}}).json() == {"changed": 10_000}
    assert client.get("/v1/collections/archive/labels").json()["items"] == [{"value": "x", "count": 10_000}]
