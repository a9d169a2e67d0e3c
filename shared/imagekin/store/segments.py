"""Where vectors stand: immutable segments, and the images that point into them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql, tables
from imagekin.database.tables import COLLECTIONS, IMAGES, SEGMENTS, THUMBNAILS
from imagekin.enums import ItemStatus, OnConflict
from imagekin.store import reuse, thumbnails, vector_codec
from imagekin.store.ledger import Record

# What each chunk runs is made once, of tables rather than classes: making a statement costs several times what
# running it does, and the session would make an object's worth of each row.
_HEAD = (
    sa.select(COLLECTIONS.c.revision, COLLECTIONS.c.dtype)
    .where(COLLECTIONS.c.id == sa.bindparam("collection"), COLLECTIONS.c.deleted_at.is_(None))
    .with_for_update()
)
_GROW = (
    sa.update(COLLECTIONS)
    .where(COLLECTIONS.c.id == sa.bindparam("collection"))
    .values(revision=COLLECTIONS.c.revision + 1, image_count=COLLECTIONS.c.image_count + sa.bindparam("added"))
)
_ADD_IMAGES, _ADD_SEGMENT, _ADD_THUMBNAILS = map(sa.insert, (IMAGES, SEGMENTS, THUMBNAILS))


@dataclass
class Item:
    """One image of a chunk, on its way into the collection.

    Either `error` is set, or `known` (there is nothing to write), or `vector` ((dim,) float32) with what belongs to
    it; `reused` says that the vector is a copy.
    """

    key: str
    metadata: dict[str, Any] | None = None
    error: tuple[str, str] | None = None
    known: Record | None = None
    vector: vector_codec.Vectors | None = None
    reused: bool = False
    content_hash: str = ""
    width: int | None = None
    height: int | None = None
    format: str | None = None
    nbytes: int | None = None
    thumbnail: bytes | None = None


def store(session: Session, collection_id: str, items: Sequence[Item], on_conflict: OnConflict) -> list[Record]:
    """Write a chunk's images into the collection, as one segment, and return what became of each.

    The collection's row is locked, so what was looked up before is looked up again: another job may have stored the key
    since. Raises CollectionDeleted.
    """
    head = session.execute(_HEAD, {"collection": collection_id}).first()
    if head is None:
        raise errors.CollectionDeleted()
    looked_up = [item.key for item in items if item.vector is not None or item.metadata is not None]
    here = reuse.by_key(session, collection_id, looked_up)
    segment_id = tables.new_id()
    revision = head.revision + 1
    records: list[Record] = []
    rows: list[Item] = []
    inserts: list[dict[str, Any]] = []
    updates: list[tuple[str, dict[str, Any]]] = []
    for item in items:
        image = here.get(item.key)
        record = _settled(item, image, on_conflict)
        if record is None:
            values = _pointing(item, segment_id, len(rows), revision)
            rows.append(item)
            if image is None:
                id = tables.new_id()
                metadata = item.metadata or {}
                inserts.append(
                    values | {"id": id, "collection_id": collection_id, "key": item.key, "metadata": metadata}
                )
            else:
                id = image.id
                updates.append((id, values if item.metadata is None else values | {"metadata": item.metadata}))
            record = Record(item.key, ItemStatus.REUSED if item.reused else ItemStatus.EMBEDDED, id)
        elif record.status == ItemStatus.REUSED and record.image_id and _annotates(item, image):
            updates.append((record.image_id, {"metadata": item.metadata}))
        records.append(record)
    if rows:
        _write(session, collection_id, head.dtype, segment_id, rows)
    left = {image.segment_id for image in here.values()}
    if inserts:
        session.execute(_ADD_IMAGES, inserts)
    _update(session, updates)
    if rows:
        drop_unused(session, left)
    if inserts or updates:
        session.execute(_GROW, {"collection": collection_id, "added": len(inserts)})
    return records


def _update(session: Session, updates: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Write the values of some images by id, one statement for all that change the same columns."""
    alike: dict[frozenset[str], list[dict[str, Any]]] = {}
    for id, values in updates:
        alike.setdefault(frozenset(values), []).append({"image_id": id, **values})
    for rows in alike.values():
        # a deleted image stays deleted
        live = sa.update(IMAGES).where(IMAGES.c.id == sa.bindparam("image_id"), IMAGES.c.deleted_at.is_(None))
        session.execute(live, rows)


def _annotates(item: Item, image: sa.Row | None) -> bool:
    return item.metadata is not None and (image is None or image.metadata != item.metadata)


def _settled(item: Item, image: sa.Row | None, on_conflict: OnConflict) -> Record | None:
    """Return what becomes of an item that needs no row in the segment, else None."""
    if item.error is not None:
        return Record(item.key, ItemStatus.FAILED, None, *item.error)
    if item.known is not None:
        return item.known
    if image is None:
        return None
    if image.content_hash == item.content_hash:
        return Record(item.key, ItemStatus.REUSED, image.id)
    return None if on_conflict == OnConflict.REPLACE else reuse.refusal(item.key, image.id, on_conflict)


def _pointing(item: Item, segment_id: str, row: int, revision: int) -> dict[str, Any]:
    return {
        "content_hash": item.content_hash,
        "width": item.width,
        "height": item.height,
        "format": item.format,
        "nbytes": item.nbytes,
        "segment_id": segment_id,
        "row": row,
        "revision": revision,
    }


def lock(session: Session, collection_id: str) -> tables.Collection:
    """Return the collection with its row locked, for a change of its revision; raises CollectionDeleted."""
    collection = session.get(tables.Collection, collection_id, with_for_update=True, populate_existing=True)
    if collection is None or collection.deleted_at is not None:
        raise errors.CollectionDeleted()
    return collection


def _write(session: Session, collection_id: str, dtype: str, segment_id: str, items: Sequence[Item]) -> None:
    matrix = np.stack([item.vector for item in items if item.vector is not None])
    data = vector_codec.encode(matrix, dtype)
    segment = {
        "id": segment_id,
        "collection_id": collection_id,
        "count": len(items),
        "dim": matrix.shape[1],
        "dtype": dtype,
        "checksum": vector_codec.checksum(data),
        "data": data,
    }
    session.execute(_ADD_SEGMENT, segment)
    pack = thumbnails.pack([item.thumbnail or b"" for item in items])
    session.execute(_ADD_THUMBNAILS, {"segment_id": segment_id, **pack})


def drop_unused(session: Session, segment_ids: Iterable[str]) -> int:
    """Delete those of the segments to which no image points, and return how many those were.

    Images only come to a segment in the transaction that writes it; the collection's row must be locked.
    """
    dropped = 0
    for some in sql.batches(sorted(segment_ids)):
        used = sa.exists().where(IMAGES.c.segment_id == SEGMENTS.c.id)
        unused = session.scalars(sa.select(SEGMENTS.c.id).where(SEGMENTS.c.id.in_(some), sa.not_(used))).all()
        drop(session, unused)
        dropped += len(unused)
    return dropped


def drop(session: Session, segment_ids: Sequence[str]) -> None:
    """Delete segments with their thumbnails; nothing may point to them."""
    if segment_ids:
        session.execute(sa.delete(THUMBNAILS).where(THUMBNAILS.c.segment_id.in_(segment_ids)))
        session.execute(sa.delete(SEGMENTS).where(SEGMENTS.c.id.in_(segment_ids)))


def vector(session: Session, image: tables.Image) -> vector_codec.Vectors:
    """Return an image's embedding, (dim,) float32, reading its own bytes of the segment."""
    mine = SEGMENTS.c.id == image.segment_id
    dim, dtype = session.execute(sa.select(SEGMENTS.c.dim, SEGMENTS.c.dtype).where(mine)).one()
    width = vector_codec.width(dim, dtype)
    part = sql.cut(SEGMENTS.c.data, sa.literal(image.row * width), sa.literal(width))
    return vector_codec.decode(session.scalars(sa.select(part).where(mine)).one(), dim, dtype)[0]
