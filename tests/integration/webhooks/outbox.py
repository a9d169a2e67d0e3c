"""Deliveries as the database has them."""

from __future__ import annotations

import time

import sqlalchemy as sa
from archive import Archive

from imagekin import jobs, models
from imagekin.db import Database
from imagekin.jobs import deliveries
from imagekin.jobs.deliveries import Errand
from imagekin.types import JobKind


def ended(archive: Archive, url: str | None) -> str:
    """Return the id of a job that was cancelled."""
    job = archive.submit(kind=JobKind.SEARCH, callback_url=url)
    archive.database.write(jobs.cancel, archive.owner, job.id)
    return job.id


def row(database: Database, job_id: str) -> models.Delivery | None:
    return database.read(lambda session: session.get(models.Delivery, job_id))


def wait_for(database: Database, job_id: str, *, attempts: int, timeout_s: float = 20) -> models.Delivery:
    deadline = time.monotonic() + timeout_s
    while (found := row(database, job_id)) is None or len(found.attempts) < attempts:
        assert time.monotonic() < deadline, found and found.attempts
        time.sleep(0.02)
    return found


def pass_time(database: Database, seconds: float) -> None:
    """Let the deliveries be as they would be later."""
    Delivery = models.Delivery
    later = {"next_at": Delivery.next_at - seconds, "lease_until": Delivery.lease_until - seconds}
    database.write(lambda session: session.execute(sa.update(Delivery).values(**later)))


def claim(database: Database, most: int = 1) -> list[Errand]:
    return database.write(deliveries.claim, models.new_id(), most)
