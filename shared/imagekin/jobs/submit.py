"""Taking a job in: one transaction writes the job, what to do and the first chunk of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql, tables
from imagekin.enums import TERMINAL, UNFINISHED, ChunkStatus, JobStatus, Lane
from imagekin.jobs import view
from imagekin.schemas.kinds import PLAN, STORING, TRAITS, JobKind
from imagekin.settings import Settings

FULL_RETRY_AFTER_S = 10
PLAN_SEQ = -1


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a client asks for: `params` is what it sees again, `work` what a worker needs beside it."""

    owner: str
    kind: JobKind
    collection_id: str
    space_id: str
    params: dict[str, Any]
    work: dict[str, Any] = field(default_factory=dict)
    upload_id: str | None = None
    callback_url: str | None = None
    parent_id: str | None = None
    idempotency_key: str | None = None
    idempotency_digest: str | None = None
    # made before the transaction, so that one which is run again, its commit's answer lost, finds its own job
    id: str = field(default_factory=tables.new_id)


def lane(kind: JobKind | str) -> Lane:
    """Return the lane whose workers do jobs of this kind."""
    return TRAITS[JobKind(kind)].lane


def lifetime_s(kind: JobKind, settings: Settings) -> float | None:
    """Return how long a finished job of this kind keeps its ledger and result; None: until it is deleted."""
    ttl = TRAITS[kind].ttl
    return None if ttl is None else getattr(settings, ttl)


def find_idempotent(session: Session, owner: str, key: str | None, digest: str | None) -> tables.Job | None:
    """Return the job that this owner submitted under `key` before.

    Raises IdempotencyMismatch if that job came of another body.
    """
    if key is None:
        return None
    job = session.scalar(sa.select(tables.Job).filter_by(owner=owner, idempotency_key=key))
    if job is not None and job.idempotency_digest != digest:
        raise errors.IdempotencyMismatch()
    return job


def submit(session: Session, submission: Submission, settings: Settings) -> tuple[tables.Job, bool]:
    """Write the job and return it with True, or the one that another request of the same key brought with False.

    Raises IdempotencyMismatch, QuotaExceeded, Backlog and CollectionNotFound.
    """
    known = find_idempotent(session, submission.owner, submission.idempotency_key, submission.idempotency_digest)
    known = known or session.get(tables.Job, submission.id)
    if known is not None:
        return known, known.id == submission.id
    _make_room(session, submission.owner, settings)
    # the lock keeps a deletion of the collection from missing this job
    alive = sa.select(tables.Collection.id).filter_by(id=submission.collection_id, deleted_at=None)
    if session.scalar(alive.with_for_update(read=True)) is None:
        raise errors.CollectionNotFound()
    inserted = session.execute(
        sql.insert(session, tables.Job)
        .values(
            id=submission.id,
            owner=submission.owner,
            kind=submission.kind,
            status=JobStatus.QUEUED,
            collection_id=submission.collection_id,
            params=submission.params,
            work=submission.work,
            upload_id=submission.upload_id,
            callback_url=submission.callback_url,
            parent_id=submission.parent_id,
            idempotency_key=submission.idempotency_key,
            idempotency_digest=submission.idempotency_digest,
            planned=submission.kind not in STORING,
            lifetime_s=lifetime_s(submission.kind, settings),
        )
        .on_conflict_do_nothing(index_elements=["owner", "idempotency_key"])
        .returning(tables.Job.id)
    ).first()
    if inserted is None:  # somebody with the same key committed since we looked
        known = find_idempotent(session, submission.owner, submission.idempotency_key, submission.idempotency_digest)
        assert known is not None
        return known, False
    planning = submission.kind in STORING
    session.add(
        tables.Chunk(
            job_id=submission.id,
            seq=PLAN_SEQ if planning else 0,
            kind=PLAN if planning else submission.kind,
            lane=lane(submission.kind),
            owner=submission.owner,
            collection_id=submission.collection_id,
            space_id=submission.space_id,
            status=ChunkStatus.READY,
        )
    )
    session.flush()
    return session.get_one(tables.Job, submission.id), True


def retry(
    session: Session,
    owner: str,
    job_id: str,
    items: str,
    settings: Settings,
    idempotency_key: str | None = None,
    idempotency_digest: str | None = None,
    callback_url: str | None = None,
) -> tuple[tables.Job, bool]:
    """Put the failed (and cancelled) images of a finished job, or `all` of them, into a new job that names its parent.

    A job that failed before it was planned starts from its source again. Raises JobNotFinished and SourceExpired.
    """
    parent = view.get(session, owner, job_id)
    known = find_idempotent(session, owner, idempotency_key, idempotency_digest)
    if known is not None:
        return known, False
    if parent.status not in TERMINAL:
        raise errors.JobNotFinished()
    if parent.upload_id is not None and session.get(tables.Upload, parent.upload_id) is None:
        raise errors.SourceExpired()
    if view.expired(session, parent):
        raise errors.SourceExpired("The job has expired; submit its images again.")
    collection = session.get_one(tables.Collection, parent.collection_id)
    work = dict(parent.work)
    if parent.kind in STORING and parent.planned:
        work["retry"] = {"job_id": parent.id, "items": items}
    return submit(
        session,
        Submission(
            owner=owner,
            kind=JobKind(parent.kind),
            collection_id=parent.collection_id,
            space_id=collection.space_id,
            params=parent.params,
            work=work,
            upload_id=parent.upload_id,
            callback_url=callback_url or parent.callback_url,
            parent_id=parent.id,
            idempotency_key=idempotency_key,
            idempotency_digest=idempotency_digest,
        ),
        settings,
    )


def _make_room(session: Session, owner: str, settings: Settings) -> None:
    def unfinished(limit: int, *where: sa.ColumnElement[bool]) -> int:
        rows = sa.select(tables.Job.id).where(tables.Job.status.in_(UNFINISHED), *where).limit(limit)
        return session.scalar(sa.select(sa.func.count()).select_from(rows.subquery())) or 0

    if unfinished(settings.max_jobs_per_owner, tables.Job.owner == owner) >= settings.max_jobs_per_owner:
        raise errors.QuotaExceeded(retry_after_s=FULL_RETRY_AFTER_S)
    if unfinished(settings.max_backlog) >= settings.max_backlog:
        raise errors.Backlog(retry_after_s=FULL_RETRY_AFTER_S)
