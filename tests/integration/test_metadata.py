"""What clients say of their images is found in the same way on both databases."""

from __future__ import annotations

from typing import Any

import pytest

from imagekin import schemas
from imagekin.database.engine import Database
from imagekin.enums import ItemStatus, OnConflict
from imagekin.settings import Settings
from imagekin.store import bulk, filters, images, ledger, reading, segments
from kit.hand import Hand

METADATA = {
    "yes": {"on": True, "n": 1, "place": {"city": "Rome", "year": 1969}, "tags": ["a", "b"], "by": None},
    "one": {"on": 1, "n": 1.5, "place": {"city": "Rome"}, "tags": ["b", "a"], "!odd": "x", 'a "quoted" \\ name é': "ö"},
    "list": {"on": [True], "n": "1", "place": "Rome", "tags": [["a", "b"]], "by": "me"},
}


@pytest.fixture
def hand(database: Database, settings: Settings) -> Hand:
    hand = Hand(database, settings)
    hand.embed([*METADATA, "bare"])
    for key, metadata in METADATA.items():
        image = database.read(images.by_key, hand.collection(), key)
        database.write(images.annotate, hand.collection(), image.id, metadata)
    return hand


FILTERS = (
    ({}, {"yes", "one", "list", "bare"}),
    ({"on": True}, {"yes"}),
    ({"on": 1}, {"one"}),
    ({"on": 1.0}, {"one"}),
    ({"on": True, "n": 1}, {"yes"}),
    ({"on": True, "n": 2}, set()),
    ({"n": 1.5}, {"one"}),
    ({"place": {"city": "Rome"}}, {"one"}),
    ({"place": {"year": 1969, "city": "Rome"}}, {"yes"}),
    ({"place": "Rome"}, {"list"}),
    ({"place": {}}, set()),
    # any of them
    ({"n": [1, "1"]}, {"yes", "list"}),
    ({"n": [True]}, set()),
    ({"n": []}, set()),
    ({"place": ["Rome", {"city": "Rome"}]}, {"one", "list"}),
    # a list as the value itself
    ({"tags": ["a", "b"]}, set()),
    ({"tags": [["a", "b"]]}, {"yes"}),
    ({"tags": [["a", "b"], ["b", "a"]]}, {"yes", "one"}),
    ({"on": [[1]]}, set()),
    ({"on": [[True]]}, {"list"}),
    # not set
    ({"by": None}, {"yes", "one", "bare"}),
    ({"by": [None, "me"]}, {"yes", "one", "list", "bare"}),
    ({"n": [None, 1]}, {"yes", "bare"}),
    # the opposite
    ({"!by": None}, {"list"}),
    ({"!n": 1}, {"one", "list", "bare"}),
    ({"!n": [1, 1.5, None]}, {"list"}),
    ({"!n": []}, {"yes", "one", "list", "bare"}),
    ({"!on": True, "on": [True, 1]}, {"one"}),
    ({"!!odd": "x"}, {"yes", "list", "bare"}),
    ({'a "quoted" \\ name é': "ö"}, {"one"}),
)


def test_a_filter_finds_what_passes_and_nothing_else(hand: Hand) -> None:
    found = {hand.database.read(images.by_key, hand.collection(), key).id: key for key in [*METADATA, "bare"]}
    for wanted, expected in FILTERS:
        ids = hand.database.read(images.matching, hand.collection().id, wanted)
        assert {found[id] for id in ids} == expected, wanted
        assert {key for key in found.values() if filters.matches(METADATA.get(key, {}), wanted)} == expected, wanted


def test_known_images_change_only_where_what_is_said_of_them_does(hand: Hand) -> None:
    collection, database = hand.collection(), hand.database
    before = database.read(reading.head, collection.id)
    ids = {key: database.read(images.by_key, collection, key).id for key in METADATA}

    def again(metadata: dict[str, dict[str, Any]]) -> tuple[int, int]:
        known = [
            segments.Item(key, metadata=said, known=ledger.Record(key, ItemStatus.REUSED, ids[key]))
            for key, said in metadata.items()
        ]
        database.write(segments.store, collection.id, known, OnConflict.REPLACE)
        return database.read(reading.head, collection.id)

    assert again(METADATA) == before
    (revision, count) = again({**METADATA, "one": {"on": 2}})
    assert (revision, count) == (before[0] + 1, before[1])
    assert database.read(images.by_key, collection, "one").metadata_ == {"on": 2}
    assert database.read(lambda session: list(reading.changes(session, collection.id, before[0], revision))) == []


def test_metadata_raise_the_collections_revision_and_no_images(hand: Hand) -> None:
    database, collection = hand.database, hand.collection()
    ids = [database.read(images.by_key, collection, key).id for key in METADATA]
    merged = schemas.ImagesBody(image_ids=ids)
    for change in (
        lambda: database.write(images.annotate, collection, ids[0], {"on": 3}),
        lambda: bulk.annotate(database, hand.owner, hand.name, merged, {"on": 4}),
    ):
        before, _ = database.read(reading.head, collection.id)
        change()
        after, _ = database.read(reading.head, collection.id)
        assert after == before + 1
        seen = (collection.id, before, after)
        assert database.read(lambda session, seen=seen: list(reading.changes(session, *seen))) == []
