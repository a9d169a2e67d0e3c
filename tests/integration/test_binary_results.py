"""Blobs come from PostgreSQL as they are, and what stands beside them in a row is what it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.store import reading
from kit.hand import Hand, item

pytestmark = pytest.mark.parametrize("engine", ["postgresql"])


@pytest.fixture
def formats(database: Database) -> list[int]:
    """The format (1: binary) in which each statement's rows are asked for, from now on."""
    formats: list[int] = []

    def note(_connection: Any, cursor: Any, _statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
        formats.append(int(cursor.format))

    event.listen(database.engine, "after_cursor_execute", note)
    return formats


def test_vectors_come_in_binary(hand: Hand, database: Database, formats: list[int]) -> None:
    collection = hand.collection()
    hand.store([item(f"{at}.jpg", at) for at in range(3)])
    formats.clear()
    found = database.read(lambda session: list(reading.changes(session, collection.id, 0, 99)))
    assert sum(len(change.ids) for change in found) == 3
    assert np.concatenate([change.vectors for change in found]).shape == (3, 64)
    assert formats.count(1) == 1


def test_rows_with_bytes_and_json_are_the_same_as_text(hand: Hand, database: Database, formats: list[int]) -> None:
    job = hand.submit(params={"text": "zoë", "list": [1, 2.5, None, True]})
    hand.plan(["a.jpg", "b.jpg"], size=1)
    for table in (tables.Job, tables.Chunk):
        columns = list(sa.inspect(table).columns)
        formats.clear()
        with database.engine.connect() as connection:
            mixed = connection.execute(sa.select(*columns)).all()
            plain = [
                connection.execute(sa.select(column)).scalars().all()
                for column in columns
                if not isinstance(column.type, sa.LargeBinary)
            ]
        wanted = [at for at, column in enumerate(columns) if not isinstance(column.type, sa.LargeBinary)]
        assert [[row[at] for row in mixed] for at in wanted] == plain
        assert formats.count(1) == any(isinstance(column.type, sa.LargeBinary) for column in columns)
    assert database.read(lambda session: session.get_one(tables.Job, job.id).params)["text"] == "zoë"
