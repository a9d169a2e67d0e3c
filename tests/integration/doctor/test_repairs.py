"""Each thing broken on purpose is found, and what is safe to repair is repaired."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from imagekin.database import tables
from imagekin.doctor import dangling
from imagekin.doctor.examination import CHECKS
from imagekin.store import segments
from kit.breakages import FAULTS, Fault, examine, found, left
from kit.hand import Hand, vector


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_is_broken_is_found_and_repaired_where_that_is_safe(hand: Hand, fault: Fault) -> None:
    fault.strike(hand)
    report = examine(hand, repair=True)
    assert found(report) == fault.found
    assert left(report) == fault.left, [one.details for one in report.outcomes.values() if one.left]
    assert {one.name for one in report.outcomes.values() if one.repaired} == fault.found - fault.left
    assert {one.name for one in report.outcomes.values() if one.details} == fault.left
    assert report.ok == (not fault.left)


def test_a_repair_takes_nothing_that_is_needed(hand: Hand) -> None:
    before = {name: hand.count(table) for name, table in TABLES.items()}
    assert examine(hand, repair=True).ok
    assert {name: hand.count(table) for name, table in TABLES.items()} == before
    hand.storage.write("uploads/young", [b"being sent"], 100)
    assert examine(hand, repair=True).ok
    assert hand.storage.exists("uploads/young")


TABLES = {mapper.class_.__tablename__: mapper.class_ for mapper in tables.Base.registry.mappers}


def test_every_check_has_a_fault() -> None:
    named = set().union(*(fault.found for fault in FAULTS))
    # those of indexes have faults of their own, on PostgreSQL: tests/integration/indexes
    indexes = {"indexes_used", "index_rows", "indexes_sound"}
    assert named | indexes == {check.name for check in CHECKS}


def test_every_foreign_key_is_looked_after() -> None:
    named = {(child.__tablename__, column) for child, column, _ in dangling.REFERENCES}
    keys = {(key.parent.table.name, key.parent.name) for table in TABLES.values() for key in foreign_keys(table)}
    # an image without its segment has a check of its own
    assert keys - named == {("images", "segment_id")}
    assert named <= keys


def foreign_keys(table: type[tables.Base]) -> set[sa.ForeignKey]:
    return set(sa.inspect(table).local_table.foreign_keys)


def test_vectors_survive_a_repair(hand: Hand) -> None:
    hand.sql("UPDATE collections SET image_count = 0")
    assert examine(hand, repair=True).ok
    image = hand.database.read(lambda s: s.scalars(sa.select(tables.Image).filter_by(key="06")).one())
    assert hand.database.read(segments.vector, image).tobytes() == vector("06").tobytes()
