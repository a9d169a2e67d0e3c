"""PostgreSQL's planner hears of tables that grow fast."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import analyze, tables
from imagekin.database.engine import Database
from imagekin.settings import Settings
from kit.hand import Hand


def test_tables_that_grew_are_analyzed_once(database: Database, tmp_path: Path) -> None:
    hand = Hand(database, Settings(data_dir=tmp_path))
    hand.embed([f"{number}.png" for number in range(1200)], size=400)

    def flushed(session: Session) -> None:
        # what a transaction changed is counted a second late, unless it asks
        if not database.is_sqlite:
            session.execute(sa.text("SELECT pg_stat_force_next_flush()"))
        session.execute(sa.update(tables.Image).values(width=1))

    database.write(flushed)
    analyzed = database.write(analyze.refresh)
    assert analyzed >= 1 if not database.is_sqlite else analyzed == 0
    assert not database.is_sqlite or database.write(analyze.refresh) == 0
    if not database.is_sqlite:
        plan = sa.text("EXPLAIN SELECT id FROM images WHERE content_hash = ANY(:hashes) AND deleted_at IS NULL")
        hashes = [f"{number:064}" for number in range(4)]
        told = database.read(lambda session: "".join(session.scalars(plan, {"hashes": hashes})))
        assert "ix_images_content_hash" in told
