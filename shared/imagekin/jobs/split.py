"""Chunks in two: where one broke its worker, and where it is more than its worker does in time."""

from __future__ import annotations

from sqlalchemy.orm import Session, undefer

from imagekin.database import tables
from imagekin.enums import ChunkStatus
from imagekin.jobs import fence
from imagekin.jobs.claim import Claim
from imagekin.store import ledger


def split(session: Session, chunk: tables.Chunk, size: int, *, deaths: int) -> None:
    """Leave the first `size` entries in a chunk's row and put the rest, ready, into a row of its own.

    A chunk's number is that of its first image, so the order stays. `deaths` are the rest's.
    """
    assert chunk.manifest is not None
    entries = ledger.unpack(chunk.manifest)
    session.add(
        tables.Chunk(
            job_id=chunk.job_id,
            seq=chunk.seq + size,
            kind=chunk.kind,
            lane=chunk.lane,
            owner=chunk.owner,
            collection_id=chunk.collection_id,
            space_id=chunk.space_id,
            status=ChunkStatus.READY,
            size=len(entries) - size,
            deaths=deaths,
            manifest=ledger.pack(entries[size:]),
        )
    )
    chunk.manifest = ledger.pack(entries[:size])
    chunk.size = size


def keep(session: Session, claim: Claim, size: int) -> None:
    """Keep the first `size` images of a claimed chunk, and leave the rest to others. Raises LeaseLost."""
    fence.hold(session, claim)
    chunk = session.get_one(
        tables.Chunk, (claim.job_id, claim.seq), options=[undefer(tables.Chunk.manifest)], populate_existing=True
    )
    if chunk.size > size:  # else our own commit, whose answer got lost
        split(session, chunk, size, deaths=chunk.deaths)
