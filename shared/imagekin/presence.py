"""Which workers are alive: rows that processes keep fresh, so that a dead one's goes stale by itself."""

from __future__ import annotations

import socket

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import sql
from imagekin.database.tables import Worker
from imagekin.enums import Lane

HEARTBEAT_S = 10
# A worker that was heard of within three of its heartbeats lives.
LIVE_S = 3 * HEARTBEAT_S


def name(lane: Lane, pid: int) -> str:
    """Return the name of a process of a lane by its pid; a worker goes by the name of its parent process."""
    return f"{lane}.{pid}@{socket.gethostname()}"


def count(session: Session, lane: Lane) -> int:
    """Return how many workers of a lane were heard of in the last LIVE_S seconds."""
    live = Worker.seen_at > sql.clock() - LIVE_S
    return session.scalars(sa.select(sa.func.count(Worker.name)).where(Worker.lane == lane, live)).one()


def lives_here(session: Session) -> bool:
    """Return whether a worker of this host was heard of in the last LIVE_S seconds."""
    here = Worker.name.endswith(f"@{socket.gethostname()}", autoescape=True)
    live = sa.select(Worker.name).where(here, Worker.seen_at > sql.clock() - LIVE_S)
    return session.scalar(live.limit(1)) is not None


def appear(session: Session, name: str, lane: Lane, device: str) -> None:
    """Record that a worker is warm and takes work."""
    insert = sql.insert(session, Worker).values(name=name, lane=lane, device=device)
    session.execute(insert.on_conflict_do_update(index_elements=["name"], set_={"seen_at": sql.clock()}))


def refresh(session: Session, name: str) -> None:
    """Record that a worker which has appeared is still there."""
    session.execute(sa.update(Worker).where(Worker.name == name).values(seen_at=sql.clock()))


def vanish(session: Session, name: str) -> None:
    """Record that a worker is gone."""
    session.execute(sa.delete(Worker).where(Worker.name == name))
