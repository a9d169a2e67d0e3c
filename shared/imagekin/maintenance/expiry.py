"""What has expired: one rule for the sweep, which removes it, and the doctor, which looks for leftovers.

`late_s` counts only what expired at least this many seconds ago.
"""

from __future__ import annotations

import sqlalchemy as sa

from imagekin.database import sql, tables
from imagekin.enums import TERMINAL

Chunk, Collection, Image, Job, Segment, Upload = (
    tables.Chunk, tables.Collection, tables.Image, tables.Job, tables.Segment, tables.Upload
)  # fmt: skip

# From when blobs are staged until images point to them it takes milliseconds, and never longer than a lease that is
# renewed lasts: what is as old as this was left by a process that died.
STAGED_S = 3600.0


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


def segment_abandoned(late_s: float = 0) -> sa.ColumnElement[bool]:
    """Return the condition that no image points to a segment, and none will: it was staged long ago.

    Where images leave a segment, it goes in the same transaction. A staged one whose worker died waits here.
    """
    return sa.and_(
        Segment.created_at < sql.clock() - STAGED_S - late_s, sa.not_(sa.exists().where(Image.segment_id == Segment.id))
    )


def lease_past(late_s: float = 0) -> sa.ColumnElement[bool]:
    """Return the condition that a chunk's lease ran out."""
    return Chunk.lease_until < sql.clock() - late_s
