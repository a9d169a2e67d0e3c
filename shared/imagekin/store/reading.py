"""How vectors are read: a collection as it is, or what changed in it since a revision, a segment at a time.

Reading the revision first makes this complete, even with commits meanwhile: a row that changes again carries a later
revision and comes with the next call. Both must be one `Database.read`: a compaction between the images and their
segment would leave neither where it was.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import InstrumentedAttribute, Session

from imagekin import errors
from imagekin.database import tables
from imagekin.database.sql import batches
from imagekin.store import blobs, vector_codec

Collection, Image, Segment = tables.Collection, tables.Image, tables.Segment

# Blobs that are in memory at a time; more of them keep a storage busy, whose answers take long.
SEGMENTS_PER_QUERY, SEGMENTS_FROM_STORAGE = 4, 16
ID = np.dtype(f"S{tables.ID_LENGTH}")
BLOB: tuple[sa.ColumnElement[Any] | InstrumentedAttribute[Any], ...] = (
    Segment.id, Segment.data, Segment.blob, Segment.dim, Segment.dtype
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """What a revision did to some images of a segment: their vectors, or, of the deleted, only their ids.

    `names` (n,): the ids as ASCII. `stored` (n, dim): the vectors as the collection stores them, maybe read-only.
    """

    segment_id: str
    names: NDArray[np.bytes_]
    stored: np.ndarray = field(repr=False)
    deleted: list[str]

    @property
    def ids(self) -> list[str]:
        return self.names.astype(str).tolist()

    @property
    def vectors(self) -> vector_codec.Vectors:
        """The vectors (n, dim) as float32."""
        return self.stored.astype(np.float32, copy=False)


def head(session: Session, collection_id: str) -> tuple[int, int]:
    """Return the collection's (revision, number of images); raises CollectionDeleted."""
    collection = session.get(Collection, collection_id, populate_existing=True)
    if collection is None or collection.deleted_at is not None:
        raise errors.CollectionDeleted()
    return collection.revision, collection.image_count


def forgotten(session: Session, collection_id: str, revision: int) -> bool:
    """Return whether images that were deleted after `revision` are forgotten, so that `changes` would miss them."""
    return revision < session.get_one(Collection, collection_id).pruned_revision


def changes(session: Session, collection_id: str, after: int, upto: int, after_segment: str = "") -> Generator[Change]:
    """Yield what changed after revision `after` up to `upto`, one segment at a time, in the order of segment ids.

    After 0 these are all live images, and the deleted are left out. Segments up to `after_segment` are left out: a walk
    may continue there while nothing compacts the collection.
    """
    # closed also where the caller has seen enough
    if after:
        yield from _since(session, collection_id, after, upto, after_segment)
    else:
        yield from _all(session, collection_id, upto, after_segment)


def _all(session: Session, collection_id: str, upto: int, after_segment: str) -> Generator[Change]:
    """Yield all live images with one query, which looks at the segments and at an index of the images only."""
    live = sa.and_(Image.deleted_at.is_(None), Image.revision <= upto)
    images = sa.select(Image.id).where(Image.segment_id == Segment.id, live).order_by(Image.row)
    ids = sa.select(sa.func.aggregate_strings(images.correlate(Segment).subquery().c.id, "")).scalar_subquery()
    mine = sa.and_(Segment.collection_id == collection_id, Segment.id > after_segment)
    segments = sa.select(*BLOB, ids.label("ids")).where(mine).order_by(Segment.id)
    with session.execute(segments.execution_options(yield_per=at_once(session))) as rows:
        for some in rows.partitions():
            used = [row for row in some if row.ids]
            for row, stored in zip(used, _stored(session, used), strict=True):
                names = np.frombuffer(row.ids.encode(), ID)
                places = slice(None)
                if len(names) < len(stored):
                    rows_left = sa.select(Image.row).where(Image.segment_id == row.id, live).order_by(Image.row)
                    places = session.scalars(rows_left).all()
                yield Change(row.id, names, stored[places], [])


def _since(session: Session, collection_id: str, after: int, upto: int, after_segment: str) -> Generator[Change]:
    touched = sa.and_(
        Image.collection_id == collection_id,
        Image.revision > after,
        Image.revision <= upto,
        Image.segment_id > after_segment,
    )
    grouped = _by_segment(session, touched, Image.row, Image.id).execution_options(yield_per=at_once(session))
    with session.execute(grouped) as rows:
        for some in rows.partitions():
            there = _by_id(session, [row.segment_id for row in some if row.id])
            for row in some:
                stored = there.pop(row.segment_id, None)
                stored = np.empty((0, 0), np.float32) if stored is None else stored[row.row]
                yield Change(row.segment_id, np.array(row.id or [], ID), stored, row.deleted or [])


def names(session: Session, collection_id: str, upto: int) -> tuple[list[str], list[str]]:
    """Return the ids and keys of the images as of revision `upto`, in the order in which `changes` yields them."""
    mine = sa.and_(Image.collection_id == collection_id, Image.revision <= upto)
    ids: list[str] = []
    keys: list[str] = []
    for row in session.execute(_by_segment(session, mine, Image.id, Image.key)):
        ids += row.id or []
        keys += row.key or []
    return ids, keys


def keys(session: Session, ids: Sequence[str]) -> dict[str, str]:
    """Return the keys of images by id, of deleted ones, too; one that is forgotten is left out."""
    columns = sa.select(Image.id, Image.key)
    found = (session.execute(columns.where(Image.id.in_(some))).all() for some in batches(ids))
    return {id: key for rows in found for id, key in rows}


def named(session: Session, collection_id: str, ids: Sequence[str]) -> Iterator[Change]:
    """Yield those of the images that are there, one segment at a time."""
    columns = sa.select(Image.segment_id, Image.row, Image.id)
    mine = columns.where(Image.collection_id == collection_id, Image.deleted_at.is_(None))
    rows = [row for some in batches(ids) for row in session.execute(mine.where(Image.id.in_(some)))]
    rows.sort(key=lambda row: (row.segment_id, row.row))
    groups = [(segment_id, list(group)) for segment_id, group in groupby(rows, key=attrgetter("segment_id"))]
    for start in range(0, len(groups), at_once(session)):
        some = groups[start : start + at_once(session)]
        there = _by_id(session, [segment_id for segment_id, _ in some])
        for segment_id, group in some:
            _, places, theirs = (list(column) for column in zip(*group, strict=True))
            yield Change(segment_id, np.array(theirs, ID), there.pop(segment_id)[places], [])


def _by_segment(
    session: Session, touched: sa.ColumnElement[bool], *columns: InstrumentedAttribute[Any]
) -> sa.Select[Any]:
    """Select a row for each segment: JSON arrays of columns of its live images, and of the deleted one's ids.

    These cost a tenth of a row for each image. Arrays of nothing are None in PostgreSQL.
    """
    chosen = dict.fromkeys((Image.segment_id, Image.row, Image.id, Image.deleted_at, *columns))
    ordered = sa.select(*chosen).where(touched).order_by(Image.segment_id, Image.row)
    images = ordered.subquery().c
    live = images.deleted_at.is_(None)
    arrays = [_array(session, images[column.key]).filter(live).label(column.key) for column in columns]
    deleted = _array(session, images.id).filter(sa.not_(live)).label("deleted")
    return sa.select(images.segment_id, *arrays, deleted).group_by(images.segment_id).order_by(images.segment_id)


def _array(session: Session, column: sa.ColumnElement[Any]) -> sa.Function[Any]:
    aggregate = sa.func.json_group_array if session.get_bind().dialect.name == "sqlite" else sa.func.json_agg
    return aggregate(column, type_=sa.JSON)


def _by_id(session: Session, segment_ids: Sequence[str]) -> dict[str, np.ndarray]:
    if not segment_ids:
        return {}
    rows = session.execute(sa.select(*BLOB).where(Segment.id.in_(segment_ids))).all()
    return dict(zip([row.id for row in rows], _stored(session, rows), strict=True))


def _stored(session: Session, segments: Sequence[sa.Row[Any]]) -> list[np.ndarray]:
    """Return the vectors of some rows of BLOB, each (count, dim)."""
    data = blobs.whole(session, blobs.Kind.VECTORS, [(row.blob, row.data) for row in segments])
    return [vector_codec.stored(blob, row.dim, row.dtype) for blob, row in zip(data, segments, strict=True)]


def at_once(session: Session) -> int:
    """Return how many blobs to have in memory at a time."""
    return SEGMENTS_PER_QUERY if blobs.of(session) is None else SEGMENTS_FROM_STORAGE
