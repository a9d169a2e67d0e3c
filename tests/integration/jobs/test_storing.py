"""Storing images: from what is known elsewhere, and how many rows it and a claim look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from imagekin.database.engine import Database
from imagekin.enums import OnConflict
from imagekin.jobs import finish as finish_step
from imagekin.jobs.claim import release, renew
from imagekin.store import reuse
from kit.hand import Hand, numbered


@pytest.fixture
def plans(database: Database) -> list[str]:
    """SQLite's plans for what is run from now on."""
    if not database.is_sqlite:
        pytest.skip("PostgreSQL chooses its plans by the statistics of the table")
    plans: list[str] = []

    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if not many:
            cursor.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            plans.extend(row[3] for row in cursor.fetchall())

    event.listen(database.engine, "before_cursor_execute", explain)
    return plans


def test_a_claim_looks_at_no_more_rows_in_a_larger_job(hand: Hand, database: Database, plans: list[str]) -> None:
    hand.plan(numbered(8), size=1)
    plans.clear()
    claims = hand.claims(most_images=4, warm=("other",), gathering=True)
    database.write(renew, claims, 30.0)
    database.write(release, claims)
    assert plans
    assert [plan for plan in plans if plan.startswith("SCAN chunks")] == []


def test_storing_looks_at_no_more_images_in_a_larger_collection(
    hand: Hand, database: Database, plans: list[str]
) -> None:
    hand.plan(numbered(2), size=2)
    chunk = hand.claim()
    items = hand.made_of(chunk)
    plans.clear()
    contents = [(item.key, item.content_hash) for item in items]
    assert database.read(reuse.known, hand.collection(), contents, OnConflict.REPLACE) == [None, None]
    hand.finish(chunk)
    indexes = {plan.removeprefix("SEARCH images USING ") for plan in plans if " images " in plan}
    assert indexes == {
        "INDEX uq_images_collection_key (collection_id=? AND key=?)",
        "INDEX ix_images_content_hash (content_hash=?)",
    }


def test_what_is_known_elsewhere_is_copied_with_its_own_vector_and_thumbnail(hand: Hand, database: Database) -> None:
    hand.plan(numbered(4), size=2)
    made = {}
    for chunk in hand.claims(most_images=4):
        items = hand.made_of(chunk)
        for item in items:
            item.vector = np.full(64, len(made) + 1.0, np.float32)
            item.thumbnail = item.key.encode() if made else None
            made[item.content_hash] = item
        database.write(finish_step.images, chunk, items)
    more = hand.collection("more")
    contents = [("a", "nowhere"), *((f"{at}.jpg", content) for at, content in enumerate(reversed(made)))]
    nowhere, *copies = database.read(reuse.known, more, contents, OnConflict.REPLACE)
    assert nowhere is None
    for copy, item in zip(copies, reversed(made.values()), strict=True):
        assert isinstance(copy, reuse.Copy)
        assert (copy.vector == item.vector).all()
        assert copy.thumbnail == item.thumbnail
