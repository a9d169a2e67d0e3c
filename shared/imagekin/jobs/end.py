"""How jobs end: settled by their last image, failed, cancelled, deleted."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql, tables
from imagekin.enums import OPEN_CHUNKS, TERMINAL, ChunkStatus, ItemStatus, JobStatus
from imagekin.jobs import callbacks, items, view
from imagekin.schemas.kinds import STORING
from imagekin.telemetry import metrics

log = structlog.get_logger()

# What a job leaves behind beside its own row: ledger, result and centers.
LEFTOVERS = (tables.Chunk, tables.ResultPart, tables.PlannedKey, tables.Clustering)


def lock(session: Session, job_id: str) -> tables.Job | None:
    """Return the job with its row locked, as it is now; None if it is gone."""
    return session.get(tables.Job, job_id, with_for_update=True, populate_existing=True)


def settle(session: Session, job: tables.Job) -> bool:
    """End a planned job of images that have all ended; its row must be locked. Tell whether it ended.

    Zero successes is always `failed`; some successes and some failures `partial`.
    """
    if job.status in TERMINAL or not job.planned or view.done(job) < job.total:
        return False
    good = job.embedded + job.reused + job.skipped
    if job.total == 0:
        _end(session, job, JobStatus.FAILED, "empty_source", errors.EmptySource().detail)
    elif good == 0:
        code, detail = _first_failure(session, job)
        _end(session, job, JobStatus.FAILED, code, detail)
    else:
        _end(session, job, JobStatus.PARTIAL if job.failed else JobStatus.SUCCEEDED)
    return True


def _first_failure(session: Session, job: tables.Job) -> tuple[str, str]:
    page, _ = items.page(session, job, None, None, 1)
    first = page[0]
    assert first.error is not None
    return (
        first.error.code,
        f"None of the {job.total} images could be used; the first, {first.key}: {first.error.detail}",
    )


def succeed(session: Session, job: tables.Job) -> None:
    """End a job as succeeded once its result is written; its row must be locked."""
    _end(session, job, JobStatus.SUCCEEDED)


def fail(session: Session, job_id: str, code: str, detail: str) -> bool:
    """End the job as failed, with what it has done kept and the rest cancelled. Tell whether it was still open."""
    return _abandon(session, job_id, JobStatus.FAILED, code, detail)


def cancel(session: Session, owner: str, job_id: str) -> tables.Job:
    """End the job as cancelled, at once: finished images stay, and workers still at work find their chunks gone.

    Raises JobFinished for a job that has ended otherwise; cancelling twice is fine.
    """
    job = view.get(session, owner, job_id)
    if not _abandon(session, job_id, JobStatus.CANCELLED):
        session.refresh(job)
        if job.status != JobStatus.CANCELLED:
            raise errors.JobFinished(f"The job has ended as {job.status} already.")
    return job


def cancel_collection(session: Session, collection_id: str) -> int:
    """End all unfinished jobs of a collection that is being deleted; return how many there were."""
    open_jobs = sa.select(tables.Job.id).where(
        tables.Job.collection_id == collection_id, tables.Job.status.not_in(TERMINAL)
    )
    detail = errors.CollectionDeleted().detail
    ids = session.scalars(open_jobs).all()
    return sum(_abandon(session, id, JobStatus.CANCELLED, "collection_deleted", detail) for id in ids)


def delete(session: Session, owner: str, job_id: str) -> None:
    """Remove a finished job with its ledger and result; raises JobNotFinished for another."""
    job = view.get(session, owner, job_id)
    if job.status not in TERMINAL:
        raise errors.JobNotFinished("Cancel the job first, then delete it.")
    erase(session, job_id)
    session.execute(sa.delete(tables.Job).where(tables.Job.id == job_id))


def erase(session: Session, job_id: str) -> None:
    """Remove what a finished job left behind: ledger, result and centers, but not the job's own row."""
    for table in LEFTOVERS:
        session.execute(sa.delete(table).where(table.job_id == job_id))


def _abandon(
    session: Session, job_id: str, status: JobStatus, code: str | None = None, detail: str | None = None
) -> bool:
    job = lock(session, job_id)
    if job is None or job.status in TERMINAL:
        return False
    Chunk = tables.Chunk
    still_open = sa.and_(Chunk.job_id == job_id, Chunk.status.in_(OPEN_CHUNKS))
    left = session.scalars(sa.select(sa.func.coalesce(sa.func.sum(Chunk.size), 0)).where(still_open)).one()
    job.cancelled += left
    sql.after_commit(session, lambda: metrics.JOBS.note_images(ItemStatus.CANCELLED, left))
    session.execute(
        sa.update(Chunk)
        .where(still_open)
        .values(status=ChunkStatus.CANCELLED, claimed_by=None, lease_until=None)
        .execution_options(synchronize_session=False)
    )
    session.execute(sa.delete(tables.PlannedKey).where(tables.PlannedKey.job_id == job_id))
    _end(session, job, status, code, detail)
    return True


def _end(
    session: Session, job: tables.Job, status: JobStatus, code: str | None = None, detail: str | None = None
) -> None:
    clock = session.scalars(sa.select(sql.clock())).one()
    job.status = status
    job.error_code, job.error_detail = code, detail
    job.started_at = job.started_at or clock
    job.finished_at = clock
    job.expires_at = None if job.lifetime_s is None else clock + job.lifetime_s
    callbacks.add(session, job)
    session.flush()
    _tell(session, job, clock - job.created_at)


def _tell(session: Session, job: tables.Job, seconds: float) -> None:
    """Count and log the end, wherever it came from, once it is committed."""
    kind, status = job.kind, job.status
    about: dict[str, Any] = {"job_id": job.id, "kind": kind, "status": status, "owner": job.owner}
    if job.error_code is not None:
        about["code"] = job.error_code
    if kind in STORING:
        about |= {name: getattr(job, name) for name in ("total", *ItemStatus)}

    def tell() -> None:
        metrics.JOBS.note_end(kind, status, seconds)
        log.info("job_ended", **about, seconds=round(seconds, 3))

    sql.after_commit(session, tell)
