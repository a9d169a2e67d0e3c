"""Rows whose parent is gone, which foreign keys should have made impossible."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from imagekin.database import tables
from imagekin.doctor.checks import Batch, Check, Finding, System, walk
from imagekin.store import blobs

# Child, column, parent; children before parents, so that a repair of one leaves room for the next.
REFERENCES: tuple[tuple[type[tables.Base], str, type[tables.Base]], ...] = (
    (tables.Chunk, "job_id", tables.Job),
    (tables.ResultPart, "job_id", tables.Job),
    (tables.PlannedKey, "job_id", tables.Job),
    (tables.Clustering, "job_id", tables.Job),
    (tables.Delivery, "job_id", tables.Job),
    (tables.Clustering, "collection_id", tables.Collection),
    (tables.CollectionView, "collection_id", tables.Collection),
    (tables.VectorIndex, "collection_id", tables.Collection),
    (tables.Image, "collection_id", tables.Collection),
    (tables.Thumbnails, "segment_id", tables.Segment),
    (tables.Signs, "segment_id", tables.Segment),
    (tables.Segment, "collection_id", tables.Collection),
    (tables.Job, "collection_id", tables.Collection),
    (tables.Collection, "space_id", tables.Space),
)
# What other rows may still need is for a person to look at.
KEPT = frozenset({tables.Job, tables.Collection})
MOST_NAMED = 1000


def rows(system: System) -> Iterator[Batch]:
    """Look for rows that name a parent that is not there."""
    return walk(system, _rows, 0)


def _rows(session: Session, batch: Batch, number: int, _: System) -> int | None:
    table, column, parent = REFERENCES[number]
    name = getattr(table, column)
    missing = sa.not_(sa.exists().where(_id(parent) == name))
    batch.examined["dangling_rows"] += session.scalars(sa.select(sa.func.count()).select_from(table)).one()
    lost = sa.select(name, sa.func.count()).where(missing).group_by(name).limit(MOST_NAMED)
    for value, count in session.execute(lost):
        detail = f"{count} of {table.__tablename__} name the {column} {value}, which is not there"
        batch.findings.append(Finding("dangling_rows", (number, value), detail))
    return number + 1 if number + 1 < len(REFERENCES) else None


def _id(table: type[tables.Base]) -> sa.ColumnElement[str]:
    return sa.inspect(table).primary_key[0]


def delete(system: System, finding: Finding) -> bool:
    """Delete rows that name a missing parent, unless others need them."""
    number, value = finding.subject
    if REFERENCES[number][0] in KEPT:
        return False
    try:
        system.database.write(_delete, number, value)
    except IntegrityError:
        return False
    return True


def _delete(session: Session, number: int, value: str) -> None:
    table, column, parent = REFERENCES[number]
    gone = sa.and_(getattr(table, column) == value, sa.not_(sa.exists().where(_id(parent) == value)))
    if table is tables.Segment:
        theirs = sa.select(tables.Segment.id).where(gone)
        blobs.unname(session, session.scalars(theirs).all())
        _execute(session, sa.delete(tables.Thumbnails).where(tables.Thumbnails.segment_id.in_(theirs)))
    _execute(session, sa.delete(table).where(gone))


def _execute(session: Session, statement: sa.Delete) -> None:
    session.execute(statement, execution_options={"synchronize_session": False})


CHECKS = (Check("dangling_rows", "every row's parent is there", delete),)
SCANS = (rows,)
