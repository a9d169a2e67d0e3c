"""Where vectors stand: immutable segments, the images that point into them, and reuse of what is known."""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors, models, vectors
from imagekin.ledger import Record
from imagekin.types import ItemStatus, OnConflict

Image, Segment, Thumbnails, Collection = models.Image, models.Segment, models.Thumbnails, models.Collection
TABLES = models.Base.metadata.tables
IMAGES, SEGMENTS, THUMBNAILS = TABLES["images"], TABLES["segments"], TABLES["thumbnails"]
COLLECTIONS = TABLES["collections"]

# Bound by SQLite's limit on variables in a statement.
KEYS_PER_QUERY = 500
# Blobs that are in memory at a time: a query costs as much as a small one of them.
SEGMENTS_PER_QUERY = 16

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
    vector: vectors.Vectors | None = None
    reused: bool = False
    content_hash: str = ""
    width: int | None = None
    height: int | None = None
    format: str | None = None
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class Copy:
    """A vector of the same content in the same space, found elsewhere among the owner's collections."""

    vector: vectors.Vectors = field(repr=False)
    width: int | None
    height: int | None
    format: str | None
    thumbnail: bytes | None = field(repr=False)


def known(
    session: Session, collection: models.Collection, contents: Sequence[tuple[str, str]], on_conflict: OnConflict
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
    return Record(key, ItemStatus.FAILED, image_id, "duplicate_key", "The key is in the collection with other content.")


def _by_key(session: Session, collection_id: str, keys: Sequence[str]) -> dict[str, sa.Row]:
    found: dict[str, sa.Row] = {}
    for some in batches(keys):
        rows = session.execute(_BY_KEY, {"collection": collection_id, "keys": some})
        found |= {row.key: row for row in rows}
    return found


def batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the keys in runs that fit into one statement."""
    for start in range(0, len(keys), KEYS_PER_QUERY):
        yield keys[start : start + KEYS_PER_QUERY]


def _copies(session: Session, collection: models.Collection, contents: set[str]) -> dict[str, Copy]:
    where = {"owner": collection.owner, "space": collection.space_id, "dtype": collection.dtype}
    ids: dict[str, str] = {}
    for some in batches(sorted(contents)):
        ids |= dict(session.execute(_COPIED, {"contents": some, **where}).all())
    found: dict[str, Copy] = {}
    number_bytes = vectors.width(1, collection.dtype)
    for some in batches(sorted(ids.values())):
        for image in session.execute(_STORED, {"ids": some, "number_bytes": number_bytes}):
            vector = vectors.decode(image.data, image.dim, collection.dtype)[0]
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
    here = _by_key(session, collection_id, [item.key for item in items if item.vector is not None])
    segment_id = models.new_id()
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
                id = models.new_id()
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


def lock(session: Session, collection_id: str) -> models.Collection:
    """Return the collection with its row locked, for a change of its revision; raises CollectionDeleted."""
    collection = session.get(Collection, collection_id, with_for_update=True, populate_existing=True)
    if collection is None or collection.deleted_at is not None:
        raise errors.CollectionDeleted()
    return collection


def _write(session: Session, collection_id: str, dtype: str, segment_id: str, items: Sequence[Item]) -> None:
    matrix = np.stack([item.vector for item in items if item.vector is not None])
    data = vectors.encode(matrix, dtype)
    segment = {
        "id": segment_id,
        "collection_id": collection_id,
        "count": len(items),
        "dim": matrix.shape[1],
        "dtype": dtype,
        "checksum": vectors.checksum(data),
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
    for some in batches(sorted(segment_ids)):
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


def vector(session: Session, image: models.Image) -> vectors.Vectors:
    """Return an image's embedding, (dim,) float32, reading its own bytes of the segment."""
    segment = session.get_one(Segment, image.segment_id)
    width = vectors.width(segment.dim, segment.dtype)
    part = sa.func.substr(Segment.data, image.row * width + 1, width, type_=sa.LargeBinary())
    data = session.scalars(sa.select(part).where(Segment.id == image.segment_id)).one()
    return vectors.decode(data, segment.dim, segment.dtype)[0]


def thumbnail(session: Session, image: models.Image) -> bytes | None:
    """Return an image's JPEG thumbnail, or None where it has none, as an imported vector."""
    offsets = session.scalar(_OFFSETS, {"segment": image.segment_id})
    return _thumbnail(session, image.segment_id, image.row, offsets)


def _thumbnail(session: Session, segment_id: str, row: int, offsets: bytes | None) -> bytes | None:
    start, end = (0, 0) if offsets is None else struct.unpack_from("<2I", offsets, 4 * row)
    if start == end:
        return None
    return session.scalar(_THUMBNAIL, {"segment": segment_id, "start": start, "length": end - start})


def thumbnails(session: Session, images: Sequence[models.Image]) -> dict[str, bytes]:
    """Return the thumbnails of some images by image id; one that has none is left out."""
    found = ((image.id, thumbnail(session, image)) for image in images)
    return {id: data for id, data in found if data is not None}


@dataclass(frozen=True)
class Change:
    """What a revision did to some images of a segment: their rows in it, or, of the deleted, only their ids.

    `stored` (n, dim): the vectors as the collection stores them; a read-only view of the segment where it is all.
    """

    segment_id: str
    ids: list[str]
    keys: list[str]
    stored: np.ndarray = field(repr=False)
    deleted: list[str]

    @property
    def vectors(self) -> vectors.Vectors:
        """The vectors (n, dim) as float32."""
        return self.stored.astype(np.float32, copy=False)


def head(session: Session, collection_id: str) -> tuple[int, int]:
    """Return the collection's (revision, number of images); raises CollectionDeleted."""
    collection = session.get(Collection, collection_id, populate_existing=True)
    if collection is None or collection.deleted_at is not None:
        raise errors.CollectionDeleted()
    return collection.revision, collection.image_count


def forgotten(session: Session, collection_id: str, revision: int) -> bool:
    """Tell whether images that were deleted after `revision` are forgotten, so that `changes` would miss them."""
    return revision < session.get_one(Collection, collection_id).pruned_revision


def changes(session: Session, collection_id: str, after: int, upto: int, after_segment: str = "") -> Generator[Change]:
    """Yield what changed after revision `after` up to `upto`, one segment at a time, in the order of segment ids.

    Those up to `after_segment` are left out: a walk may go on there while nothing compacts the collection. Together
    with a revision that is read first this is complete, whatever commits meanwhile: a row that changes again carries a
    later revision and comes with the next call. It must be one `Database.read` with what is read first: a compaction
    between the images and their segment would leave neither where it was.
    """
    touched = sa.and_(Image.collection_id == collection_id, Image.revision > after, Image.revision <= upto)
    if after_segment:
        touched = sa.and_(touched, Image.segment_id > after_segment)
    # closed also where the caller has seen enough
    with session.execute(_by_segment(session, touched).execution_options(yield_per=SEGMENTS_PER_QUERY)) as rows:
        for some in rows.partitions():
            yield from _changes(session, [_Touched(*row) for row in some])


def names(session: Session, collection_id: str, upto: int) -> tuple[list[str], list[str]]:
    """Return the ids and keys of the images as of revision `upto`, in the order in which `changes` yields them."""
    mine = sa.and_(Image.collection_id == collection_id, Image.revision <= upto)
    ids: list[str] = []
    keys: list[str] = []
    for row in session.execute(_by_segment(session, mine)):
        one = _Touched(*row)
        ids += one.ids or []
        keys += one.keys or []
    return ids, keys


def _by_segment(session: Session, touched: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Select a row for each segment, its images in JSON arrays: these cost a tenth of a row for each image."""
    columns = sa.select(Image.segment_id, Image.row, Image.id, Image.key, Image.deleted_at).where(touched)
    images = columns.order_by(Image.segment_id, Image.row).subquery().c
    array = sa.func.json_group_array if session.get_bind().dialect.name == "sqlite" else sa.func.json_agg
    live = images.deleted_at.is_(None)
    arrays = [array(column, type_=sa.JSON).filter(live) for column in (images.row, images.id, images.key)]
    deleted = array(images.id, type_=sa.JSON).filter(sa.not_(live))
    return sa.select(images.segment_id, *arrays, deleted).group_by(images.segment_id).order_by(images.segment_id)


def named(session: Session, collection_id: str, ids: Sequence[str]) -> Iterator[Change]:
    """Yield those of the images that are there, one segment at a time."""
    columns = sa.select(Image.segment_id, Image.row, Image.id, Image.key)
    mine = columns.where(Image.collection_id == collection_id, Image.deleted_at.is_(None))
    rows = [row for some in batches(ids) for row in session.execute(mine.where(Image.id.in_(some)))]
    rows.sort(key=lambda row: (row.segment_id, row.row))
    for segment_id, group in groupby(rows, key=attrgetter("segment_id")):
        _, places, ids, keys = (list(column) for column in zip(*group, strict=True))
        yield from _changes(session, [_Touched(segment_id, places, ids, keys, [])])


class _Touched(NamedTuple):
    """Images of a segment: where the live ones are in it; JSON arrays of nothing are None in PostgreSQL."""

    segment_id: str
    places: list[int] | None
    ids: list[str] | None
    keys: list[str] | None
    deleted: list[str] | None


def _changes(session: Session, touched: Sequence[_Touched]) -> Iterator[Change]:
    """Yield the changes of some segments, whose blobs come with one query."""
    columns = sa.select(Segment.id, Segment.data, Segment.dim, Segment.dtype)
    wanted = [one.segment_id for one in touched if one.ids]
    blobs = {row.id: row for row in session.execute(columns.where(Segment.id.in_(wanted)))} if wanted else {}
    for segment_id, places, ids, keys, deleted in touched:
        stored = np.empty((0, 0), np.float32)
        if places:
            segment = blobs.pop(segment_id)
            stored = vectors.stored(segment.data, segment.dim, segment.dtype)
            # which most segments are, and a copy costs as much as the reading
            if places != list(range(len(stored))):
                stored = stored[places]
        yield Change(segment_id, ids or [], keys or [], stored, deleted or [])
