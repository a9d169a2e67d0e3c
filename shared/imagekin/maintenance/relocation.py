"""Relocation: the blobs of segments that are there move from the database into the storage, or back.

A segment stays what it is, and so does each of its bytes; its row says where they are. Everything else continues
meanwhile: a reader finds the bytes where the row says that its transaction sees, as what a move leaves behind stays
until the sweep takes it, an hour later. A move that is killed anywhere is continued by the next one: a segment has
moved, or it has not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.database.tables import COLLECTIONS, SEGMENTS, THUMBNAILS
from imagekin.store import blobs, segments, thumbnails, vector_codec

log = structlog.get_logger()

# What is in memory at a time, and the segments that are looked at for it.
SLICE_BYTES = 64 << 20
SLICE_SEGMENTS = 256
# How often a slice is written whose announcement was swept meanwhile, an hour later.
TRIES = 3


class Place(StrEnum):
    """Where blobs lie."""

    STORAGE = "storage"
    DATABASE = "database"


@dataclass
class Moved:
    """What has moved of a collection, and how many segments were left as they are: the doctor says what they lack."""

    segments: int = 0
    images: int = 0
    bytes: int = 0
    left: int = 0


@dataclass(frozen=True)
class _Loaded:
    """A segment with its bytes; None says that they are gone."""

    row: sa.Row
    vectors: bytes | None
    thumbnails: bytes | None

    @property
    def sound(self) -> bool:
        row = self.row
        return (
            self.vectors is not None
            and self.thumbnails is not None
            and len(self.vectors) == row.rows * vector_codec.width(row.dim, row.dtype)
            and vector_codec.checksum(self.vectors) == row.checksum
            and (row.offsets is None or thumbnails.holds(row.offsets, row.rows, len(self.thumbnails)))
            and row.pack_checksum in (None, vector_codec.checksum(self.thumbnails))
        )


def collections(session: Session, name: str | None = None, owner: str | None = None) -> list[sa.Row]:
    """Return (id, owner, name) of collections, of those with a name or of an owner only if that is given."""
    columns = sa.select(COLLECTIONS.c.id, COLLECTIONS.c.owner, COLLECTIONS.c.name)
    alive = columns.where(COLLECTIONS.c.deleted_at.is_(None)).order_by(COLLECTIONS.c.owner, COLLECTIONS.c.name)
    for column, value in ((COLLECTIONS.c.name, name), (COLLECTIONS.c.owner, owner)):
        alive = alive if value is None else alive.where(column == value)
    return list(session.execute(alive).all())


def waiting(session: Session, collection_id: str, to: Place) -> int:
    """Return the number of a collection's vectors that are not there yet, those of deleted images, too."""
    rows = sa.func.coalesce(sa.func.sum(SEGMENTS.c.count), 0)
    return int(session.scalars(sa.select(rows).where(*_elsewhere(collection_id, to))).one())


def _elsewhere(collection_id: str, to: Place) -> tuple[sa.ColumnElement[bool], ...]:
    outside = SEGMENTS.c.blob.is_(None) if to == Place.STORAGE else SEGMENTS.c.blob.is_not(None)
    return SEGMENTS.c.collection_id == collection_id, outside, SEGMENTS.c.count > 0


def move(database: Database, storage: blobs.Blobs, collection_id: str, to: Place) -> Iterator[Moved]:
    """Move what a collection has elsewhere, and yield what has moved so far after each slice.

    What is not sound stays as it is. A collection that is deleted meanwhile is done. Raises Unavailable if the storage
    fails.
    """
    moved, after = Moved(), ""
    while slice := database.read(_slice, collection_id, to, after):
        after = slice[-1].id
        loaded = _from_storage(storage, slice) if to == Place.DATABASE else database.read(_from_database, slice)
        sound = [one for one in loaded if one.sound]
        for one in loaded:
            if one not in sound:
                moved.left += 1
                log.error("segment_not_sound", segment_id=one.row.id, hint="run `imagekin doctor`")
        if to == Place.STORAGE:
            gone = _put(database, storage, collection_id, sound)
        else:
            gone = {one.row.id for one in sound if database.write(_fill, one)}
        for one in sound:
            if one.row.id in gone:
                moved.segments += 1
                moved.images += one.row.rows
                moved.bytes += len(one.vectors or b"") + len(one.thumbnails or b"")
        yield moved


def _slice(session: Session, collection_id: str, to: Place, after: str) -> list[sa.Row]:
    """Return the next segments to move, without their bytes: as many as may be in memory at a time, at least one."""
    columns = (
        SEGMENTS.c.id, SEGMENTS.c.count.label("rows"), SEGMENTS.c.dim, SEGMENTS.c.dtype, SEGMENTS.c.checksum,
        SEGMENTS.c.blob, THUMBNAILS.c.offsets, THUMBNAILS.c.checksum.label("pack_checksum"),
        THUMBNAILS.c.blob.label("pack"),
    )  # fmt: skip
    rows = sa.select(*columns).outerjoin(THUMBNAILS, THUMBNAILS.c.segment_id == SEGMENTS.c.id)
    rows = rows.where(*_elsewhere(collection_id, to), SEGMENTS.c.id > after).order_by(SEGMENTS.c.id)
    chosen: list[sa.Row] = []
    left = SLICE_BYTES
    for row in session.execute(rows.limit(SLICE_SEGMENTS)):
        left -= row.rows * vector_codec.width(row.dim, row.dtype)
        left -= thumbnails.size(row.offsets) if row.offsets else 0
        if chosen and left < 0:
            break
        chosen.append(row)
    return chosen


def _from_database(session: Session, slice: Sequence[sa.Row]) -> list[_Loaded]:
    """Return those of a slice that are in the database still."""
    ids = [row.id for row in slice]
    there = sa.select(SEGMENTS.c.id, SEGMENTS.c.data).where(SEGMENTS.c.id.in_(ids), SEGMENTS.c.blob.is_(None))
    vectors: dict[str, bytes] = dict(session.execute(there).all())
    packs = sa.select(THUMBNAILS.c.segment_id, THUMBNAILS.c.data).where(THUMBNAILS.c.segment_id.in_(vectors))
    pictures: dict[str, bytes] = dict(session.execute(packs).all())
    return [_Loaded(row, vectors[row.id], pictures.get(row.id, b"")) for row in slice if row.id in vectors]


def _from_storage(storage: blobs.Blobs, slice: Sequence[sa.Row]) -> list[_Loaded]:
    vectors = _fetched(storage, blobs.Kind.VECTORS, [row.blob for row in slice])
    pictures = _fetched(storage, blobs.Kind.THUMBNAILS, [row.pack for row in slice if row.pack])
    return [_Loaded(row, vectors[row.blob], pictures[row.pack] if row.pack else b"") for row in slice]


def _fetched(storage: blobs.Blobs, kind: blobs.Kind, ids: Sequence[str]) -> dict[str, bytes | None]:
    try:
        return dict(zip(ids, storage.get(kind, ids), strict=True)) if ids else {}
    except errors.Unavailable as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
    # one of them is gone, and does not hold up the others
    return {id: None if storage.size(kind, id) is None else storage.get(kind, [id])[0] for id in ids}


def _put(database: Database, storage: blobs.Blobs, collection_id: str, loaded: Sequence[_Loaded]) -> set[str]:
    """Write segments into the storage, and then let their rows name that; return the ids of those that moved."""
    for _ in range(TRIES):
        ids = {one.row.id: tables.new_id() for one in loaded}
        if not ids:
            break
        database.write(blobs.announce, *ids.values())
        written = {(blobs.Kind.VECTORS, ids[one.row.id]): one.vectors for one in loaded}
        written |= {(blobs.Kind.THUMBNAILS, ids[one.row.id]): one.thumbnails for one in loaded}
        storage.put({name: data for name, data in written.items() if data})
        try:
            return database.write(_point, collection_id, [(ids[one.row.id], one) for one in loaded])
        except segments.Stale:
            continue
        except errors.CollectionDeleted:
            break
    return set()


def _point(session: Session, collection_id: str, loaded: Sequence[tuple[str, _Loaded]]) -> set[str]:
    """Let the rows of segments name their blobs, and return the ids of those that are there still.

    Raises segments.Stale if the sweep took the blobs, and CollectionDeleted.
    """
    # segments are dropped under the collection's lock: so nothing is dropped while it looks as if it were inside
    segments.lock(session, collection_id)
    moved: set[str] = set()
    for id, one in loaded:
        mine = sa.update(SEGMENTS).where(SEGMENTS.c.id == one.row.id, SEGMENTS.c.blob.is_(None))
        if session.scalar(mine.values(blob=id, data=b"").returning(SEGMENTS.c.id)) is None:
            continue
        if one.thumbnails:
            packs = sa.update(THUMBNAILS).where(THUMBNAILS.c.segment_id == one.row.id)
            session.execute(packs.values(blob=id, data=b""))
        if not blobs.name(session, id):
            raise segments.Stale()
        moved.add(one.row.id)
    return moved


def _fill(session: Session, one: _Loaded) -> bool:
    """Write a segment's bytes into its rows, and hand its blobs over to the sweep; return whether it is there still."""
    blobs.release(session, one.row.blob)
    mine = sa.update(SEGMENTS).where(SEGMENTS.c.id == one.row.id, SEGMENTS.c.blob == one.row.blob)
    if session.scalar(mine.values(blob=None, data=one.vectors).returning(SEGMENTS.c.id)) is None:
        return False
    packs = sa.update(THUMBNAILS).where(THUMBNAILS.c.segment_id == one.row.id)
    session.execute(packs.values(blob=None, data=one.thumbnails))
    return True
