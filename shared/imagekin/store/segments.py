"""Where vectors stand: immutable segments, and the images that point into them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql, tables
from imagekin.database.engine import Database
from imagekin.database.tables import COLLECTIONS, IMAGES, SEGMENTS, THUMBNAILS
from imagekin.enums import ItemStatus, OnConflict
from imagekin.store import blobs, reuse, thumbnails, vector_codec
from imagekin.store.ledger import Record

# What each chunk runs is made once, of tables rather than classes: making a statement costs several times what
# running it does, and the session would make an object's worth of each row.
_ALIVE = (COLLECTIONS.c.id == sa.bindparam("collection"), COLLECTIONS.c.deleted_at.is_(None))
_DTYPE = sa.select(COLLECTIONS.c.dtype).where(*_ALIVE)
# Of PostgreSQL's locks the one that its checks of foreign keys pass: blobs are written beside it.
_LOCK = _DTYPE.with_for_update(key_share=True)
_GROW = (
    sa.update(COLLECTIONS)
    .where(*_ALIVE)
    .values(revision=COLLECTIONS.c.revision + 1, image_count=COLLECTIONS.c.image_count + sa.bindparam("added"))
    .returning(COLLECTIONS.c.revision)
)
_ADD_SEGMENT, _ADD_THUMBNAILS = map(sa.insert, (SEGMENTS, THUMBNAILS))
_ADD_IMAGES = sqlite.insert(IMAGES).on_conflict_do_nothing()
_OF_AN_IMAGE = ("id", "key", "content_hash", "width", "height", "format", "nbytes", "metadata", "row")
# One statement with a list for each column takes a third of what one for each row takes.
_ADD_IMAGES_POSTGRESQL = sa.text(
    f"INSERT INTO images ({', '.join(_OF_AN_IMAGE)}, collection_id, segment_id, revision, created_at)"
    f" SELECT {', '.join(_OF_AN_IMAGE)}, :collection_id, :segment_id, :revision,"
    " extract(epoch from clock_timestamp())::double precision"
    " FROM unnest(CAST(:id AS text[]), CAST(:key AS text[]), CAST(:content_hash AS text[]), CAST(:width AS integer[]),"
    " CAST(:height AS integer[]), CAST(:format AS text[]), CAST(:nbytes AS bigint[]), CAST(:metadata AS jsonb[]),"
    f" CAST(:row AS integer[])) AS given ({', '.join(_OF_AN_IMAGE)})"
    " ON CONFLICT (collection_id, key) WHERE deleted_at IS NULL DO NOTHING"
)


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


class Stale(Exception):
    """What a draft looked up has changed since; nothing of it may be written."""


@dataclass
class Draft:
    """A chunk's images, ready to be written: looked up, decided, encoded.

    `records` says what becomes of each. `segment` and `thumbnails` are rows with their blobs, None if no vector is
    written; `staged`: they are in the database; `outside`: the blobs are in the storage, announced there, and the rows'
    are empty. `inserts` are rows of images without their revision; `updates` are
    (id, the segment that the image leaves or None, values).
    """

    collection_id: str
    records: list[Record] = field(default_factory=list)
    segment: dict[str, Any] | None = field(default=None, repr=False)
    thumbnails: dict[str, Any] | None = field(default=None, repr=False)
    staged: bool = False
    outside: bool = False
    inserts: list[dict[str, Any]] = field(default_factory=list)
    updates: list[tuple[str, str | None, dict[str, Any]]] = field(default_factory=list)


def store(session: Session, collection_id: str, items: Sequence[Item], on_conflict: OnConflict) -> list[Record]:
    """Write a chunk's images into the collection, as one segment, and return what became of each.

    All of it under the lock of the collection's row: `draft`, `stage` and `write` do most of it before. Raises
    CollectionDeleted.
    """
    drafted = draft(session, collection_id, items, on_conflict, locked=True)
    write(session, drafted)
    return drafted.records


def draft(
    session: Session, collection_id: str, items: Sequence[Item], on_conflict: OnConflict, *, locked: bool = False
) -> Draft:
    """Return what storing a chunk's images comes to, as the collection is now; `locked`: and stays for the transaction.

    What was looked up for the items is looked up again: another job may have stored the key since. Raises
    CollectionDeleted.
    """
    dtype = session.scalar(_LOCK if locked else _DTYPE, {"collection": collection_id})
    if dtype is None:
        raise errors.CollectionDeleted()
    looked_up = [item.key for item in items if item.vector is not None or item.metadata is not None]
    here = reuse.by_key(session, collection_id, looked_up)
    segment_id = tables.new_id()
    drafted = Draft(collection_id)
    rows: list[Item] = []
    for item in items:
        image = here.get(item.key)
        record = _settled(item, image, on_conflict)
        if record is None:
            values = _pointing(item, len(rows))
            rows.append(item)
            if image is None:
                id = tables.new_id()
                drafted.inserts.append(values | {"id": id, "key": item.key, "metadata": item.metadata or {}})
            else:
                id = image.id
                annotated = {} if item.metadata is None else {"metadata": item.metadata}
                drafted.updates.append((id, image.segment_id, {**values, **annotated, "segment_id": segment_id}))
            record = Record(item.key, ItemStatus.REUSED if item.reused else ItemStatus.EMBEDDED, id)
        elif record.status == ItemStatus.REUSED and record.image_id and _annotates(item, image):
            drafted.updates.append((record.image_id, None, {"metadata": item.metadata}))
        drafted.records.append(record)
    if rows:
        drafted.segment = _segment(collection_id, dtype, segment_id, rows)
        drafted.thumbnails = {"segment_id": segment_id, **thumbnails.pack([item.thumbnail or b"" for item in rows])}
    return drafted


def prepare(database: Database, collection_id: str, items: Sequence[Item], on_conflict: OnConflict) -> Draft:
    """Return the draft of a chunk's images with all done for it that `write` need not do.

    Raises CollectionDeleted, and Unavailable if the storage fails.
    """
    if blobs.writable(database) is None and not database.is_sqlite:
        # in one transaction
        return database.write(stage, collection_id, items, on_conflict)
    drafted = database.read(draft, collection_id, items, on_conflict)
    place(database, drafted)
    return drafted


def place(database: Database, drafted: Draft) -> None:
    """Write a draft's blobs where they belong; in transactions of their own, which nothing waits for.

    SQLite has one writer at a time, so there blobs that belong into the database come with the rest. If the rest never
    comes, the sweep drops them. Raises Unavailable if the storage fails.
    """
    if drafted.segment is None or drafted.thumbnails is None:
        return
    storage = blobs.writable(database)
    if storage is not None:
        id = drafted.segment["id"]
        rows = {blobs.Kind.VECTORS: drafted.segment, blobs.Kind.THUMBNAILS: drafted.thumbnails}
        database.write(blobs.announce, id)
        storage.put({(kind, id): row["data"] for kind, row in rows.items() if row["data"]})
        for row in rows.values():
            row |= {"blob": id if row["data"] else None, "data": b""}
        drafted.outside = True
    elif not database.is_sqlite:
        database.write(_add_blobs, drafted)
        drafted.staged = True


def stage(session: Session, collection_id: str, items: Sequence[Item], on_conflict: OnConflict) -> Draft:
    """Return the draft of a chunk's images, whose blobs are written and wait for `write` to point images to them.

    They are most of what a chunk writes, and this takes no lock that another waits for. If `write` never comes, the
    sweep drops them. Raises CollectionDeleted.
    """
    drafted = draft(session, collection_id, items, on_conflict)
    _add_blobs(session, drafted)
    drafted.staged = True
    return drafted


def _add_blobs(session: Session, drafted: Draft) -> None:
    if drafted.segment is not None:
        session.execute(_ADD_SEGMENT, drafted.segment)
        session.execute(_ADD_THUMBNAILS, drafted.thumbnails)


def write(session: Session, drafted: Draft) -> None:
    """Write a draft, and raise the collection's revision.

    The collection's row is locked from here to the end of the transaction, so the revisions of its images come in the
    order of the commits. Raises Stale if a key was stored, or an image deleted, moved or replaced since it was looked
    up, its announced blobs were removed, or the collection was deleted.
    """
    if not drafted.inserts and not drafted.updates:
        return
    add(session, drafted)
    grown = {"collection": drafted.collection_id, "added": len(drafted.inserts)}
    revision = session.scalar(_GROW, grown)
    if revision is None:
        raise Stale()
    _add(session, drafted, revision)
    _update(session, drafted, revision)
    drop_unused(session, {left for _, left, _ in drafted.updates if left is not None})


def add(session: Session, drafted: Draft) -> None:
    """Write a draft's segment and thumbnails, unless they are staged. Raises Stale if its blobs were swept."""
    if drafted.outside and drafted.segment is not None and not blobs.name(session, drafted.segment["id"]):
        raise Stale()
    if not drafted.staged:
        _add_blobs(session, drafted)


def _add(session: Session, drafted: Draft, revision: int) -> None:
    if not drafted.inserts:
        return
    assert drafted.segment is not None
    shared = {
        "collection_id": drafted.collection_id,
        "segment_id": drafted.segment["id"],
        "revision": revision,
    }
    kept = {"preserve_rowcount": True}
    if session.get_bind().dialect.name == "sqlite":
        rows: Any = [row | shared for row in drafted.inserts]
        added = session.execute(_ADD_IMAGES, rows, execution_options=kept)
    else:
        lists = {name: [row[name] for row in drafted.inserts] for name in _OF_AN_IMAGE}
        lists["metadata"] = [json.dumps(value) for value in lists["metadata"]]
        added = session.execute(_ADD_IMAGES_POSTGRESQL, shared | lists, execution_options=kept)
    if cast(sa.CursorResult[Any], added).rowcount != len(drafted.inserts):
        raise Stale()


def _update(session: Session, drafted: Draft, revision: int) -> None:
    """Write the values of some images by id, one statement for all that change the same columns."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for id, left, values in drafted.updates:
        moved = {} if left is None else {"left": left, "revision": revision}
        alike.setdefault((*sorted(values), *moved), []).append({"image_id": id, **values, **moved})
    for columns, rows in alike.items():
        # a deleted image stays deleted
        live = sa.update(IMAGES).where(IMAGES.c.id == sa.bindparam("image_id"), IMAGES.c.deleted_at.is_(None))
        if "left" not in columns:
            session.execute(live, rows)
            continue
        changed = session.execute(live.where(IMAGES.c.segment_id == sa.bindparam("left")), rows)
        if cast(sa.CursorResult[Any], changed).rowcount != len(rows):
            raise Stale()


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


def _pointing(item: Item, row: int) -> dict[str, Any]:
    return {
        "content_hash": item.content_hash,
        "width": item.width,
        "height": item.height,
        "format": item.format,
        "nbytes": item.nbytes,
        "row": row,
    }


def _segment(collection_id: str, dtype: str, segment_id: str, items: Sequence[Item]) -> dict[str, Any]:
    matrix = np.stack([item.vector for item in items if item.vector is not None])
    data = vector_codec.encode(matrix, dtype)
    return {
        "id": segment_id,
        "collection_id": collection_id,
        "count": len(items),
        "dim": matrix.shape[1],
        "dtype": dtype,
        "checksum": vector_codec.checksum(data),
        "data": data,
    }


def lock(session: Session, collection_id: str) -> tables.Collection:
    """Return the collection with its row locked, for a change of its revision; raises CollectionDeleted."""
    locked = {"key_share": True}
    collection = session.get(tables.Collection, collection_id, with_for_update=locked, populate_existing=True)
    if collection is None or collection.deleted_at is not None:
        raise errors.CollectionDeleted()
    return collection


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
        blobs.unname(session, segment_ids)
        session.execute(sa.delete(THUMBNAILS).where(THUMBNAILS.c.segment_id.in_(segment_ids)))
        session.execute(sa.delete(SEGMENTS).where(SEGMENTS.c.id.in_(segment_ids)))


def vector(session: Session, image: tables.Image) -> vector_codec.Vectors:
    """Return an image's embedding, (dim,) float32, reading its own bytes of the segment."""
    mine = SEGMENTS.c.id == image.segment_id
    dim, dtype, blob = session.execute(sa.select(SEGMENTS.c.dim, SEGMENTS.c.dtype, SEGMENTS.c.blob).where(mine)).one()
    width = vector_codec.width(dim, dtype)
    start = image.row * width
    cut = sql.cut(SEGMENTS.c.data, sa.literal(start), sa.literal(width))
    part = blobs.Part(blob, start, start + width)
    [data] = blobs.parts(session, blobs.Kind.VECTORS, [(part, session.scalars(sa.select(cut).where(mine)).one())])
    return vector_codec.decode(data, dim, dtype)[0]
