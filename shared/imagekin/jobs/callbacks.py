"""Webhooks of ended jobs: written with the end itself, sent under leases until they arrive or a day is over.

A delivery is sent at least once. If a sender dies before it records the delivery, its lease runs out; the next one
sends the same message under the same id, by which receivers recognize it.
"""

from __future__ import annotations

import http
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import schemas
from imagekin.database import sql, tables
from imagekin.jobs.view import views

Delivery = tables.Delivery

# How long after each failure the next attempt comes: about a day in all.
DELAYS_S = (5, 30, 2 * 60, 10 * 60, 3600, 6 * 3600, 6 * 3600, 10 * 3600)
# Attempts that failed together should not come again together.
JITTER = 0.1
# Well above what sending takes.
LEASE_S = 60.0
# How many of one owner's are sent at once, by whomever: a receiver that hangs must leave hands for the others.
MOST_PER_OWNER = 3


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True)
class Errand:
    """A message that is ours to send; `sent_at` is the database's clock, for a worker's own may be wrong."""

    job_id: str
    claimed_by: str
    url: str
    body: str
    sent_at: float

    @property
    def message_id(self) -> str:
        """Its id, the same in every attempt: a job ends once."""
        return f"msg_{self.job_id}"


def add(session: Session, job: tables.Job) -> None:
    """Write the delivery of a job that ends in this transaction, where it has a callback."""
    if job.callback_url is not None:
        session.add(Delivery(job_id=job.id, owner=job.owner, status=DeliveryStatus.PENDING))


def due(session: Session) -> bool:
    """Return whether there is something to send."""
    return session.scalar(sa.select(Delivery.job_id).where(tables.PENDING_DELIVERY, _due()).limit(1)) is not None


def claim(session: Session, claimed_by: str, most: int) -> list[Errand]:
    """Take up to `most` messages to send, in turns between owners. `claimed_by` must be new for each claim."""
    place = sa.func.row_number().over(
        partition_by=Delivery.owner, order_by=(sa.case((_free(), 1), else_=0), Delivery.next_at)
    )
    pending = sa.select(Delivery.job_id, Delivery.next_at, _free().label("free"), place.label("place"))
    ranked = pending.where(tables.PENDING_DELIVERY, Delivery.next_at <= sql.clock()).subquery()
    chosen = sa.select(ranked.c.job_id).where(ranked.c.free, ranked.c.place <= MOST_PER_OWNER)
    ids = session.scalars(chosen.order_by(ranked.c.place, ranked.c.next_at).limit(most)).all()
    # whoever else chose the same has committed by the time our update sees the row, and it is free no more
    taken = session.scalars(
        sa.update(Delivery)
        .where(Delivery.job_id.in_(ids), tables.PENDING_DELIVERY, _due())
        .values(claimed_by=claimed_by, lease_until=sql.clock() + LEASE_S)
        .returning(Delivery.job_id)
        .execution_options(synchronize_session=False)
    ).all()
    return _errands(session, claimed_by, taken)


def _free() -> sa.ColumnElement[bool]:
    return sa.or_(Delivery.lease_until.is_(None), Delivery.lease_until < sql.clock())


def _due() -> sa.ColumnElement[bool]:
    return sa.and_(Delivery.next_at <= sql.clock(), _free())


def _errands(session: Session, claimed_by: str, job_ids: Sequence[str]) -> list[Errand]:
    if not job_ids:
        return []
    clock = session.scalars(sa.select(sql.clock())).one()
    jobs = session.scalars(sa.select(tables.Job).where(tables.Job.id.in_(job_ids))).all()
    return [
        Errand(job.id, claimed_by, job.callback_url, _body(view), clock)
        for job, view in zip(jobs, views(session, jobs), strict=True)
        if job.callback_url is not None
    ]


def _body(job: schemas.Job) -> str:
    data = job.model_dump(mode="json")
    # the same in every attempt, so the time is that of the event; when it was sent, the signed header says
    message = {"type": f"job.{job.status}", "timestamp": data["finished_at"], "data": data}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def note(session: Session, errand: Errand, status_code: int | None, error: str | None) -> DeliveryStatus | None:
    """Record how an attempt went, and when the next one is; None if another sender has the message by now."""
    row = session.get(Delivery, errand.job_id, with_for_update=True)
    if row is None or row.claimed_by != errand.claimed_by:
        return None
    row.attempts = [*row.attempts, {"at": errand.sent_at, "status_code": status_code, "error": error}]
    row.claimed_by = row.lease_until = None
    if error is None:
        row.status = DeliveryStatus.DELIVERED
    elif len(row.attempts) > len(DELAYS_S) or status_code == http.HTTPStatus.GONE:
        row.status = DeliveryStatus.GIVEN_UP
    else:
        delay_s = DELAYS_S[len(row.attempts) - 1] * random.uniform(1, 1 + JITTER)
        row.next_at = session.scalars(sa.select(sql.clock() + delay_s)).one()
    session.flush()
    return DeliveryStatus(row.status)


def attempts(session: Session, job: tables.Job) -> list[schemas.Attempt] | None:
    """Return how the attempts at the job's webhook went, the first one first; None if it has no callback."""
    if job.callback_url is None:
        return None
    row = session.get(Delivery, job.id)
    return [
        schemas.Attempt(at=sql.moment(each["at"]), status_code=each["status_code"], error=each["error"])
        for each in (row.attempts if row is not None else ())
    ]
