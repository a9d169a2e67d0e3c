"""Items: what became of each of a job's images, a page at a time."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer

from imagekin import schemas
from imagekin.database import tables
from imagekin.enums import ENDED_CHUNKS, ChunkStatus, ItemStatus
from imagekin.schemas.kinds import PLAN, STORING
from imagekin.store import ledger


def page(
    session: Session, job: tables.Job, status: ItemStatus | None, cursor: tuple[int, int] | None, limit: int
) -> tuple[list[schemas.Item], tuple[int, int] | None]:
    """Return a page of the job's ended images in the source's order, and where the next page starts.

    A cursor is (seq of the chunk, index in its ledger). Images that have not ended yet are not listed. What was
    ignored is listed only where it is asked for, the first `plan.TOLD_IGNORED` of it, each with the reason.
    """
    if status == ItemStatus.IGNORED:
        return _ignored(session, job, cursor, limit)
    seq, index = cursor or (0, 0)
    shown: list[schemas.Item] = []
    chunks = (
        sa.select(tables.Chunk)
        .options(undefer(tables.Chunk.ledger), undefer(tables.Chunk.manifest))
        .filter_by(job_id=job.id)
        .where(tables.Chunk.kind.in_(STORING), tables.Chunk.seq >= seq, tables.Chunk.status.in_(ENDED_CHUNKS))
        .order_by(tables.Chunk.seq)
        .execution_options(yield_per=8)
    )
    if status is not None:
        chunks = chunks.where(_has(status))
    # closed also where the page is full
    with session.scalars(chunks) as found:
        for chunk in found:
            for at, record in enumerate(_records(chunk)):
                if (chunk.seq == seq and at < index) or (status is not None and record.status != status):
                    continue
                if len(shown) == limit:
                    return shown, (chunk.seq, at)
                shown.append(_item(record))
    return shown, None


def _ignored(
    session: Session, job: tables.Job, cursor: tuple[int, int] | None, limit: int
) -> tuple[list[schemas.Item], tuple[int, int] | None]:
    begin = cursor[1] if cursor is not None else 0
    kept = session.scalar(sa.select(tables.Chunk.ledger).filter_by(job_id=job.id, kind=PLAN))
    records = ledger.records(kept) if kept else []
    following = (0, begin + limit) if begin + limit < len(records) else None
    return [_item(record) for record in records[begin : begin + limit]], following


def _has(status: ItemStatus) -> sa.ColumnElement[bool]:
    if status == ItemStatus.CANCELLED:
        return tables.Chunk.status == ChunkStatus.CANCELLED
    return getattr(tables.Chunk, status.value) > 0


def _records(chunk: tables.Chunk) -> list[ledger.Record]:
    if chunk.ledger is not None:
        return ledger.records(chunk.ledger)
    return ledger.all_cancelled(chunk.manifest) if chunk.manifest is not None else []


def _item(record: ledger.Record) -> schemas.Item:
    error = schemas.Error(code=record.code, detail=record.detail or "") if record.code else None
    return schemas.Item(key=record.key, status=record.status, image_id=record.image_id, error=error)
