"""How a claimed chunk is finished: its images or its result written, and with the last chunk its job ended.

Each write is fenced by its claim, and a commit whose answer was lost is not done twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql, tables
from imagekin.database.engine import Database
from imagekin.database.tables import CHUNKS, JOBS
from imagekin.enums import COUNTED, TERMINAL, ChunkStatus, ItemStatus, JobStatus, OnConflict
from imagekin.jobs import checkpoint, end, fence, results, view
from imagekin.jobs.claim import Claim
from imagekin.store import ledger, segments
from imagekin.telemetry import metrics

# What each chunk of images runs is made once: making a statement costs several times what running it does.
_BEGIN = (
    sa.select(JOBS.c.status, JOBS.c.params, CHUNKS.c.status.label("chunk"))
    .join(CHUNKS, CHUNKS.c.job_id == JOBS.c.id)
    .where(*fence.MINE)
    .with_for_update(of=JOBS, key_share=True)
)
_FINISH = (
    sa.update(CHUNKS)
    .where(*fence.MINE, CHUNKS.c.status == ChunkStatus.CLAIMED)
    .values(
        status=ChunkStatus.DONE,
        lease_until=None,
        ledger=sa.bindparam("records"),
        **{name: sa.bindparam(f"count_{name}") for name in COUNTED},
    )
    .returning(CHUNKS.c.seq)
)
# How often a chunk is stored by what was looked up before, until it is looked up under the collection's lock.
TRIES = 3
_COUNT = (
    sa.update(JOBS)
    .where(JOBS.c.id == sa.bindparam("claim_job"))
    .values({name.value: JOBS.c[name] + sa.bindparam(f"count_{name}") for name in COUNTED})
    .returning(sa.and_(JOBS.c.planned, view.done(JOBS.c) >= JOBS.c.total))  # type: ignore[arg-type] - of columns
)


def chunk(
    database: Database, claim: Claim, items: Sequence[segments.Item], on_conflict: OnConflict
) -> Counter[ItemStatus]:
    """Store a chunk's images, write what became of each, and end the chunk and, with the last one, its job.

    Workers that store into one collection wait for each other only in the last of its transactions: what is there
    is looked up, and blobs are written, before.
    Returns how many images ended how. Raises LeaseLost, which leaves nothing but blobs that the sweep drops,
    and Unavailable if the storage of blobs fails.
    """
    for _ in range(TRIES):
        try:
            drafted = segments.prepare(database, claim.collection_id, items, on_conflict)
            return database.write(images, claim, items, drafted)
        except errors.CollectionDeleted:
            break
        except (segments.Stale, IntegrityError):
            # others were at the same images, or the blobs lay for so long that the sweep took them
            continue
    return database.write(images, claim, items)


def images(
    session: Session, claim: Claim, items: Sequence[segments.Item], drafted: segments.Draft | None = None
) -> Counter[ItemStatus]:
    """Do what `chunk` does in one transaction, with what was looked up before it, else under the collection's lock.

    Raises LeaseLost, which leaves nothing of it behind, and segments.Stale.
    """
    mine = fence.names(claim)
    packed = None if drafted is None else ledger.pack(drafted.records)
    found = session.execute(_BEGIN, mine).first()
    if found is not None and found.chunk == ChunkStatus.DONE:  # our own commit whose answer got lost
        return Counter()
    if found is None or found.status in TERMINAL:
        raise errors.LeaseLost()
    if drafted is None:
        drafted = segments.draft(
            session, claim.collection_id, items, OnConflict(found.params["on_conflict"]), locked=True
        )
    records = drafted.records
    counts = Counter(record.status for record in records)
    mine |= {f"count_{name}": counts[name] for name in COUNTED}
    # the fence: what it does not let through is rolled back
    if session.execute(_FINISH, {**mine, "records": packed or ledger.pack(records)}).first() is None:
        raise errors.LeaseLost()
    if session.scalar(_COUNT, mine) and (job := end.lock(session, claim.job_id)) is not None:
        end.settle(session, job)
    # last, so that the collection is locked for the shortest time
    segments.write(session, drafted)
    sql.after_commit(session, lambda: _count(records, counts))
    return counts


def _count(records: Sequence[ledger.Record], counts: Counter[ItemStatus]) -> None:
    for status, count in counts.items():
        metrics.JOBS.note_images(status, count)
    metrics.JOBS.note_errors(record.code for record in records)


def _finished_by(session: Session, claim: Claim) -> bool:
    mine = sa.select(CHUNKS.c.seq).where(*fence.MINE, CHUNKS.c.status == ChunkStatus.DONE)
    return session.scalar(mine, fence.names(claim)) is not None


def result(
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
    job = fence.hold(session, claim, status=ChunkStatus.DONE, lease_until=None, state=None)
    results.write_summary(session, claim.job_id, summary, thumbnail)
    if clustering is not None:
        session.merge(clustering)
    job.fraction = 1.0
    end.succeed(session, job)


def extend(
    session: Session, claim: Claim, part: int, rows: Sequence[dict[str, Any]], state: bytes, fraction: float
) -> None:
    """Write part `part` (1 at the start) of a result that grows with the work, and keep how far that is.

    Raises LeaseLost.
    """
    checkpoint.keep(session, claim, state, fraction)
    results.write_rows(session, claim.job_id, part, rows)


def finalize(session: Session, claim: Claim, first_part: int, parts: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Write some parts of a long result, numbered from `first_part` (1 at the start), so that no transaction is long.

    Parts that an earlier claimant left are replaced. Raises LeaseLost.
    """
    job = fence.hold(session, claim)
    job.status = JobStatus.FINALIZING
    for number, rows in enumerate(parts, first_part):
        results.write_rows(session, claim.job_id, number, rows)
