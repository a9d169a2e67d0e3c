"""What workers write: planned chunks, finished images, results. Each write is fenced by its claim."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql, tables
from imagekin.enums import TERMINAL, ChunkKind, ChunkStatus, ItemStatus, JobStatus, Lane, OnConflict
from imagekin.jobs import end, results, view
from imagekin.jobs.claim import Claim
from imagekin.store import ledger, segments
from imagekin.telemetry import metrics

Chunk = tables.Chunk
CHUNKS, JOBS = (tables.Base.metadata.tables[table.__tablename__] for table in (Chunk, tables.Job))
# What an image counts as in its chunk and its job.
COUNTED = (ItemStatus.EMBEDDED, ItemStatus.REUSED, ItemStatus.SKIPPED, ItemStatus.FAILED)
# The chunk of a claim, by the names of `_names`.
_MINE = (
    CHUNKS.c.job_id == sa.bindparam("claim_job"),
    CHUNKS.c.seq == sa.bindparam("claim_seq"),
    CHUNKS.c.claimed_by == sa.bindparam("claim_by"),
    CHUNKS.c.attempt == sa.bindparam("claim_attempt"),
)


def _names(claim: Claim) -> dict[str, Any]:
    return {
        "claim_job": claim.job_id,
        "claim_seq": claim.seq,
        "claim_by": claim.claimed_by,
        "claim_attempt": claim.attempt,
    }


def of(session: Session, claim: Claim) -> tables.Job:
    """Return the job of a claim; raises LeaseLost where it was deleted since, which takes a cancelled one."""
    job = session.get(tables.Job, claim.job_id)
    if job is None:
        raise errors.LeaseLost()
    return job


def _fence(session: Session, claim: Claim, **changes: Any) -> tables.Job:
    """Lock the job, write `changes` to the claimed chunk and return the job.

    Raises LeaseLost, which rolls everything back, where the chunk is no longer ours.
    """
    job = end.lock(session, claim.job_id)
    if job is None or job.status in TERMINAL:
        raise errors.LeaseLost()
    ours = (
        sa.update(CHUNKS)
        .where(*_MINE, CHUNKS.c.status == ChunkStatus.CLAIMED)
        .values(**(changes or {"attempt": CHUNKS.c.attempt}))
        .returning(CHUNKS.c.seq)
    )
    if session.execute(ours, _names(claim)).first() is None:
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
        session.execute(sa.delete(tables.PlannedKey).where(tables.PlannedKey.job_id == claim.job_id))
        end.settle(session, job)
    session.flush()
    return len(pieces)


def _mark_duplicates(session: Session, job_id: str, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    digests = [
        hashlib.blake2b(entry["key"].encode("utf-8", "surrogatepass"), digest_size=16).digest() for entry in entries
    ]
    rows = [{"job_id": job_id, "digest": digest} for digest in dict.fromkeys(digests)]
    insert = sql.insert(session, tables.PlannedKey).on_conflict_do_nothing().returning(tables.PlannedKey.digest)
    # rows beside the statement, not in it: one with its rows would be compiled anew for each number of them
    fresh = set(session.scalars(insert, rows)) if rows else set()
    marked = []
    for entry, digest in zip(entries, digests, strict=True):
        if digest not in fresh and not entry.get("error"):
            marked.append({**entry, "error": [errors.DuplicateKey.code, "The same key came earlier in this job."]})
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


# What each chunk of images runs is made once: making a statement costs several times what running it does.
_BEGIN = (
    sa.select(JOBS.c.status, JOBS.c.params, CHUNKS.c.status.label("chunk"))
    .join(CHUNKS, CHUNKS.c.job_id == JOBS.c.id)
    .where(*_MINE)
    .with_for_update(of=JOBS)
)
_FINISH = (
    sa.update(CHUNKS)
    .where(*_MINE, CHUNKS.c.status == ChunkStatus.CLAIMED)
    .values(
        status=ChunkStatus.DONE,
        lease_until=None,
        ledger=sa.bindparam("records"),
        **{name: sa.bindparam(f"count_{name}") for name in COUNTED},
    )
    .returning(CHUNKS.c.seq)
)
_COUNT = (
    sa.update(JOBS)
    .where(JOBS.c.id == sa.bindparam("claim_job"))
    .values({name.value: JOBS.c[name] + sa.bindparam(f"count_{name}") for name in COUNTED})
    .returning(sa.and_(JOBS.c.planned, view.done(JOBS.c) >= JOBS.c.total))  # type: ignore[arg-type] - of columns
)


def finish_images(session: Session, claim: Claim, items: Sequence[segments.Item]) -> Counter[ItemStatus]:
    """Store a chunk's images, write what became of each, and end the chunk and, with the last one, its job.

    Returns how many images ended how. Raises LeaseLost, which leaves nothing of it behind.
    """
    mine = _names(claim)
    found = session.execute(_BEGIN, mine).first()
    if found is not None and found.chunk == ChunkStatus.DONE:  # our own commit whose answer got lost
        return Counter()
    if found is None or found.status in TERMINAL:
        raise errors.LeaseLost()
    records = segments.store(session, claim.collection_id, items, OnConflict(found.params["on_conflict"]))
    counts = Counter(record.status for record in records)
    mine |= {f"count_{name}": counts[name] for name in COUNTED}
    # the fence: what it does not let through is rolled back, images and all
    if session.execute(_FINISH, {**mine, "records": ledger.pack(records)}).first() is None:
        raise errors.LeaseLost()
    if session.scalar(_COUNT, mine):
        end.settle(session, session.get_one(tables.Job, claim.job_id, populate_existing=True))
    sql.after_commit(session, lambda: _count(records, counts))
    return counts


def _count(records: Sequence[ledger.Record], counts: Counter[ItemStatus]) -> None:
    for status, count in counts.items():
        metrics.JOBS.note_images(status, count)
    metrics.JOBS.note_errors(record.code for record in records)


def _finished_by(session: Session, claim: Claim) -> bool:
    mine = sa.select(CHUNKS.c.seq).where(*_MINE, CHUNKS.c.status == ChunkStatus.DONE)
    return session.scalar(mine, _names(claim)) is not None


def finish_result(
    session: Session,
    claim: Claim,
    summary: dict[str, Any],
    *,
    thumbnail: bytes | None = None,
    clustering: tables.Clustering | None = None,
) -> None:
    """Write the result's summary and end the chunk and its job as succeeded. Raises LeaseLost."""
    if _finished_by(session, claim):
        return
    job = _fence(session, claim, status=ChunkStatus.DONE, lease_until=None, state=None)
    results.write_summary(session, claim.job_id, summary, thumbnail)
    if clustering is not None:
        session.merge(clustering)
    job.fraction = 1.0
    end.succeed(session, job)


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
