"""Deletion of collections: a tombstone at once, then what they leave in slices, so that no transaction is long."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql, tables
from imagekin.enums import TERMINAL
from imagekin.jobs import end
from imagekin.maintenance import expiry
from imagekin.store import collections, segments

Collection, Image, Job = tables.Collection, tables.Image, tables.Job

ROWS_PER_SLICE = 500
# Each has a blob of some hundred KiB.
SEGMENTS_PER_SLICE = 64
# Whoever still polls a job of the collection learns how it ended.
JOBS_STAY_S = 24 * 3600.0


def delete(session: Session, owner: str, name: str) -> None:
    """Put a tombstone on the collection, which frees its name, and end its unfinished jobs.

    The sweep deletes the rest in slices. Raises CollectionNotFound.
    """
    collection = collections.get(session, owner, name)
    # jobs before the collection, as everywhere: rows are locked in one order
    end.cancel_collection(session, collection.id)
    gone = session.execute(
        sa.update(Collection)
        .where(Collection.id == collection.id, Collection.deleted_at.is_(None))
        .values(deleted_at=sql.clock(), revision=Collection.revision + 1)
        .returning(Collection.id)
        .execution_options(synchronize_session=False)
    ).scalar()
    if gone is None:
        raise errors.CollectionNotFound(f"There is no collection named {name!r}.")
    # once more: a job that was being submitted held the row that we have now
    end.cancel_collection(session, collection.id)


def pending(session: Session) -> list[str]:
    """Return the collections that are deleted and not gone."""
    return list(session.scalars(sa.select(Collection.id).where(Collection.deleted_at.is_not(None))))


def remove(session: Session, collection_id: str) -> bool:
    """Delete a slice of what a deleted collection holds; return whether there was something to delete.

    Images, vectors, ledgers and results go at once, the jobs' rows a day later, and with them the collection's row.
    """
    end.cancel_collection(session, collection_id)
    return (
        _expire(session, collection_id)
        or _images(session, collection_id)
        or _segments(session, collection_id)
        or _leftovers(session, collection_id)
        or _rest(session, collection_id)
    )


def _expire(session: Session, collection_id: str) -> bool:
    """End the lives of the collection's jobs, so that asking for their results says why they are gone."""
    living = sa.select(Job.id).where(
        Job.collection_id == collection_id,
        Job.status.in_(TERMINAL),
        expiry.job_lives(),
    )
    ids = session.scalars(living.limit(ROWS_PER_SLICE)).all()
    if ids:
        session.execute(
            sa.update(Job)
            .where(Job.id.in_(ids))
            .values(expires_at=sql.clock())
            .execution_options(synchronize_session=False)
        )
    return bool(ids)


def _images(session: Session, collection_id: str) -> bool:
    some = sa.select(Image.id).where(Image.collection_id == collection_id).limit(ROWS_PER_SLICE)
    ids = session.scalars(some).all()
    if ids:
        session.execute(sa.delete(Image).where(Image.id.in_(ids)))
    return bool(ids)


def _segments(session: Session, collection_id: str) -> bool:
    some = sa.select(tables.Segment.id).where(tables.Segment.collection_id == collection_id).limit(SEGMENTS_PER_SLICE)
    ids = session.scalars(some).all()
    segments.drop(session, ids)
    return bool(ids)


def _leftovers(session: Session, collection_id: str) -> bool:
    """Delete some of what the collection's jobs left behind but their own rows."""
    jobs = sa.select(Job.id).where(Job.collection_id == collection_id)
    for table in end.LEFTOVERS:
        keys = sa.inspect(table).primary_key
        some = session.execute(sa.select(*keys).where(table.job_id.in_(jobs)).limit(ROWS_PER_SLICE)).all()
        if some:
            these = sa.delete(table).where(sql.among(keys, some))
            session.execute(these, execution_options={"synchronize_session": False})
            return True
    return False


def _rest(session: Session, collection_id: str) -> bool:
    old = sa.select(Collection.id).where(
        Collection.id == collection_id, Collection.deleted_at < sql.clock() - JOBS_STAY_S
    )
    if session.scalar(old) is None:
        return False
    ids = session.scalars(sa.select(Job.id).where(Job.collection_id == collection_id).limit(ROWS_PER_SLICE)).all()
    if ids:
        session.execute(sa.delete(Job).where(Job.id.in_(ids)))
    else:
        session.execute(sa.delete(Collection).where(Collection.id == collection_id))
    return True
