"""Deliveries as the database has them."""

from __future__ import annotations

import sqlalchemy as sa

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.jobs import callbacks, end
from imagekin.jobs.callbacks import Errand
from imagekin.schemas.kinds import JobKind
from kit.hand import Hand
from kit.patience import until


def ended(hand: Hand, url: str | None) -> str:
    """Return the id of a job that was cancelled."""
    job = hand.submit(kind=JobKind.SEARCH, callback_url=url)
    hand.database.write(end.cancel, hand.owner, job.id)
    return job.id


def row(database: Database, job_id: str) -> tables.Delivery | None:
    return database.read(lambda session: session.get(tables.Delivery, job_id))


def wait_for(database: Database, job_id: str, *, attempts: int) -> tables.Delivery:
    """Wait until so many attempts are noted, and return the delivery."""

    def noted() -> tables.Delivery | None:
        found = row(database, job_id)
        return found if found and len(found.attempts) >= attempts else None

    return until(noted, f"{attempts} attempts")


def pass_time(database: Database, seconds: float) -> None:
    """Let the deliveries be as they would be later."""
    Delivery = tables.Delivery
    later = {"next_at": Delivery.next_at - seconds, "lease_until": Delivery.lease_until - seconds}
    database.write(lambda session: session.execute(sa.update(Delivery).values(**later)))


def claim(database: Database, most: int = 1) -> list[Errand]:
    return database.write(callbacks.claim, tables.new_id(), most)
