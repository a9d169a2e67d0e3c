"""Forgetting: rows of images that were deleted long ago, with segments of which nothing is left."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import sql, tables
from imagekin.maintenance import expiry
from imagekin.schemas.kinds import STORING
from imagekin.store import segments

Collection, Image, Job, Segment = tables.Collection, tables.Image, tables.Job, tables.Segment

# Resident matrices that are older than this read their collection anew; younger ones catch up.
FORGET_S = 3600.0
FORGET_SLICE = 500


def forgettable(session: Session) -> list[str]:
    """Return the collections that have images whose deletion is past its life."""
    return list(
        session.scalars(
            sa.select(Image.collection_id)
            .join(Collection, Collection.id == Image.collection_id)
            .where(Image.deleted_at < sql.clock() - FORGET_S, Collection.deleted_at.is_(None))
            .distinct()
        )
    )


def abandoned(session: Session, since: float) -> tuple[float, list[tuple[str, str]]]:
    """Return (collection, segment) of the segments that were staged after `since`, and to which no image will point.

    With them comes the time, of the database's clock, that the next look begins at: without it each would go through
    all segments.
    """
    now = session.scalars(sa.select(sql.clock())).one()
    rows = sa.select(Segment.collection_id, Segment.id).join(Collection, Collection.id == Segment.collection_id)
    mine = rows.where(Collection.deleted_at.is_(None), Segment.created_at > since, expiry.segment_abandoned())
    return now - expiry.STAGED_S, [(collection_id, id) for collection_id, id in session.execute(mine)]


def drop_abandoned(session: Session, collection_id: str, segment_id: str) -> int:
    """Drop a segment if no image points to it; return whether that was so, as a number. Raises CollectionDeleted."""
    segments.lock(session, collection_id)
    return segments.drop_unused(session, [segment_id])


def forget(session: Session, collection_id: str) -> int:
    """Delete some rows of images that were deleted long ago, with segments of which nothing is left; return how many.

    A row stays for an hour, and for as long as the ledger of a job that may have stored the image: so a ledger's
    image that is not there was lost. Raises CollectionDeleted.
    """
    collection = segments.lock(session, collection_id)
    clock = session.scalars(sa.select(sql.clock())).one()
    named_since = session.scalar(
        sa.select(sa.func.min(Job.created_at)).where(
            Job.collection_id == collection_id,
            Job.kind.in_(STORING),
            expiry.job_lives(),
        )
    )
    before = min(clock - FORGET_S, clock if named_since is None else named_since)
    gone = session.execute(
        sa.select(Image.id, Image.segment_id, Image.revision)
        .where(Image.collection_id == collection_id, Image.deleted_at < before)
        .limit(FORGET_SLICE)
    ).all()
    if not gone:
        return 0
    collection.pruned_revision = max(collection.pruned_revision, *(image.revision for image in gone))
    session.execute(sa.delete(Image).where(Image.id.in_([image.id for image in gone])))
    segments.drop_unused(session, {image.segment_id for image in gone})
    return len(gone)
