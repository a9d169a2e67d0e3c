"""Indexes of vectors: those that searches use are sound, and nothing is left of others."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import tables
from imagekin.doctor.checks import Batch, Check, Finding, System, walk
from imagekin.enums import IndexStatus
from imagekin.maintenance import upkeep
from imagekin.store import indexes

VectorIndex = tables.VectorIndex

MOST_ROWS = 4096
_TABLES = sa.text(
    "SELECT substr(relname, 6) FROM pg_class WHERE relkind = 'r' AND relname ~ '^hnsw_[0-9a-f]{32}$'"
    " AND relnamespace = current_schema()::regnamespace ORDER BY relname"
)


def all_of_them(system: System) -> Iterator[Batch]:
    """Hold the indexes that there should be against the tables and graphs that there are."""
    return iter(()) if system.database.is_sqlite else walk(system, _step, "")


def _step(session: Session, batch: Batch, _: str, system: System) -> str | None:
    rows = session.scalars(sa.select(VectorIndex).order_by(VectorIndex.id)).all()
    known = {row.id for row in rows}
    for row in rows:
        if row.status != IndexStatus.READY:
            continue
        index = indexes.ready(session, row.collection_id)
        sound = index is not None and index.id == row.id
        name = f"the index {row.id} of collection {row.collection_id}"
        batch.hold("indexes_sound", sound, f"{name} has no graph that PostgreSQL could use; build it again", row.id)
        if index is not None:
            missing = indexes.missing(session, index, MOST_ROWS)
            why = f"{name} lacks {missing} of the newest {MOST_ROWS} images that it should have"
            batch.hold("index_rows", not missing, why)
    late = indexes.leftovers(session, system.patience_s + upkeep.SELDOM_S)
    for id in known:
        batch.hold("indexes_used", id not in late, f"the index {id} is used by nothing and is there still", id)
    for id in session.scalars(_TABLES):
        batch.hold("indexes_used", id in known, f"the table hnsw_{id} belongs to no index", id)
    return None


def drop(system: System, finding: Finding) -> bool:
    """Drop an index that nothing uses, or whose graph is not there: its collection is searched exactly.

    Returns whether it is gone; one that is being read stays.
    """
    return system.database.write(indexes.drop, *finding.subject)


CHECKS = (
    Check("indexes_sound", "every index that searches use has a graph that is complete", drop),
    Check("index_rows", "every index has the images that its revision says"),
    Check("indexes_used", "there are no rows of indexes that nothing uses", drop),
)
SCANS = (all_of_them,)
