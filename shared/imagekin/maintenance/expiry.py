"""What has expired: one rule for the sweep, which removes it, and the doctor, which looks for leftovers.

`late_s` counts only what expired at least this many seconds ago.
"""

from __future__ import annotations

import sqlalchemy as sa

from imagekin.database import sql, tables
from imagekin.enums import TERMINAL

Chunk, Collection, Job, Upload = tables.Chunk, tables.Collection, tables.Job, tables.Upload


def job_lives(late_s: float = 0) -> sa.ColumnElement[bool]:
    """Return the condition that a job's ledger and result must exist: unfinished, kept until deleted, or young."""
    return sa.or_(Job.expires_at.is_(None), Job.expires_at > sql.clock() - late_s)


def job_past(late_s: float = 0) -> sa.ColumnElement[bool]:
    """Return the condition that a job has ended and its ledger and result have expired."""
    return sa.and_(Job.status.in_(TERMINAL), Job.expires_at < sql.clock() - late_s)


def job_left_something() -> sa.ColumnElement[bool]:
    """Return the condition that a job has a ledger or a result."""
    return sa.or_(sa.exists().where(Chunk.job_id == Job.id), sa.exists().where(tables.ResultPart.job_id == Job.id))


def upload_past(late_s: float = 0) -> sa.ColumnElement[bool]:
    """Return the condition that an upload has expired and no unexpired job names it."""
    named = sa.exists().where(Job.upload_id == Upload.id, job_lives(late_s))
    return sa.and_(Upload.expires_at < sql.clock() - late_s, sa.not_(named))


def page_session_past() -> sa.ColumnElement[bool]:
    """Return the condition that a session of the web page has expired."""
    return tables.PageSession.expires_at < sql.clock()


def lease_past(late_s: float = 0) -> sa.ColumnElement[bool]:
    """Return the condition that a chunk's lease ran out."""
    return Chunk.lease_until < sql.clock() - late_s
