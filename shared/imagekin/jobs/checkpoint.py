"""Checkpoints: how far a chunk is, kept for the next claimant."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import tables
from imagekin.jobs import fence
from imagekin.jobs.claim import Claim
from imagekin.store import ledger

Chunk = tables.Chunk


def keep(session: Session, claim: Claim, state: bytes, fraction: float) -> None:
    """Save how far a long chunk is, for the next claimant, and show it as the job's progress (0 to 1).

    Raises LeaseLost.
    """
    job = fence.hold(session, claim, state=state)
    job.fraction = fraction


def kept(session: Session, claim: Claim) -> bytes | None:
    """Return what `keep` kept last, or the planning's packed cursor; None at the start."""
    return session.scalar(sa.select(Chunk.state).filter_by(job_id=claim.job_id, seq=claim.seq))


def unpacked(session: Session, claim: Claim) -> Any:
    """Return what was kept last as JSON, or None."""
    packed = kept(session, claim)
    return None if packed is None else ledger.unpack(packed)
