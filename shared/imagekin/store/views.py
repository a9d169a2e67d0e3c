"""The view that a collection is searched in, kept in SQL so that all workers compute the same scores."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import sql, tables

CollectionView = tables.CollectionView


def kept(session: Session, collection_id: str) -> bytes | None:
    """Return the collection's view as it was saved, None without one."""
    return session.scalar(sa.select(CollectionView.data).where(CollectionView.collection_id == collection_id))


def keep(session: Session, collection_id: str, saved: bytes, instead_of: bytes | None) -> bytes:
    """Keep a view instead of the one that was seen; return it, or the one that another worker kept meanwhile.

    It is returned as well if the collection was deleted, for a search in progress.
    """
    collection = sa.select(tables.Collection.id).where(tables.Collection.id == collection_id)
    if session.scalar(collection.with_for_update(read=True)) is None:
        return saved
    row = {"collection_id": collection_id, "data": saved}
    session.execute(sql.insert(session, CollectionView).values(**row).on_conflict_do_nothing())
    if instead_of is not None:
        seen = sa.and_(CollectionView.collection_id == collection_id, CollectionView.data == instead_of)
        session.execute(
            sa.update(CollectionView)
            .where(seen)
            .values(data=saved, created_at=sql.clock())
            .execution_options(synchronize_session=False)
        )
    return kept(session, collection_id) or saved
