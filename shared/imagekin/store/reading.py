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
from imagekin.store import vector_codec

Collection, Image, Segment = tables.Collection, tables.Image, tables.Segment

# Blobs that are in memory at a time.
SEGMENTS_PER_QUERY = 4
ID = np.dtype(f"S{tables.ID_LENGTH}")
BLOB: tuple[sa.ColumnElement[Any] | InstrumentedAttribute[Any], ...] = (
    Segment.id, Segment.data, Segment.dim, Segment.dtype
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
    with session.execute(segments.execution_options(yield_per=SEGMENTS_PER_QUERY)) as rows:
        for row in rows:
            if not row.ids:
                continue
            names, stored = np.frombuffer(row.ids.encode(), ID), _stored(row)
            if len(names) < len(stored):
                places = sa.select(Image.row).where(Image.segment_id == row.id, live).order_by(Image.row)
                stored = stored[session.scalars(places).all()]
            yield Change(row.id, names, stored, [])


def _since(session: Session, collection_id: str, after: int, upto: int, after_segment: str) -> Generator[Change]:
    touched = sa.and_(
        Image.collection_id == collection_id,
        Image.revision > after,
        Image.revision <= upto,
        Image.segment_id > after_segment,
    )
    grouped = _by_segment(session, touched, Image.row, Image.id).execution_options(yield_per=SEGMENTS_PER_QUERY)
    with session.execute(grouped) as rows:
        for some in rows.partitions():
            blobs = _blobs(session, [row.segment_id for row in some if row.id])
            for row in some:
                blob = blobs.pop(row.segment_id, None)
                stored = np.empty((0, 0), np.float32) if blob is None else _stored(blob)[row.row]
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
    for segment_id, group in groupby(rows, key=attrgetter("segment_id")):
        _, places, theirs = (list(column) for column in zip(*group, strict=True))
        stored = _stored(_blobs(session, [segment_id])[segment_id])[places]
        yield Change(segment_id, np.array(theirs, ID), stored, [])


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


def _blobs(session: Session, segment_ids: Sequence[str]) -> dict[str, sa.Row[Any]]:
    if not segment_ids:
        return {}
    return {row.id: row for row in session.execute(sa.select(*BLOB).where(Segment.id.in_(segment_ids)))}


def _stored(segment: sa.Row[Any]) -> np.ndarray:
    return vector_codec.stored(segment.data, segment.dim, segment.dtype)
