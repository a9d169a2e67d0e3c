"""Lifetimes: expired data is gone, other data is there, and no work hangs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import sql, tables
from imagekin.doctor.checks import Batch, Check, Finding, System, walk
from imagekin.enums import ChunkStatus
from imagekin.jobs import blame, end
from imagekin.maintenance import collection_deletion, expiry

Chunk, Collection, Job, Upload = tables.Chunk, tables.Collection, tables.Job, tables.Upload

ROWS_PER_BATCH = 500
# Who stores an upload writes its bytes first and its row then, within one request.
ORPHAN_S = 3600.0
# Expiry and removal come a slice at a time, and many may be due at once.
OVERDUE_S = 3600.0


def leases(system: System) -> Iterator[Batch]:
    """Look for claims that are neither renewed nor taken over."""
    return walk(system, _leases, ("", -2))


def _ran_out(system: System) -> sa.ColumnElement[bool]:
    stuck = sa.or_(Chunk.lease_until.is_(None), expiry.lease_past(system.patience_s))
    return sa.and_(Chunk.status == ChunkStatus.CLAIMED, stuck)


def _leases(session: Session, batch: Batch, after: tuple[str, int], system: System) -> tuple[str, int] | None:
    query = sa.select(Chunk.job_id, Chunk.seq, Chunk.claimed_by, _ran_out(system)).where(
        tables.OPEN_CHUNK, Chunk.status == ChunkStatus.CLAIMED, sa.tuple_(Chunk.job_id, Chunk.seq) > after
    )
    found = session.execute(query.order_by(Chunk.job_id, Chunk.seq).limit(ROWS_PER_BATCH)).all()
    for job_id, seq, claimed_by, stuck in found:
        batch.hold("leases", not stuck, f"chunk {seq} of job {job_id} is held by {claimed_by}", job_id, seq)
    return (found[-1].job_id, found[-1].seq) if found else None


def release(system: System, finding: Finding) -> bool:
    """Make a stuck chunk ready, as the sweep would."""
    job_id, seq = finding.subject
    return system.database.write(_release, job_id, seq, system)


def _release(session: Session, job_id: str, seq: int, system: System) -> bool:
    # job before chunk, as everywhere
    end.lock(session, job_id)
    stuck = sa.select(Chunk.attempt).where(Chunk.job_id == job_id, Chunk.seq == seq, _ran_out(system))
    attempt = session.scalar(stuck)
    if attempt is not None:
        reason = f"claimed {attempt} times, never finished"
        blame.blame(session, job_id, seq, reason, system.settings, deaths=0)
    return True


def expired_jobs(system: System) -> Iterator[Batch]:
    """Look for ledgers and results past their lives."""
    return walk(system, _expired_jobs, "")


def _expired_jobs(session: Session, batch: Batch, after: str, _: System) -> str | None:
    query = sa.select(Job.id, expiry.job_left_something()).where(Job.id > after, expiry.job_past(OVERDUE_S))
    found = session.execute(query.order_by(Job.id).limit(ROWS_PER_BATCH)).all()
    for job_id, left in found:
        batch.hold("expired_jobs", not left, f"job {job_id} is past its life and has a ledger or a result", job_id)
    return found[-1].id if found else None


def erase(system: System, finding: Finding) -> bool:
    """Erase what an expired job left behind."""
    return system.database.write(_erase, *finding.subject)


def _erase(session: Session, job_id: str) -> bool:
    job = end.lock(session, job_id)
    past = sa.select(Job.id).where(Job.id == job_id, expiry.job_past())
    if job is not None and session.scalar(past) is not None:
        end.erase(session, job_id)
    return True


def uploads(system: System) -> Iterator[Batch]:
    """Look for uploads past their lives, and for those whose bytes are gone."""
    for batch in walk(system, _uploads, ""):
        batch.findings = [finding for finding in batch.findings if _stands(system, finding)]
        yield batch


def _stands(system: System, finding: Finding) -> bool:
    """Return whether a finding about an upload stands: that its file is gone is only a suspicion until here."""
    if finding.check != "upload_files":
        return True
    id, path = finding.subject
    # the bytes go after the row, so their absence is a fault only if the row is there still
    return not system.storage.exists(path) and system.database.read(_is_there, id)


def _uploads(session: Session, batch: Batch, after: str, _: System) -> str | None:
    query = sa.select(Upload.id, Upload.path, expiry.upload_past(OVERDUE_S).label("overdue")).where(Upload.id > after)
    found = session.execute(query.order_by(Upload.id).limit(ROWS_PER_BATCH)).all()
    for id, path, overdue in found:
        batch.hold("expired_uploads", not overdue, f"upload {id} is past its life", id, path)
        batch.hold("upload_files", False, f"the file {path} of upload {id} is gone", id, path)
    return found[-1].id if found else None


def _is_there(session: Session, upload_id: str) -> bool:
    return session.get(Upload, upload_id) is not None


def expire_upload(system: System, finding: Finding) -> bool:
    """Delete an upload that is past its life, row and bytes."""
    id, path = finding.subject
    if system.database.write(_expire_upload, id):
        system.storage.delete(path)
    return True


def _expire_upload(session: Session, upload_id: str) -> bool:
    gone = sa.delete(Upload).where(Upload.id == upload_id, expiry.upload_past()).returning(Upload.id)
    return session.scalar(gone, execution_options={"synchronize_session": False}) is not None


def files(system: System) -> Iterator[Batch]:
    """Look for files that no upload names."""
    stored = system.storage.files("uploads")
    while some := list(islice(stored, ROWS_PER_BATCH)):
        batch = Batch()
        named = system.database.read(_named, [name for name, _ in some])
        for name, age_s in some:
            orphan = name not in named and age_s > ORPHAN_S and system.storage.exists(name)
            batch.hold("orphan_files", not orphan, f"the file {name} belongs to no upload", name)
        yield batch


def _named(session: Session, paths: list[str]) -> set[str]:
    return set(session.scalars(sa.select(Upload.path).where(Upload.path.in_(paths))))


def delete_file(system: System, finding: Finding) -> bool:
    """Delete a file that no upload names."""
    [name] = finding.subject
    if not system.database.read(_named, [name]):
        system.storage.delete(name)
    return True


def deleted_collections(system: System) -> Iterator[Batch]:
    """Look for deleted collections that are not emptied."""
    return walk(system, _deleted_collections, "")


def _deleted_collections(session: Session, batch: Batch, after: str, _: System) -> str | None:
    full = sa.or_(
        *(sa.exists().where(table.collection_id == Collection.id) for table in (tables.Image, tables.Segment))
    )
    query = sa.select(Collection.id, full).where(Collection.id > after, Collection.deleted_at < sql.clock() - OVERDUE_S)
    found = session.execute(query.order_by(Collection.id).limit(ROWS_PER_BATCH)).all()
    for id, left in found:
        batch.hold("deleted_collections", not left, f"collection {id} was deleted and has images or vectors", id)
    return found[-1].id if found else None


def empty(system: System, finding: Finding) -> bool:
    """Delete what a deleted collection holds, as the sweep would."""
    while system.database.write(collection_deletion.remove, *finding.subject):
        pass
    return True


CHECKS = (
    Check("leases", "no claim is held long after its lease ran out", release),
    Check("expired_jobs", "no ledger or result is there past its life", erase),
    Check("expired_uploads", "no upload is there past its life", expire_upload),
    Check("upload_files", "every upload's file is there"),
    Check("orphan_files", "every stored file belongs to an upload", delete_file),
    Check("deleted_collections", "deleted collections are emptied", empty),
)
SCANS = (leases, expired_jobs, uploads, files, deleted_collections)
