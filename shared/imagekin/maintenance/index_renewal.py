"""Renewal of indexes: one that its collection has outgrown is built again by a job, as a client might ask for it."""

from __future__ import annotations

from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import tables
from imagekin.enums import IndexMethod, IndexStatus
from imagekin.jobs import submit
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from imagekin.store import indexes

Collection, VectorIndex = tables.Collection, tables.VectorIndex

# Images that came since: to add them one by one takes longer than to build the graph again.
LEAST_BEHIND, SHARE_BEHIND = 10_000, 4
# Times that a collection has grown: its mean is another one then, and the graph was made around the old one.
GROWN = 2


def renew(session: Session, settings: Settings) -> int:
    """Submit a job for each index that is overdue, once in its life; return how many those were."""
    submitted = 0
    for collection, index_id in _overdue(session):
        job = submit.Submission(
            owner=collection.owner,
            kind=JobKind.INDEX,
            collection_id=collection.id,
            space_id=collection.space_id,
            params={"index": IndexMethod.HNSW.value},
            # an end that somebody wanted, or that would come again, is left as it is
            idempotency_key=f"renewal of {index_id}",
            idempotency_digest=index_id,
        )
        # no room for it, or the collection goes: the next sweep sees
        with suppress(errors.QuotaExceeded, errors.Backlog, errors.CollectionNotFound):
            submitted += submit.submit(session, job, settings)[1]
    return submitted


def _overdue(session: Session) -> list[tuple[tables.Collection, str]]:
    if session.get_bind().dialect.name != "postgresql":
        return []
    mine = sa.select(Collection, VectorIndex.id).join(VectorIndex, VectorIndex.collection_id == Collection.id)
    used = mine.where(VectorIndex.status == IndexStatus.READY, Collection.deleted_at.is_(None))
    return [(collection, id) for collection, id in session.execute(used) if _outgrown(session, collection)]


def _outgrown(session: Session, collection: tables.Collection) -> bool:
    index = indexes.ready(session, collection.id)
    if index is None:
        return False
    most = max(LEAST_BEHIND, index.images // SHARE_BEHIND)
    grown = collection.image_count >= GROWN * max(index.images, LEAST_BEHIND)
    return grown or indexes.behind(session, index, most + 1) > most
