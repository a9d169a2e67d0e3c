"""What happens to a chunk whose holder died or never finished: ready again, split, and at last set aside."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer

from imagekin import errors
from imagekin.database import sql, tables
from imagekin.enums import ChunkStatus, ItemStatus
from imagekin.jobs import end
from imagekin.jobs.split import split
from imagekin.schemas.kinds import STORING
from imagekin.settings import Settings
from imagekin.store import ledger
from imagekin.telemetry import metrics

Chunk = tables.Chunk


def died(session: Session, claimed_by: str, reason: str, settings: Settings) -> int:
    """Blame the chunks held under names that begin so for a process's death under a living parent; return how many.

    One that was blamed `settings.max_deaths` times is split in half, down to the single image, which is quarantined
    with the reason while its neighbors finish.
    """
    keys = session.execute(
        sa.select(Chunk.job_id, Chunk.seq).where(
            tables.OPEN_CHUNK,
            Chunk.claimed_by.startswith(claimed_by, autoescape=True),
            Chunk.status == ChunkStatus.CLAIMED,
        )
    ).all()
    for job_id, seq in keys:
        blame(session, job_id, seq, reason, settings)
    return len(keys)


def blame(session: Session, job_id: str, seq: int, reason: str, settings: Settings, *, deaths: int = 1) -> None:
    """Count `deaths` against a claimed chunk and make it ready again, or isolate what is at fault.

    One that was claimed `settings.max_attempts` times is at fault, however that ended, and is not claimed again.
    """
    session.get(tables.Job, job_id, with_for_update=True)
    chunk = session.get(
        Chunk, (job_id, seq), with_for_update=True, options=[undefer(Chunk.manifest)], populate_existing=True
    )
    if chunk is None or chunk.status != ChunkStatus.CLAIMED:
        return
    chunk.deaths += deaths
    chunk.status = ChunkStatus.READY
    chunk.claimed_by = chunk.lease_until = None
    if chunk.deaths < settings.max_deaths and chunk.attempt < settings.max_attempts:
        return
    if chunk.kind not in STORING:
        session.flush()
        detail = f"This job was begun {chunk.attempt} times and broke its worker {chunk.deaths} times: {reason}"
        end.fail(session, job_id, "internal_error", detail)
    elif chunk.size > 1:
        _halve(session, chunk, settings)
    else:
        _quarantine(session, chunk, reason)


def _halve(session: Session, chunk: tables.Chunk, settings: Settings) -> None:
    """Make two chunks of one.

    Each half is one death short of the next split: the poison is in one of them.
    """
    deaths = max(settings.max_deaths - 1, 1)
    split(session, chunk, chunk.size // 2, deaths=deaths)
    chunk.deaths, chunk.attempt = deaths, 0


def _quarantine(session: Session, chunk: tables.Chunk, reason: str) -> None:
    assert chunk.manifest is not None
    entry = ledger.unpack(chunk.manifest)[0]
    detail = (
        f"Tried {chunk.attempt} times, this image broke its worker {chunk.deaths} times; it was set aside ({reason})."
    )
    chunk.status = ChunkStatus.QUARANTINED
    chunk.failed = 1
    record = ledger.Record(entry["key"], ItemStatus.FAILED, None, errors.Quarantined.code, detail)
    chunk.ledger = ledger.pack([record])
    job = session.get_one(tables.Job, chunk.job_id)
    job.failed += 1
    session.flush()
    sql.after_commit(session, _count_quarantined)
    end.settle(session, job)


def _count_quarantined() -> None:
    metrics.JOBS.note_images(ItemStatus.FAILED, 1)
    metrics.JOBS.note_errors([errors.Quarantined.code])
