"""Jobs, chunks and ledgers: every accepted image ended exactly once, and every accepted job will end."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import enums, errors
from imagekin.database import sql, tables
from imagekin.doctor.checks import Batch, Check, Finding, System, walk
from imagekin.enums import ENDED_CHUNKS, TERMINAL, ChunkStatus, ItemStatus
from imagekin.jobs import end, view
from imagekin.maintenance import expiry
from imagekin.schemas.kinds import PLAN, STORING
from imagekin.store import ledger

Chunk, Collection, Image, Job, ResultPart = (
    tables.Chunk, tables.Collection, tables.Image, tables.Job, tables.ResultPart
)  # fmt: skip

JOBS_PER_BATCH = 200
CHUNKS_PER_BATCH = 16
COUNTED = tuple(status.value for status in enums.COUNTED)
NAMES_IMAGE = (ItemStatus.EMBEDDED, ItemStatus.REUSED, ItemStatus.SKIPPED)
UNREADABLE = (zlib.error, ValueError, TypeError, KeyError, IndexError)


@dataclass
class Tally:
    """A job's chunks, added up."""

    counts: Counter[str] = field(default_factory=Counter)
    total: int = 0
    cancelled: int = 0
    chunks: int = 0
    open: int = 0
    gaps: list[int] = field(default_factory=list)

    def add(self, chunk: sa.Row) -> None:
        self.chunks += 1
        self.open += chunk.status not in ENDED_CHUNKS
        if chunk.kind != PLAN:
            if chunk.seq != self.total:
                self.gaps.append(chunk.seq)
            self.total += chunk.size
            self.cancelled += chunk.size if chunk.status == ChunkStatus.CANCELLED else 0
        for name in COUNTED:
            self.counts[name] += getattr(chunk, name)


def jobs(system: System) -> Iterator[Batch]:
    """Hold every job against its chunks."""
    return walk(system, _jobs, "")


def _jobs(session: Session, batch: Batch, after: str, _: System) -> str | None:
    expired = sa.not_(expiry.job_lives())
    found = session.execute(sa.select(Job, expired).where(Job.id > after).order_by(Job.id).limit(JOBS_PER_BATCH)).all()
    if not found:
        return None
    ids = [job.id for job, _ in found]
    tallies = _tallies(session, ids)
    summaries = sa.select(ResultPart.job_id).where(ResultPart.job_id.in_(ids), ResultPart.part == 0)
    have_results = set(session.scalars(summaries))
    for job, expired in found:
        _job(batch, job, tallies[job.id], job.id in have_results, expired=bool(expired))
    return ids[-1]


def _tallies(session: Session, ids: Sequence[str]) -> dict[str, Tally]:
    tallies: dict[str, Tally] = defaultdict(Tally)
    columns = [Chunk.job_id, Chunk.seq, Chunk.kind, Chunk.status, Chunk.size]
    query = sa.select(*columns, *(getattr(Chunk, name) for name in COUNTED)).where(Chunk.job_id.in_(ids))
    query = query.order_by(Chunk.job_id, Chunk.seq).execution_options(yield_per=1000)
    for chunk in session.execute(query):
        tallies[chunk.job_id].add(chunk)
    return tallies


def _job(batch: Batch, job: tables.Job, tally: Tally, has_result: bool, *, expired: bool) -> None:
    done, ended = view.done(job), job.status in TERMINAL
    batch.hold(
        "job_counts",
        done == job.total if ended else done <= job.total,
        f"job {job.id} ({job.status}): {done} of {job.total} images ended",
        job.id,
    )
    batch.hold(
        "job_ends",
        (tally.open == 0) == ended,
        f"job {job.id} is {job.status} with {tally.open} of {tally.chunks} chunks open",
        job.id,
    )
    if expired:
        return
    sums = {**{name: tally.counts[name] for name in COUNTED}, "cancelled": tally.cancelled, "total": tally.total}
    wrong = [
        f"{name} {getattr(job, name)}, chunks {count}" for name, count in sums.items() if getattr(job, name) != count
    ]
    if not tally.chunks:
        wrong = ["its chunks are gone"]
    elif tally.gaps:
        wrong.append(f"chunk {tally.gaps[0]} does not follow the one before it")
    batch.hold("job_sums", not wrong, f"job {job.id}: {'; '.join(wrong)}", job.id)
    if job.status == "succeeded" and job.kind not in STORING:
        batch.hold("job_results", has_result, f"job {job.id} ({job.kind}) has no result", job.id)


def ledgers(system: System) -> Iterator[Batch]:
    """Read every chunk's ledger, and hold it against counters, manifest and images."""
    return walk(system, _ledgers, ("", 0))


def _ledgers(session: Session, batch: Batch, after: tuple[str, int], _: System) -> tuple[str, int] | None:
    columns = [Chunk.job_id, Chunk.seq, Chunk.status, Chunk.size, Chunk.collection_id, Chunk.manifest, Chunk.ledger]
    chunks = session.execute(
        sa.select(*columns, *(getattr(Chunk, name) for name in COUNTED))
        .join(Job, Job.id == Chunk.job_id)
        .join(Collection, Collection.id == Chunk.collection_id)
        .where(
            sa.tuple_(Chunk.job_id, Chunk.seq) > after,
            Chunk.kind.in_(STORING),
            Chunk.status.in_(ENDED_CHUNKS),
            expiry.job_lives(),
            Collection.deleted_at.is_(None),
        )
        .order_by(Chunk.job_id, Chunk.seq)
        .limit(CHUNKS_PER_BATCH)
    ).all()
    if not chunks:
        return None
    read = [(chunk, records) for chunk in chunks if (records := _records(batch, chunk)) is not None]
    images = _images(session, (record.image_id for _, records in read for record in records if record.image_id))
    for chunk, records in read:
        for record in records:
            if record.status in NAMES_IMAGE:
                image = images.get(record.image_id)
                here = image == (chunk.collection_id, record.key)
                detail = "is not there" if image is None else "is another one"
                batch.hold("ledger_images", here, f"{_name(chunk)}: image {record.image_id} of {record.key!r} {detail}")
    return chunks[-1].job_id, chunks[-1].seq


def _name(chunk: sa.Row) -> str:
    return f"chunk {chunk.seq} of job {chunk.job_id}"


def _records(batch: Batch, chunk: sa.Row) -> list[ledger.Record] | None:
    """Return the records of a chunk that was not cancelled, and hold them against its counters and its manifest."""
    counts = {name: getattr(chunk, name) for name in COUNTED}
    try:
        keys = [entry["key"] for entry in ledger.unpack(chunk.manifest)]
        records = ledger.records(chunk.ledger) if chunk.ledger is not None else []
    except UNREADABLE as error:
        batch.hold("ledger_counts", False, f"{_name(chunk)} cannot be read: {error}")
        return None
    if chunk.status == ChunkStatus.CANCELLED:
        batch.hold("ledger_counts", not any(counts.values()), f"{_name(chunk)} is cancelled and has counts")
        batch.hold("ledger_keys", len(keys) == chunk.size, f"{_name(chunk)}: {len(keys)} entries, size {chunk.size}")
        return None
    found: dict[str, Any] = dict.fromkeys(COUNTED, 0) | Counter(record.status.value for record in records)
    batch.hold("ledger_counts", found == counts, f"{_name(chunk)}: counters {counts}, ledger {found}")
    same = keys == [record.key for record in records] and len(keys) == chunk.size
    batch.hold("ledger_keys", same, f"{_name(chunk)}: {len(keys)} entries, {len(records)} records, or in another order")
    return records


def _images(session: Session, ids: Iterator[str]) -> dict[str | None, tuple[str, str]]:
    """Return (collection, key) of images that are there; a deleted one is until no ledger names it."""
    found: dict[str | None, tuple[str, str]] = {}
    for some in sql.batches(list(ids)):
        rows = session.execute(sa.select(Image.id, Image.collection_id, Image.key).where(Image.id.in_(some)))
        found.update((id, (collection_id, key)) for id, collection_id, key in rows)
    return found


def end_job(system: System, finding: Finding) -> bool:
    """End a job that has no open chunk, or close the chunks of one that has ended."""
    return system.database.write(_end_job, *finding.subject)


def _end_job(session: Session, job_id: str) -> bool:
    job = end.lock(session, job_id)
    if job is None:
        return True
    still_open = sa.and_(Chunk.job_id == job_id, Chunk.status.not_in(ENDED_CHUNKS))
    if job.status in TERMINAL:
        left = session.scalars(sa.select(sa.func.coalesce(sa.func.sum(Chunk.size), 0)).where(still_open)).one()
        closed = {"status": ChunkStatus.CANCELLED, "claimed_by": None, "lease_until": None}
        session.execute(sa.update(Chunk).where(still_open).values(closed).execution_options(synchronize_session=False))
        job.cancelled = min(job.cancelled + left, job.total - (view.done(job) - job.cancelled))
        return True
    if session.scalar(sa.select(Chunk.seq).where(still_open).limit(1)) is not None:
        return False
    if job.kind in STORING and job.planned:
        return end.settle(session, job)
    if job.kind not in STORING and session.get(ResultPart, (job_id, 0)) is not None:
        end.succeed(session, job)
        return True
    detail = f"{errors.ImagekinError().detail} The doctor found the job without work and without an end."
    return end.fail(session, job_id, errors.ImagekinError.code, detail)


CHECKS = (
    Check("job_counts", "embedded + reused + skipped + failed + cancelled = total in every finished job"),
    Check("job_sums", "a job's counters are the sums of its chunks, and the chunks follow one another"),
    Check("job_ends", "a job has ended if and only if all of its chunks have", end_job),
    Check("job_results", "every search and clustering that succeeded has its result"),
    Check("ledger_counts", "a chunk's ledger agrees with its counters"),
    Check("ledger_keys", "a chunk's ledger has the keys of its manifest, in the same order"),
    Check("ledger_images", "every image in a ledger is there, or was deleted since"),
)
SCANS = (jobs, ledgers)
