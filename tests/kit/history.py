"""The history checker: what was accepted, held against the final database. Nothing lost, nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import ENDED_CHUNKS, TERMINAL, ChunkStatus, ItemStatus, JobStatus
from imagekin.jobs import view
from imagekin.schemas.kinds import JobKind
from imagekin.store import blobs, ledger, vector_codec
from kit import tiny

COUNTED = ("embedded", "reused", "skipped", "failed")


@dataclass
class Report:
    """What the database says of the accepted jobs; `problems` are sentences, and should be none.

    `lost`: accepted jobs or images that ended nowhere. `doubled`: those that ended, or stand, more than once.
    """

    accepted: int = 0
    finished: int = 0
    images: int = 0
    lost: int = 0
    doubled: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def expect(self, condition: bool, problem: str) -> None:
        if not condition:
            self.problems.append(problem)


def check(database: Database, accepted: Mapping[str, Sequence[str]]) -> Report:
    """Check all that was accepted (keys by the job's id; none for a search) and all that is stored."""
    return database.read(_check, accepted)


def unfinished(database: Database, job_ids: Sequence[str]) -> list[str]:
    """Return those of the jobs that have not ended, or are not there."""
    ended = sa.select(tables.Job.id).where(tables.Job.status.in_(TERMINAL))
    return sorted(set(job_ids) - set(database.read(lambda session: session.scalars(ended).all())))


def _check(session: Session, accepted: Mapping[str, Sequence[str]]) -> Report:
    report = Report(accepted=len(accepted))
    there = {job.id: job for job in session.scalars(sa.select(tables.Job))}
    stray = there.keys() - accepted.keys()
    report.doubled += len(stray)
    report.expect(not stray, f"jobs that nobody was told of: {sorted(stray)}")
    for job_id, keys in accepted.items():
        job = there.get(job_id)
        if job is None or job.status not in TERMINAL:
            report.lost += 1
            report.problems.append(f"job {job_id} is {job.status if job else 'gone'}")
            continue
        report.finished += 1
        report.statuses[job.status] += 1
        if job.kind == JobKind.EMBED:
            _check_embed(session, job, keys, report)
        elif job.status == JobStatus.SUCCEEDED:
            parts = session.scalar(sa.select(sa.func.count()).where(tables.ResultPart.job_id == job_id))
            report.expect(bool(parts), f"{job.kind} job {job_id} succeeded without a result")
    for collection in session.scalars(sa.select(tables.Collection)):
        _check_collection(session, collection, report)
    return report


def _check_embed(session: Session, job: tables.Job, keys: Sequence[str], report: Report) -> None:
    chunks = session.scalars(
        sa.select(tables.Chunk)
        .options(undefer(tables.Chunk.manifest), undefer(tables.Chunk.ledger))
        .filter_by(job_id=job.id, kind=JobKind.EMBED)
        .order_by(tables.Chunk.seq)
    ).all()
    sums: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    at = 0
    for chunk in chunks:
        where = f"chunk {chunk.seq} of {job.id}"
        report.expect(chunk.seq == at, f"{where} begins elsewhere than the one before ends, at {at}")
        at = chunk.seq + chunk.size
        report.expect(chunk.status in ENDED_CHUNKS, f"{where} of a finished job is {chunk.status}")
        records = _records(chunk)
        counts = Counter(record.status.value for record in records)
        report.expect(len(records) == chunk.size, f"{where} has {len(records)} records for {chunk.size} images")
        for status in COUNTED:
            report.expect(
                counts[status] == getattr(chunk, status), f"{where} counts {status} otherwise than its ledger"
            )
        sums += counts
        seen += Counter(record.key for record in records)
        _check_records(session, job, chunk, records, report)
    for status in (*COUNTED, "cancelled"):
        report.expect(getattr(job, status) == sums[status], f"{job.id} counts {status} otherwise than its ledgers")
    report.expect(at == job.total == view.done(job), f"{job.id}: {at}, {job.total}, {view.done(job)} images")
    missing, extra = Counter(keys) - seen, seen - Counter(keys)
    planned = job.status in (JobStatus.SUCCEEDED, JobStatus.PARTIAL)
    report.lost += missing.total() if planned else 0
    report.doubled += extra.total()
    report.expect(not (missing and planned) and not extra, f"{job.id}: missing {missing}, extra {extra}")
    report.images += at


def _records(chunk: tables.Chunk) -> list[ledger.Record]:
    if chunk.status == ChunkStatus.CANCELLED:
        assert chunk.manifest is not None
        return ledger.all_cancelled(chunk.manifest)
    return ledger.records(chunk.ledger) if chunk.ledger is not None else []


def _check_records(
    session: Session, job: tables.Job, chunk: tables.Chunk, records: Sequence[ledger.Record], report: Report
) -> None:
    for record in records:
        where = f"{record.key} of {job.id}"
        if record.status == ItemStatus.FAILED:
            report.expect(bool(record.code and record.detail), f"{where} failed without a reason")
        elif record.status in (ItemStatus.EMBEDDED, ItemStatus.REUSED):
            image = session.get(tables.Image, record.image_id or "")
            there = image is not None and (image.collection_id, image.key) == (job.collection_id, record.key)
            report.lost += not there
            report.expect(there, f"{where} is {record.status} and not in its collection")


def _check_collection(session: Session, collection: tables.Collection, report: Report) -> None:
    """Each image has one vector, the right one, and each vector one image."""
    images = 0
    for segment, rows in _segments(session, collection.id):
        where = f"segment {segment.id} of {collection.name}"
        [data] = blobs.whole(session, blobs.Kind.VECTORS, [(segment.blob, segment.data)])
        report.expect(vector_codec.checksum(data) == segment.checksum, f"{where} has a wrong checksum")
        matrix = vector_codec.decode(data, segment.dim, segment.dtype)
        report.expect(len(matrix) == segment.count, f"{where} has {len(matrix)} vectors for a count of {segment.count}")
        used = Counter(image.row for image in rows)
        idle = [row for row in range(segment.count) if row not in used]
        report.doubled += len(idle)
        report.expect(not idle, f"{where} has vectors of no image: {idle}")
        report.expect(max(used.values(), default=1) == 1, f"{where} has a vector of two images")
        for image in rows:
            right = image.row < len(matrix) and np.allclose(matrix[image.row], tiny.embedding(image.key), atol=1e-4)
            report.expect(right, f"{image.key} of {collection.name} has another picture's vector")
        images += len(rows)
    everything = session.scalar(sa.select(sa.func.count()).where(tables.Image.collection_id == collection.id))
    report.lost += (everything or 0) - images
    report.expect(everything == images, f"{collection.name} has images whose vector is nowhere")
    report.expect(collection.image_count == images, f"{collection.name} counts {collection.image_count}, not {images}")


def _segments(session: Session, collection_id: str) -> Iterator[tuple[tables.Segment, list[tables.Image]]]:
    query = sa.select(tables.Segment).options(undefer(tables.Segment.data)).filter_by(collection_id=collection_id)
    for segment in session.scalars(query.execution_options(yield_per=16)):
        images = sa.select(tables.Image).filter_by(segment_id=segment.id)
        # without any it was staged, and its worker killed before it named it: the sweep drops it when it is old
        if pointing := list(session.scalars(images)):
            yield segment, pointing
        session.expunge(segment)
