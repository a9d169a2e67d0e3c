"""What clients say of their images is found in the same way on both databases."""

from __future__ import annotations

import pytest

from imagekin.enums import ItemStatus, OnConflict
from imagekin.store import images, ledger, reading, segments
from kit.archive import Archive

METADATA = {
    "yes": {"on": True, "n": 1, "place": {"city": "Rome", "year": 1969}, "tags": ["a", "b"], "by": None},
    "one": {"on": 1, "n": 1.5, "place": {"city": "Rome"}, "tags": ["b", "a"]},
    "list": {"on": [True], "n": "1", "place": "Rome", "tags": [["a", "b"]], "by": "me"},
}


@pytest.fixture
def archive(database, settings):
    archive = Archive(database, settings)
    archive.embed([*METADATA, "bare"])
    for key, metadata in METADATA.items():
        image = database.read(images.by_key, archive.collection(), key)
        database.write(images.annotate, archive.collection(), image.id, metadata)
    return archive


def test_a_filter_finds_equal_values_and_no_others(archive):
    keys = {archive.database.read(images.by_key, archive.collection(), key).id: key for key in METADATA}

    def found(wanted):
        return {keys[id] for id in archive.database.read(images.matching, archive.collection().id, wanted)}

    for wanted, expected in (
        ({"on": True}, {"yes"}),
        ({"on": 1}, {"one"}),
        ({"on": True, "n": 1}, {"yes"}),
        ({"on": True, "n": 2}, set()),
        ({"n": 1.5}, {"one"}),
        ({"by": None}, {"yes"}),
        ({"place": {"city": "Rome"}}, {"one"}),
        ({"place": {"year": 1969, "city": "Rome"}}, {"yes"}),
        ({"place": "Rome"}, {"list"}),
        ({"place": {}}, set()),
        ({"tags": ["a", "b"]}, {"yes"}),
        ({"tags": ["b"]}, set()),
        ({"on": [1]}, set()),
    ):
        assert found(wanted) == expected, wanted


def test_known_images_change_only_where_what_is_said_of_them_does(archive):
    collection, database = archive.collection(), archive.database
    before = database.read(reading.head, collection.id)
    ids = {key: database.read(images.by_key, collection, key).id for key in METADATA}

    def again(metadata):
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
    [change] = database.read(lambda session: list(reading.changes(session, collection.id, before[0], revision)))
    assert change.ids == [ids["one"]]
