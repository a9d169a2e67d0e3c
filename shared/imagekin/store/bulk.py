"""Changes of many images at once: chosen by ids, by keys or by a filter, given metadata or deleted.

Ids and keys are few enough for one transaction. What a filter chooses may be all of a large collection, so it is walked
in the order of ids, a slice a transaction, and workers get to write between two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors, schemas
from imagekin.database import sql, tables
from imagekin.database.engine import Database
from imagekin.store import collections, filters, images

Image = tables.Image

ROWS_PER_SLICE = 10_000

# Changes the images with these ids under the lock of their collection, and returns their number.
Change = Callable[[Session, tables.Collection, Sequence[str]], int]


def annotate(database: Database, owner: str, name: str, chosen: schemas.ImagesBody, metadata: dict[str, Any]) -> int:
    """Merge `metadata` into that of the images, null removing a field, and return the number of images.

    Raises CollectionNotFound, ImageNotFound, InvalidKey, and InvalidRequest where an image would have too much of it.
    """
    return sum(_changes(database, owner, name, chosen, partial(merge, metadata=metadata)))


def delete(database: Database, owner: str, name: str, chosen: schemas.ImagesBody) -> int:
    """Mark the images as deleted and return their number; raises CollectionNotFound, ImageNotFound, InvalidKey."""
    return sum(_changes(database, owner, name, chosen, _delete))


def _changes(database: Database, owner: str, name: str, chosen: schemas.ImagesBody, change: Change) -> Iterator[int]:
    if chosen.filter is None:
        yield database.write(_change_named, owner, name, chosen, change)
        return
    after: str | None = ""
    while after is not None:
        changed, after = database.write(_change_slice, owner, name, chosen.filter, after, change)
        yield changed


def _change_named(session: Session, owner: str, name: str, chosen: schemas.ImagesBody, change: Change) -> int:
    collection = collections.get(session, owner, name)
    if chosen.image_ids is not None:
        ids = images.all_by_id(session, collection, chosen.image_ids)
    else:
        ids = images.all_by_key(session, collection, chosen.image_keys or [])
    return change(session, collection, ids) if ids else 0


def _change_slice(
    session: Session, owner: str, name: str, wanted: dict[str, Any], after: str, change: Change
) -> tuple[int, str | None]:
    """Change what the filter wants among the next images; return the number, and where to continue, None at the end."""
    collection = collections.get(session, owner, name)
    rows = sa.select(Image.id, Image.metadata_).where(Image.collection_id == collection.id, Image.deleted_at.is_(None))
    some = session.execute(rows.where(Image.id > after).order_by(Image.id).limit(ROWS_PER_SLICE)).all()
    ids = [row.id for row in some if filters.matches(row.metadata_, wanted)]
    return change(session, collection, ids) if ids else 0, some[-1].id if len(some) == ROWS_PER_SLICE else None


def merge(session: Session, collection: tables.Collection, ids: Sequence[str], metadata: dict[str, Any]) -> int:
    """Merge `metadata` into that of the images with these ids, and return the number of those that are there.

    Raises InvalidRequest if an image would have too much of it.
    """
    collections.touch(session, collection.id)
    count = 0
    for some in sql.batches(ids):
        found = session.execute(
            sa.select(Image.id, Image.key, Image.metadata_).where(_live(some)).order_by(Image.id)
        ).all()
        rows = [{"id": row.id, "metadata_": _merged(row.key, row.metadata_, metadata)} for row in found]
        if rows:
            session.execute(sa.update(Image), rows)
        count += len(rows)
    return count


def _merged(key: str, there: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    both = {**there, **given}.items()
    merged = {name: value for name, value in both if value is not None or name not in given}
    if (size := schemas.json_bytes(merged)) > schemas.MAX_METADATA_BYTES:
        detail = f"{key!r} would have {size:,} bytes of metadata; at most {schemas.MAX_METADATA_BYTES:,} are allowed."
        raise errors.InvalidRequest(detail, errors=[{"pointer": "/metadata", "detail": detail}])
    return merged


def _delete(session: Session, collection: tables.Collection, ids: Sequence[str]) -> int:
    revision = collections.touch(session, collection.id)
    count = 0
    for some in sql.batches(ids):
        gone = sa.update(Image).where(_live(some)).values(deleted_at=sql.clock(), revision=revision).returning(Image.id)
        count += len(session.execute(gone.execution_options(synchronize_session=False)).all())
    fewer = sa.update(tables.Collection).where(tables.Collection.id == collection.id)
    session.execute(
        fewer.values(image_count=tables.Collection.image_count - count).execution_options(synchronize_session=False)
    )
    return count


def _live(ids: Sequence[str]) -> sa.ColumnElement[bool]:
    return sa.and_(Image.id.in_(ids), Image.deleted_at.is_(None))
