"""Planning: what a job's source lists becomes chunks, a few at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql
from imagekin.database.tables import CHUNKS, PLANNED_KEYS
from imagekin.enums import ChunkStatus, ItemStatus, JobStatus, Lane
from imagekin.jobs import checkpoint, end, fence
from imagekin.jobs.claim import Claim
from imagekin.store import ledger

IGNORED_CODE = "ignored"
"""What stands in the place of an error's code where a file was ignored."""

TOLD_IGNORED = 100
"""Of how many ignored files, the first ones, a job keeps the names and the reasons."""

# A statement with a list takes a third of the time that one with its rows takes to be made.
_NOTE_POSTGRESQL = sa.text(
    "INSERT INTO planned_keys (job_id, digest) SELECT :job_id, digest"
    " FROM unnest(CAST(:digests AS bytea[])) AS given (digest) ON CONFLICT DO NOTHING RETURNING digest"
)
_FORGET_KEYS = sa.delete(PLANNED_KEYS).where(PLANNED_KEYS.c.job_id == sa.bindparam("claim_job"))
_TOLD = sa.select(CHUNKS.c.ledger).where(*fence.PLACE)
_TELL = sa.update(CHUNKS).where(*fence.PLACE).values(ledger=sa.bindparam("records"))


def add(
    session: Session,
    claim: Claim,
    pieces: Sequence[Sequence[dict[str, Any]]],
    *,
    ignored: int,
    cursor: Any,
    finished: bool,
    told: Sequence[tuple[str, str]] = (),
) -> int:
    """Add chunks of entries (see imagekin.store.ledger) to the job and keep the source's cursor; return how many.

    `told` has names and reasons of the `ignored`, in their order. The second entry of a key fails as a duplicate. With
    `finished` the planning ends, and with it a job that has nothing left to do. Raises LeaseLost.
    """
    changes: dict[str, Any] = {"state": ledger.pack(cursor)}
    if not finished and checkpoint.kept(session, claim) == changes["state"]:  # our own commit whose answer got lost
        return len(pieces)
    if finished:
        changes |= {"status": ChunkStatus.DONE, "lease_until": None}
    job = fence.hold(session, claim, **changes)
    marked = iter(_mark_duplicates(session, claim.job_id, [entry for piece in pieces for entry in piece]))
    chunks: list[dict[str, Any]] = []
    for piece in pieces:
        chunks.append(
            {
                "job_id": claim.job_id,
                "seq": job.total,
                "kind": job.kind,
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
    if told:
        _tell(session, claim, told)
    if finished:
        job.planned = True
        if job.status == JobStatus.PLANNING:
            job.status = JobStatus.RUNNING
        session.execute(_FORGET_KEYS, {"claim_job": claim.job_id})
        end.settle(session, job)
    session.flush()
    return len(pieces)


def _tell(session: Session, claim: Claim, told: Sequence[tuple[str, str]]) -> None:
    """Keep names and reasons of ignored files in the planning's own ledger, as far as there is room."""
    place = {"claim_job": claim.job_id, "claim_seq": claim.seq}
    before = session.scalar(_TOLD, place)
    records = ledger.records(before) if before else []
    more = [ledger.Record(key, ItemStatus.IGNORED, None, IGNORED_CODE, reason) for key, reason in told]
    if more := more[: TOLD_IGNORED - len(records)]:
        session.execute(_TELL, {**place, "records": ledger.pack([*records, *more])})


def _mark_duplicates(session: Session, job_id: str, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    digests = [
        hashlib.blake2b(entry["key"].encode("utf-8", "surrogatepass"), digest_size=16).digest() for entry in entries
    ]
    # in order, so that each page of the index is touched once
    fresh = _note(session, job_id, sorted(set(digests))) if digests else set()
    marked = []
    for entry, digest in zip(entries, digests, strict=True):
        if digest not in fresh and not entry.get("error"):
            marked.append({**entry, "error": [errors.DuplicateKey.code, "The same key came earlier in this job."]})
        else:
            marked.append(entry)
        fresh.discard(digest)
    return marked


def _note(session: Session, job_id: str, digests: list[bytes]) -> set[bytes]:
    """Note keys by their digests, and return those that the job did not have before."""
    if session.get_bind().dialect.name == "postgresql":
        return set(map(bytes, session.scalars(_NOTE_POSTGRESQL, {"job_id": job_id, "digests": digests})))
    insert = sql.insert(session, PLANNED_KEYS).on_conflict_do_nothing().returning(PLANNED_KEYS.c.digest)
    # rows beside the statement, not in it: one with its rows would be compiled anew for each number of them
    return set(session.scalars(insert, [{"job_id": job_id, "digest": digest} for digest in digests]))
