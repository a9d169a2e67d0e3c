"""Storing images over the bare writing of the same bytes, on SQLite and PostgreSQL, and that both stored the same."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from peers import MARKS, Table
from sqlalchemy.orm import Session

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.settings import Settings
from imagekin_worker.bench import storage

pytestmark = MARKS

IMAGES = 10_000


def test_storing(database: Database, tmp_path: Path) -> None:
    writing = storage.Writing(database, Settings(data_dir=tmp_path))
    writing.add(IMAGES)
    took, cpu = writing.seconds, writing.cpu
    engine = "SQLite" if database.is_sqlite else "PostgreSQL"
    table = Table(
        f"{IMAGES} images, {storage.CHUNK_IMAGES} a chunk, {engine}", "stage", "ms a chunk", "of CPU here", "images/s"
    )
    for stage, seconds in vars(took).items():
        of_chunk = 1000 * storage.CHUNK_IMAGES / IMAGES
        table.add(stage, seconds * of_chunk, getattr(cpu, stage) * of_chunk, IMAGES / seconds)
    table.add("store over bare", took.store / took.bare, cpu.store / cpu.bare, "")
    table.show()
    counts = [database.read(_stored, collection.id) for collection in writing.collections.values()]
    assert counts[0] == counts[1] == (IMAGES, IMAGES * storage.DIM * 4)


def _stored(session: Session, collection_id: str) -> tuple[int, int]:
    images = sa.select(sa.func.count()).where(tables.Image.collection_id == collection_id)
    data = sa.select(sa.func.sum(sa.func.length(tables.Segment.data))).filter_by(collection_id=collection_id)
    return session.scalars(images).one(), int(session.scalars(data).one())
