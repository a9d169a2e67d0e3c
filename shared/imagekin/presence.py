"""Which workers are alive: rows that processes keep fresh, so that a dead one's goes stale by itself."""

from __future__ import annotations

import socket

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import sql
from imagekin.database.tables import Worker
from imagekin.enums import Lane


def name(lane: Lane, pid: int) -> str:
    """Return the name of the worker of a lane whose parent process has this pid."""
    return f"{lane}.{pid}@{socket.gethostname()}"


def appear(session: Session, name: str, lane: Lane, device: str) -> None:
    """Say that a worker is warm and takes work."""
    insert = sql.insert(session, Worker).values(name=name, lane=lane, device=device)
    session.execute(insert.on_conflict_do_update(index_elements=["name"], set_={"seen_at": sql.clock()}))


def refresh(session: Session, name: str) -> None:
    """Say that a worker which has appeared is still there."""
    session.execute(sa.update(Worker).where(Worker.name == name).values(seen_at=sql.clock()))


def vanish(session: Session, name: str) -> None:
    """Say that a worker is gone."""
    session.execute(sa.delete(Worker).where(Worker.name == name))
