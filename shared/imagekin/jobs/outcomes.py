"""What workers write: planned chunks, finished images, results. Each write is fenced by its claim."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import db, errors, ledger, metrics, models, results, segments
from imagekin.jobs import endings
from imagekin.jobs.claims import Claim
from imagekin.types import TERMINAL, ChunkKind, ChunkStatus, ItemStatus, JobStatus, Lane, OnConflict

Chunk = models.Chunk
CHUNKS = models.Base.metadata.tables[Chunk.__tablename__]


def _fence(session: Session, claim: Claim, **changes: Any) -> models.Job:
    """Lock the job, write `changes` to the claimed chunk and return the job.

    Raises LeaseLost, which rolls everything back, where the chunk is no longer ours.
    """
    job = endings.lock(session, claim.job_id)
    if job is None or job.status in TERMINAL:
        raise errors.LeaseLost()
    ours = (
        sa.update(Chunk)
        .where(
            Chunk.job_id == claim.job_id,
            Chunk.seq == claim.seq,
            Chunk.claimed_by == claim.claimed_by,
            Chunk.attempt == claim.attempt,
            Chunk.status == ChunkStatus.CLAIMED,
        )
        .values(**(changes or {"attempt": Chunk.attempt}))
        .returning(Chunk.seq)
        .execution_options(synchronize_session=False)
    )
    if session.execute(ours).first() is None:
        raise errors.LeaseLost()
    return job


def plan(
    session: Session,
    claim: Claim,
    pieces: Sequence[Sequence[dict[str, Any]]],
    *,
    ignored: int,
    cursor: Any,
    finished: bool,
) -> int:
    """Add chunks of entries (see imagekin.jobs.ledger) to the job and keep the source's cursor; return how many.

    The second entry of a key fails as a duplicate. With `finished` the planning ends, and with it a job that has
    nothing left to do. Raises LeaseLost.
    """
    changes: dict[str, Any] = {"state": ledger.pack(cursor)}
    if not finished and _state(session, claim) == changes["state"]:  # our own commit whose answer got lost
        return len(pieces)
    if finished:
        changes |= {"status": ChunkStatus.DONE, "lease_until": None}
    job = _fence(session, claim, **changes)
    marked = iter(_mark_duplicates(session, claim.job_id, [entry for piece in pieces for entry in piece]))
    chunks: list[dict[str, Any]] = []
    for piece in pieces:
        chunks.append(
            {
                "job_id": claim.job_id,
                "seq": job.total,
                "kind": ChunkKind(job.kind),
                "lane": Lane.BULK,
                "owner": claim.owner,
                "collection_id": claim.collection_id,
                "space_id": claim.space_id,
                "status": ChunkStatus.READY,
                "size": len(piece),
                "manifest": ledger.pack(list(islice(marked, len(piece)))),
            }
        )
        job.total += len(piece)
    if chunks:
        session.execute(sa.insert(CHUNKS), chunks)
    job.ignored += ignored
    if finished:
        job.planned = True
        if job.status == JobStatus.PLANNING:
            job.status = JobStatus.RUNNING
        session.execute(sa.delete(models.PlannedKey).where(models.PlannedKey.job_id == claim.job_id))
        endings.settle(session, job)
    session.flush()
    return len(pieces)


def _mark_duplicates(session: Session, job_id: str, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    digests = [
        hashlib.blake2b(entry["key"].encode("utf-8", "surrogatepass"), digest_size=16).digest() for entry in entries
    ]
    rows = [{"job_id": job_id, "digest": digest} for digest in dict.fromkeys(digests)]
    insert = db.insert(session, models.PlannedKey).on_conflict_do_nothing().returning(models.PlannedKey.digest)
    # rows beside the statement, not in it: one with its rows would be compiled anew for each number of them
    fresh = set(session.scalars(insert, rows)) if rows else set()
    marked = []
    for entry, digest in zip(entries, digests, strict=True):
        if digest not in fresh and not entry.get("error"):
            marked.append({**entry, "error": ["duplicate_key", "The same key came earlier in this job."]})
        else:
            marked.append(entry)
        fresh.discard(digest)
    return marked


def state(session: Session, claim: Claim) -> Any:
    """Return how far the chunk's earlier claimants came (JSON), or None."""
    packed = _state(session, claim)
    return None if packed is None else ledger.unpack(packed)


def _state(session: Session, claim: Claim) -> bytes | None:
    return session.scalar(sa.select(Chunk.state).filter_by(job_id=claim.job_id, seq=claim.seq))


def checkpoint(session: Session, claim: Claim, state: bytes, fraction: float) -> None:
    """Keep how far a long chunk is, for whoever goes on with it, and show it as the job's progress (0 to 1).

    Raises LeaseLost.
    """
    job = _fence(session, claim, state=state)
    job.fraction = fraction


def checkpointed(session: Session, claim: Claim) -> bytes | None:
    """Return what `checkpoint` kept last."""
    return _state(session, claim)


def finish_images(session: Session, claim: Claim, items: Sequence[segments.Item]) -> Counter[ItemStatus]:
    """Store a chunk's images, write what became of each, and end the chunk and, with the last one, its job.

    Returns how many images ended how. Raises LeaseLost, which leaves nothing of it behind.
    """
    if _finished_by(session, claim):  # our own commit whose answer got lost
        return Counter()
    job = _fence(session, claim)
    records = segments.store(session, claim.collection_id, items, OnConflict(job.params["on_conflict"]))
    counts = Counter(record.status for record in records)
    session.execute(
        sa.update(Chunk)
        .where(Chunk.job_id == claim.job_id, Chunk.seq == claim.seq)
        .values(
            status=ChunkStatus.DONE,
            lease_until=None,
            ledger=ledger.pack(records),
            **{status.value: counts[status] for status in COUNTED},
        )
        .execution_options(synchronize_session=False)
    )
    for status in COUNTED:
        setattr(job, status.value, getattr(job, status.value) + counts[status])
    session.flush()
    endings.settle(session, job)
    db.after_commit(session, lambda: _count(records, counts))
    return counts


def _count(records: Sequence[ledger.Record], counts: Counter[ItemStatus]) -> None:
    for status, count in counts.items():
        metrics.JOBS.note_images(status, count)
    metrics.JOBS.note_errors(record.code for record in records)


COUNTED = (ItemStatus.EMBEDDED, ItemStatus.REUSED, ItemStatus.SKIPPED, ItemStatus.FAILED)


def _finished_by(session: Session, claim: Claim) -> bool:
    mine = sa.select(sa.literal(1)).where(
        Chunk.job_id == claim.job_id,
        Chunk.seq == claim.seq,
        Chunk.claimed_by == claim.claimed_by,
        Chunk.attempt == claim.attempt,
        Chunk.status == ChunkStatus.DONE,
    )
    return session.scalar(mine) is not None


def finish_result(
    session: Session,
    claim: Claim,
    summary: dict[str, Any],
    *,
    thumbnail: bytes | None = None,
    clustering: models.Clustering | None = None,
) -> None:
    """Write the result's summary and end the chunk and its job as succeeded. Raises LeaseLost."""
    if _finished_by(session, claim):
        return
    job = _fence(session, claim, status=ChunkStatus.DONE, lease_until=None, state=None)
    results.write_summary(session, claim.job_id, summary, thumbnail)
    if clustering is not None:
        session.merge(clustering)
    job.fraction = 1.0
    endings.succeed(session, job)


def extend(
    session: Session, claim: Claim, part: int, rows: Sequence[dict[str, Any]], state: bytes, fraction: float
) -> None:
    """Write part `part` (1 at the start) of a result that grows with the work, and how far that is, as `checkpoint`.

    Raises LeaseLost.
    """
    checkpoint(session, claim, state, fraction)
    results.write_rows(session, claim.job_id, part, rows)


def finalize(session: Session, claim: Claim, first_part: int, parts: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Write some parts of a long result, numbered from `first_part` (1 at the start), so that no transaction is long.

    Parts that an earlier claimant left are replaced. Raises LeaseLost.
    """
    job = _fence(session, claim)
    job.status = JobStatus.FINALIZING
    for number, rows in enumerate(parts, first_part):
        results.write_rows(session, claim.job_id, number, rows)
