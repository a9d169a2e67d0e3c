"""Results of jobs, as compressed JSON: part 0 is the summary, the others are slices of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import sql, tables
from imagekin.database.engine import Database
from imagekin.store import ledger

ROWS_PER_PART = 4096


def write_summary(session: Session, job_id: str, summary: dict[str, Any], thumbnail: bytes | None = None) -> None:
    """Write, or write again, a result's summary, with the thumbnail of a query that is stored nowhere else."""
    _write(session, job_id, 0, ledger.pack(summary), 1, thumbnail)


def write_rows(session: Session, job_id: str, part: int, rows: Sequence[dict[str, Any]]) -> None:
    """Write, or write again, part `part` (1 for the first) of a result's rows."""
    _write(session, job_id, part, ledger.pack(list(rows)), len(rows))


def _write(session: Session, job_id: str, part: int, data: bytes, count: int, thumbnail: bytes | None = None) -> None:
    values = {"data": data, "count": count, "thumbnail": thumbnail}
    insert = sql.insert(session, tables.ResultPart).values(job_id=job_id, part=part, **values)
    session.execute(insert.on_conflict_do_update(index_elements=["job_id", "part"], set_=values))


def summary(session: Session, job_id: str) -> dict[str, Any] | None:
    """Return a result's summary, or None without a result."""
    data = session.scalar(sa.select(tables.ResultPart.data).filter_by(job_id=job_id, part=0))
    return None if data is None else ledger.unpack(data)


def name_cluster(session: Session, job_id: str, label: int, name: str | None) -> dict[str, Any] | None:
    """Name a cluster of a clustering, whose job's row must be locked, or with None take its name away.

    Return the cluster as the result has it; None for a missing label.
    """
    found = summary(session, job_id)
    cluster = next((each for each in (found or {}).get("clusters", ()) if each["label"] == label), None)
    if found is not None and cluster is not None:
        cluster["name"] = name
        write_summary(session, job_id, found)
    return cluster


def cluster_names(session: Session, job_id: str) -> dict[int, str | None]:
    """Return the names of a clustering's clusters by label; none if its result is gone."""
    found = summary(session, job_id) or {}
    return {each["label"]: each.get("name") for each in found.get("clusters", ())}


def thumbnail(session: Session, job_id: str) -> bytes | None:
    """Return the JPEG thumbnail of a searched picture that is not in the collection."""
    return session.scalar(sa.select(tables.ResultPart.thumbnail).filter_by(job_id=job_id, part=0))


def rows(database: Database, job_id: str) -> Iterator[dict[str, Any]]:
    """Yield a result's rows in order, a part in memory at a time, each read in a transaction of its own."""
    part = 0
    while True:
        part += 1
        data = database.read(_part, job_id, part)
        if data is None:
            return
        yield from ledger.unpack(data)


def part(session: Session, job_id: str, number: int) -> list[dict[str, Any]]:
    """Return the rows of a part (1 for the first); none after the last one."""
    data = _part(session, job_id, number)
    return [] if data is None else ledger.unpack(data)


def _part(session: Session, job_id: str, part: int) -> bytes | None:
    return session.scalar(sa.select(tables.ResultPart.data).filter_by(job_id=job_id, part=part))
