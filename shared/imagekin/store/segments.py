"""Where vectors stand: immutable segments, the images that point into them, and reuse of what is known."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql, tables
from imagekin.enums import ItemStatus, OnConflict
from imagekin.store import vector_codec
from imagekin.store.ledger import Record

Image, Segment, Thumbnails, Collection = tables.Image, tables.Segment, tables.Thumbnails, tables.Collection
TABLES = tables.Base.metadata.tables
IMAGES, SEGMENTS, THUMBNAILS = TABLES["images"], TABLES["segments"], TABLES["thumbnails"]
COLLECTIONS = TABLES["collections"]

# What each chunk runs is made once, of tables rather than classes: making a statement costs several times what
# running it does, and the session would make an object's worth of each row.
_BY_KEY = sa.select(IMAGES.c.key, IMAGES.c.id, IMAGES.c.content_hash, IMAGES.c.segment_id, IMAGES.c.metadata).where(
    IMAGES.c.collection_id == sa.bindparam("collection"),
    IMAGES.c.key.in_(sa.bindparam("keys", expanding=True)),
    IMAGES.c.deleted_at.is_(None),
)
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


# Materialized: SQLite would rather walk through all images of the owner's collections.
_SAME = (
    sa.select(IMAGES.c.content_hash, IMAGES.c.id, IMAGES.c.collection_id)
    .where(IMAGES.c.content_hash.in_(sa.bindparam("contents", expanding=True)), IMAGES.c.deleted_at.is_(None))
    .cte("same")
    .prefix_with("MATERIALIZED")
)
_COPIED = (
    sa.select(_SAME.c.content_hash, _SAME.c.id)
    .join(COLLECTIONS, COLLECTIONS.c.id == _SAME.c.collection_id)
    .where(
        COLLECTIONS.c.owner == sa.bindparam("owner"),
        COLLECTIONS.c.space_id == sa.bindparam("space"),
        COLLECTIONS.c.dtype == sa.bindparam("dtype"),
        COLLECTIONS.c.deleted_at.is_(None),
    )
)


def _cut(
    blob: sa.Column[bytes], start: sa.ColumnElement[int], length: sa.ColumnElement[int]
) -> sa.ColumnElement[bytes]:
    return sa.func.substr(blob, start + 1, length, type_=sa.LargeBinary())


_WIDTH = SEGMENTS.c.dim * sa.bindparam("number_bytes", type_=sa.Integer())
_STORED = (
    sa.select(
        IMAGES.c.content_hash, IMAGES.c.width, IMAGES.c.height, IMAGES.c.format, IMAGES.c.segment_id, IMAGES.c.row,
        SEGMENTS.c.dim, _cut(SEGMENTS.c.data, IMAGES.c.row * _WIDTH, _WIDTH).label("data"), THUMBNAILS.c.offsets,
    )
    .join(SEGMENTS, SEGMENTS.c.id == IMAGES.c.segment_id)
    .outerjoin(THUMBNAILS, THUMBNAILS.c.segment_id == SEGMENTS.c.id)
    .where(IMAGES.c.id.in_(sa.bindparam("ids", expanding=True)))
)  # fmt: skip
_OFFSETS = sa.select(THUMBNAILS.c.offsets).where(THUMBNAILS.c.segment_id == sa.bindparam("segment"))
_THUMBNAIL = sa.select(
    _cut(THUMBNAILS.c.data, sa.bindparam("start", type_=sa.Integer()), sa.bindparam("length", type_=sa.Integer()))
).where(THUMBNAILS.c.segment_id == sa.bindparam("segment"))


@dataclass
class Item:
    """One image of a chunk, on its way into the collection.

    Either `error` is set, or `known` (nothing is to be written), or `vector` ((dim,) float32) with what belongs to
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
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class Copy:
    """A vector of the same content in the same space, found elsewhere among the owner's collections."""

    vector: vector_codec.Vectors = field(repr=False)
    width: int | None
    height: int | None
    format: str | None
    thumbnail: bytes | None = field(repr=False)


def known(
    session: Session, collection: tables.Collection, contents: Sequence[tuple[str, str]], on_conflict: OnConflict
) -> list[Record | Copy | None]:
    """Look up what need not be computed, for each (key, content_hash).

    A Record is final: the same content is under that key, or other content that stays. A Copy is the vector of the
    same content from another place. None: compute it.
    """
    here = _by_key(session, collection.id, [key for key, _ in contents])
    elsewhere = _copies(session, collection, {content for _, content in contents})
    answers: list[Record | Copy | None] = []
    for key, content in contents:
        image = here.get(key)
        if image is not None and image.content_hash == content:
            answers.append(Record(key, ItemStatus.REUSED, image.id))
        elif image is not None and on_conflict != OnConflict.REPLACE:
            answers.append(_refusal(key, image.id, on_conflict))
        else:
            answers.append(elsewhere.get(content))
    return answers


def _refusal(key: str, image_id: str, on_conflict: OnConflict) -> Record:
    if on_conflict == OnConflict.SKIP:
        return Record(key, ItemStatus.SKIPPED, image_id)
    detail = "The key is in the collection with other content."
    return Record(key, ItemStatus.FAILED, image_id, errors.DuplicateKey.code, detail)


def _by_key(session: Session, collection_id: str, keys: Sequence[str]) -> dict[str, sa.Row]:
    found: dict[str, sa.Row] = {}
    for some in sql.batches(keys):
        rows = session.execute(_BY_KEY, {"collection": collection_id, "keys": some})
        found |= {row.key: row for row in rows}
    return found


def _copies(session: Session, collection: tables.Collection, contents: set[str]) -> dict[str, Copy]:
    where = {"owner": collection.owner, "space": collection.space_id, "dtype": collection.dtype}
    ids: dict[str, str] = {}
    for some in sql.batches(sorted(contents)):
        ids |= dict(session.execute(_COPIED, {"contents": some, **where}).all())
    found: dict[str, Copy] = {}
    number_bytes = vector_codec.width(1, collection.dtype)
    for some in sql.batches(sorted(ids.values())):
        for image in session.execute(_STORED, {"ids": some, "number_bytes": number_bytes}):
            vector = vector_codec.decode(image.data, image.dim, collection.dtype)[0]
            picture = _thumbnail(session, image.segment_id, image.row, image.offsets)
            found[image.content_hash] = Copy(vector, image.width, image.height, image.format, picture)
    return found


def store(session: Session, collection_id: str, items: Sequence[Item], on_conflict: OnConflict) -> list[Record]:
    """Write a chunk's images into the collection, as one segment, and return what became of each.

    The collection's row is locked, so what was looked up before is looked up again: somebody else may have stored
    the key since. Raises CollectionDeleted.
    """
    head = session.execute(_HEAD, {"collection": collection_id}).first()
    if head is None:
        raise errors.CollectionDeleted()
    looked_up = [item.key for item in items if item.vector is not None or item.metadata is not None]
    here = _by_key(session, collection_id, looked_up)
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
            updates.append((record.image_id, {"metadata": item.metadata, "revision": revision}))
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
    return None if on_conflict == OnConflict.REPLACE else _refusal(item.key, image.id, on_conflict)


def _pointing(item: Item, segment_id: str, row: int, revision: int) -> dict[str, Any]:
    return {
        "content_hash": item.content_hash,
        "width": item.width,
        "height": item.height,
        "format": item.format,
        "segment_id": segment_id,
        "row": row,
        "revision": revision,
    }


def lock(session: Session, collection_id: str) -> tables.Collection:
    """Return the collection with its row locked, for a change of its revision; raises CollectionDeleted."""
    collection = session.get(Collection, collection_id, with_for_update=True, populate_existing=True)
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
    pack = [item.thumbnail or b"" for item in items]
    session.execute(_ADD_THUMBNAILS, {"segment_id": segment_id, "offsets": offsets(pack), "data": b"".join(pack)})


def offsets(pack: Sequence[bytes]) -> bytes:
    """Return where each thumbnail of a segment starts in their pack, and where the last one ends."""
    ends = np.cumsum([0, *map(len, pack)], dtype="<u4")
    return ends.tobytes()


def drop_unused(session: Session, segment_ids: Iterable[str]) -> int:
    """Delete those of the segments that no image points to any more, and return how many those were.

    Images only come to a segment in the transaction that writes it; the collection's row must be locked.
    """
    dropped = 0
    for some in sql.batches(sorted(segment_ids)):
        used = sa.exists().where(Image.segment_id == Segment.id)
        unused = session.scalars(sa.select(Segment.id).where(Segment.id.in_(some), sa.not_(used))).all()
        drop(session, unused)
        dropped += len(unused)
    return dropped


def drop(session: Session, segment_ids: Sequence[str]) -> None:
    """Delete segments with their thumbnails; nothing may point to them."""
    if segment_ids:
        session.execute(sa.delete(Thumbnails).where(Thumbnails.segment_id.in_(segment_ids)))
        session.execute(sa.delete(Segment).where(Segment.id.in_(segment_ids)))


def vector(session: Session, image: tables.Image) -> vector_codec.Vectors:
    """Return an image's embedding, (dim,) float32, reading its own bytes of the segment."""
    segment = session.get_one(Segment, image.segment_id)
    width = vector_codec.width(segment.dim, segment.dtype)
    part = sa.func.substr(Segment.data, image.row * width + 1, width, type_=sa.LargeBinary())
    data = session.scalars(sa.select(part).where(Segment.id == image.segment_id)).one()
    return vector_codec.decode(data, segment.dim, segment.dtype)[0]


def thumbnail(session: Session, image: tables.Image) -> bytes | None:
    """Return an image's JPEG thumbnail, or None where it has none, as an imported vector."""
    offsets = session.scalar(_OFFSETS, {"segment": image.segment_id})
    return _thumbnail(session, image.segment_id, image.row, offsets)


def _thumbnail(session: Session, segment_id: str, row: int, offsets: bytes | None) -> bytes | None:
    start, end = (0, 0) if offsets is None else struct.unpack_from("<2I", offsets, 4 * row)
    if start == end:
        return None
    return session.scalar(_THUMBNAIL, {"segment": segment_id, "start": start, "length": end - start})


def thumbnails(session: Session, images: Sequence[tables.Image]) -> dict[str, bytes]:
    """Return the thumbnails of some images by image id; one that has none is left out."""
    found = ((image.id, thumbnail(session, image)) for image in images)
    return {id: data for id, data in found if data is not None}
