"""Jobs as clients see them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors, schemas
from imagekin.database import sql, tables
from imagekin.enums import TERMINAL, JobStatus
from imagekin.schemas.kinds import STORING, JobKind

# Rates over less than this are noise.
SHORTEST_RATE_S = 0.2


def get(session: Session, owner: str, job_id: str) -> tables.Job:
    """Return the owner's job; raises JobNotFound for a missing job or another owner's."""
    job = session.get(tables.Job, job_id)
    if job is None or job.owner != owner:
        raise errors.JobNotFound()
    return job


def expired(session: Session, job: tables.Job) -> bool:
    """Return whether the job's ledger and result are past their life, swept already or not."""
    return job.expires_at is not None and job.expires_at <= session.scalars(sa.select(sql.clock())).one()


def done(job: tables.Job) -> int:
    """Return how many of the job's images have ended."""
    return job.embedded + job.reused + job.skipped + job.failed + job.cancelled


def view(session: Session, job: tables.Job) -> schemas.Job:
    """Return the job as a client sees it."""
    return views(session, [job])[0]


def views(session: Session, jobs: Sequence[tables.Job]) -> list[schemas.Job]:
    """Return the jobs as a client sees them, with three queries however many they are."""
    clock = session.scalars(sa.select(sql.clock())).one()
    ids = {job.collection_id for job in jobs}
    named = sa.select(tables.Collection.id, tables.Collection.name).where(tables.Collection.id.in_(ids))
    names = dict(session.execute(named).all())
    return [_view(job, names[job.collection_id], clock, _queue_position(session, job)) for job in jobs]


def _view(job: tables.Job, collection: str, clock: float, queue_position: int | None) -> schemas.Job:
    return schemas.Job(
        id=job.id,
        kind=JobKind(job.kind),
        status=JobStatus(job.status),
        collection=collection,
        params=job.params,
        progress=_progress(job, clock),
        queue_position=queue_position,
        created_at=sql.moment(job.created_at),
        started_at=sql.moment(job.started_at) if job.started_at is not None else None,
        finished_at=sql.moment(job.finished_at) if job.finished_at is not None else None,
        expires_at=sql.moment(job.expires_at) if job.expires_at is not None else None,
        parent_id=job.parent_id,
        error=schemas.Error(code=job.error_code, detail=job.error_detail or "") if job.error_code else None,
        links=schemas.Links(
            self=f"/v1/jobs/{job.id}",
            result=f"/v1/jobs/{job.id}/result",
            items=f"/v1/jobs/{job.id}/items",
            cancel=f"/v1/jobs/{job.id}/cancel",
            retry=f"/v1/jobs/{job.id}/retry",
        ),
    )


def _progress(job: tables.Job, clock: float) -> schemas.Progress:
    count = done(job)
    total = job.total if job.planned or job.status in TERMINAL else None
    rate = eta = None
    if job.started_at is not None and count:
        elapsed = (job.finished_at or clock) - job.started_at
        rate = count / max(elapsed, SHORTEST_RATE_S)
        if total is not None and job.status not in TERMINAL:
            eta = round((total - count) / rate, 1)
    fraction = job.fraction if job.kind not in STORING else (count / total if total else None)
    if job.status in TERMINAL:
        fraction = 1.0
    return schemas.Progress(
        total=total,
        done=count,
        embedded=job.embedded,
        reused=job.reused,
        skipped=job.skipped,
        failed=job.failed,
        cancelled=job.cancelled,
        ignored=job.ignored,
        fraction=None if fraction is None else round(fraction, 4),
        images_per_s=None if rate is None else round(rate, 2),
        eta_s=eta,
    )


def _queue_position(session: Session, job: tables.Job) -> int | None:
    """Return the job's place among those that have not begun, 1 for the first."""
    if job.status != JobStatus.QUEUED:
        return None
    before = sa.select(sa.func.count()).where(tables.Job.status == JobStatus.QUEUED, tables.Job.id < job.id)
    return session.scalars(before).one() + 1
