"""The sweep: it picks up what is left behind. One process of many does it, under a lock in SQL."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import sql, tables
from imagekin.enums import ChunkStatus, Lane
from imagekin.jobs import blame, end
from imagekin.maintenance import expiry
from imagekin.settings import Settings

Chunk = tables.Chunk

# How much one sweep does of a kind, so that its transactions stay short.
SLICE = 200
# More rings at once than any node has hands are no use: whoever finishes rings again.
MOST_RINGS = 8


@dataclass(frozen=True)
class Swept:
    """What a sweep found: rings for lanes with work that may have lost its own, paths of uploads that are gone."""

    lanes: dict[Lane, int]
    released: int
    paths: list[str]
    expired_jobs: int


def hold(session: Session, name: str, holder: str, lease_s: float) -> bool:
    """Take or renew the named lock for `lease_s` seconds; return whether `holder` has it now."""
    values = {"holder": holder, "until": sql.clock() + lease_s}
    insert = sql.insert(session, tables.Lock).values(name=name, **values)
    taken = session.execute(
        insert.on_conflict_do_update(
            index_elements=["name"],
            set_=values,
            where=sa.or_(tables.Lock.holder == holder, tables.Lock.until < sql.clock()),
        ).returning(tables.Lock.holder)
    ).first()
    return taken is not None


def sweep(session: Session, settings: Settings) -> Swept:
    """Make expired claims ready, isolate what was claimed too often, remove what is past its life.

    The caller rings the lanes and deletes the paths after the commit.
    """
    released = _release_expired(session, settings)
    expired = expire_jobs(session)
    paths = expire_uploads(session)
    _expire_page_sessions(session)
    lanes = {lane: count for lane in Lane if (count := _ready(session, lane))}
    return Swept(lanes, released, paths, expired)


def _ready(session: Session, lane: Lane) -> int:
    """Count the lane's ready chunks, up to MOST_RINGS: there may be a million."""
    some = sa.select(Chunk.seq).where(tables.OPEN_CHUNK, Chunk.lane == lane, Chunk.status == ChunkStatus.READY)
    return session.scalars(sa.select(sa.func.count()).select_from(some.limit(MOST_RINGS).subquery())).one()


def _release_expired(session: Session, settings: Settings) -> int:
    rows = session.execute(
        sa.select(Chunk.job_id, Chunk.seq, Chunk.attempt).where(tables.CLAIMED_CHUNK, expiry.lease_past()).limit(SLICE)
    ).all()
    for job_id, seq, attempt in rows:
        blame.blame(session, job_id, seq, f"claimed {attempt} times, never finished", settings, deaths=0)
    return len(rows)


def expire_jobs(session: Session) -> int:
    """Erase ledgers and results past their life; the job's own row stays, so that asking for them says why."""
    past = sa.select(tables.Job.id).where(expiry.job_past(), expiry.job_left_something())
    ids = session.scalars(past.limit(SLICE)).all()
    for id in ids:
        end.erase(session, id)
    return len(ids)


def _expire_page_sessions(session: Session) -> None:
    old = sa.select(tables.PageSession.digest).where(expiry.page_session_past()).limit(SLICE)
    session.execute(sa.delete(tables.PageSession).where(tables.PageSession.digest.in_(old)))


def expire_uploads(session: Session) -> list[str]:
    """Forget uploads that are old and that no living job names; return their storage paths."""
    Upload = tables.Upload
    old = sa.select(Upload.id).where(expiry.upload_past()).limit(SLICE)
    return list(session.scalars(sa.delete(Upload).where(Upload.id.in_(old)).returning(Upload.path)))
