"""The fence: what a worker writes goes through only while its claim still holds."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import tables
from imagekin.database.tables import CHUNKS
from imagekin.enums import TERMINAL, ChunkStatus
from imagekin.jobs import end
from imagekin.jobs.claim import Claim

# The chunk of a claim, and the same while the claim still holds, by the parameters that `names` gives.
PLACE = (CHUNKS.c.job_id == sa.bindparam("claim_job"), CHUNKS.c.seq == sa.bindparam("claim_seq"))
MINE = (
    *PLACE,
    CHUNKS.c.claimed_by == sa.bindparam("claim_by"),
    CHUNKS.c.attempt == sa.bindparam("claim_attempt"),
)


def names(claim: Claim) -> dict[str, Any]:
    """Return the parameters of MINE for a claim."""
    return {
        "claim_job": claim.job_id,
        "claim_seq": claim.seq,
        "claim_by": claim.claimed_by,
        "claim_attempt": claim.attempt,
    }


def job_of(session: Session, claim: Claim) -> tables.Job:
    """Return the job of a claim; raises LeaseLost if it was deleted since, which takes a cancelled one."""
    job = session.get(tables.Job, claim.job_id)
    if job is None:
        raise errors.LeaseLost()
    return job


def hold(session: Session, claim: Claim, **changes: Any) -> tables.Job:
    """Lock the job, write `changes` to the claimed chunk and return the job.

    Raises LeaseLost, which rolls everything back, where the chunk is no longer ours.
    """
    job = end.lock(session, claim.job_id)
    if job is None or job.status in TERMINAL:
        raise errors.LeaseLost()
    ours = (
        sa.update(CHUNKS)
        .where(*MINE, CHUNKS.c.status == ChunkStatus.CLAIMED)
        .values(**(changes or {"attempt": CHUNKS.c.attempt}))
        .returning(CHUNKS.c.seq)
    )
    if session.execute(ours, names(claim)).first() is None:
        raise errors.LeaseLost()
    return job
