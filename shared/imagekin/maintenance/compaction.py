"""Compaction: segments that are mostly dead or tiny become one.

No vector changes, so no revision rises. Readers see one moment (`Database.read`): the segments before or those after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
import structlog
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from imagekin.database import tables
from imagekin.enums import TERMINAL
from imagekin.schemas.kinds import PINNING
from imagekin.store import blobs, segments, signs, thumbnails, vector_codec

log = structlog.get_logger()

Collection, Image, Job, Segment, Thumbnails = (
    tables.Collection, tables.Image, tables.Job, tables.Segment, tables.Thumbnails
)  # fmt: skip

# A segment of fewer rows is small. Sixteen small ones at least become one, so a row moves a few times in its life.
SMALL_ROWS = 32
FEWEST_SMALL = 16
# One in so many rows dead is too many: of a segment, and of the collection before its segments are looked through.
DEAD_ONE_IN = 4
# What one transaction writes, reads and replaces at most.
TARGET_ROWS = 512
SOURCE_ROWS = 4 * TARGET_ROWS
MOST_SEGMENTS = 256
_NO_OFFSETS = bytes(4)


class Candidate(NamedTuple):
    """A segment that is worth compacting, with its rows, the live among them."""

    id: str
    rows: int
    live: int


def choose(session: Session, collection_id: str) -> list[list[str]]:
    """Return the segments of a collection to compact, in groups that each become one segment."""
    collection = session.get_one(Collection, collection_id)
    small = sa.func.coalesce(sa.func.sum(sa.case((Segment.count < SMALL_ROWS, 1), else_=0)), 0)
    rows = sa.func.coalesce(sa.func.sum(Segment.count), 0)
    n_small, n_rows = session.execute(sa.select(small, rows).where(Segment.collection_id == collection_id)).one()
    crowded = n_small >= FEWEST_SMALL
    wasteful = _wasteful(n_rows, collection.image_count)
    if not crowded and not wasteful:
        return []
    live = sa.select(sa.func.count()).where(Image.segment_id == Segment.id, Image.deleted_at.is_(None))
    query = sa.select(Segment.id, Segment.count, live.correlate(Segment).scalar_subquery())
    # one that no image points to is staged, and its images are about to come
    named = sa.exists().where(Image.segment_id == Segment.id)
    query = query.where(Segment.collection_id == collection_id, named).order_by(Segment.id)
    if not wasteful:
        query = query.where(Segment.count < SMALL_ROWS)
    found = (Candidate(*row) for row in session.execute(query))
    return _groups([one for one in found if (crowded and one.rows < SMALL_ROWS) or _wasteful(one.rows, one.live)])


def _wasteful(rows: int, live: int) -> bool:
    return live < rows and (rows - live) * DEAD_ONE_IN >= rows


def _groups(candidates: Sequence[Candidate]) -> list[list[str]]:
    groups: list[list[Candidate]] = [[]]
    for candidate in candidates:
        group = [*groups[-1], candidate]
        full = sum(one.live for one in group) > TARGET_ROWS or sum(one.rows for one in group) > SOURCE_ROWS
        if groups[-1] and (full or len(group) > MOST_SEGMENTS):
            groups.append([candidate])
        else:
            groups[-1].append(candidate)
    # one segment alone that is all alive would become itself
    return [
        [one.id for one in group] for group in groups if len(group) > 1 or (group and group[0].live < group[0].rows)
    ]


def merge(session: Session, collection_id: str, segment_ids: Sequence[str], announced: str | None = None) -> int:
    """Copy the live rows of some segments into a new one, point their images there, and delete the old ones.

    The blobs of an `announced` one go to the storage, those of another into the database. Returns how many segments
    went. One that is gone, or not sound, is left as it is: the doctor is to see it. Nothing happens while a clustering
    runs, which finds its vectors again by their order. Raises CollectionDeleted, and Unavailable if the storage fails.
    """
    collection = segments.lock(session, collection_id)
    if pinned(session, collection_id):
        return 0
    dim = session.get_one(tables.Space, collection.space_id).dim
    pack = _Pack(dim, collection.dtype)
    pack.add(session, collection_id, segment_ids)
    if not pack.sources:
        return 0
    target, data, packed = announced or tables.new_id(), b"".join(pack.vectors), thumbnails.pack(pack.thumbnails)
    checksum = vector_codec.checksum(data)
    if announced is not None and pack.images:
        data, packed = _put(session, announced, data, packed)
    session.execute(
        sa.insert(Segment).values(
            id=target,
            collection_id=collection_id,
            count=len(pack.images),
            dim=dim,
            dtype=collection.dtype,
            checksum=checksum,
            data=data,
        )
    )
    session.execute(sa.insert(Thumbnails).values(segment_id=target, **packed))
    if any(known["state"].any() for known in pack.signs):
        signs.write(session, target, np.concatenate(pack.signs))
    moved = [{"id": id, "segment_id": target, "row": row} for row, id in enumerate(pack.images)]
    if moved:
        session.execute(sa.update(Image), moved)
    # of deleted images nothing but the row is left, which must point somewhere
    session.execute(
        sa.update(Image)
        .where(Image.segment_id.in_(pack.sources))
        .values(segment_id=target, row=0)
        .execution_options(synchronize_session=False)
    )
    segments.drop(session, pack.sources)
    segments.drop_unused(session, [target])
    return len(pack.sources)


def pinned(session: Session, collection_id: str) -> bool:
    """Return whether an unfinished job that needs the vectors of one revision is about the collection."""
    running = sa.select(Job.id).where(
        Job.collection_id == collection_id,
        Job.kind.in_(PINNING),
        Job.status.not_in(TERMINAL),
    )
    return session.scalar(running.limit(1)) is not None


class _Pack:
    """The live rows of the segments that are to become one: vectors and thumbnails bit for bit."""

    def __init__(self, dim: int, dtype: str) -> None:
        self.sources: list[str] = []
        self.images: list[str] = []
        self.vectors: list[bytes] = []
        self.thumbnails: list[bytes] = []
        self.signs: list[NDArray[np.void]] = []
        self._space = (dim, dtype)
        self._width = vector_codec.width(dim, dtype)

    def add(self, session: Session, collection_id: str, segment_ids: Sequence[str]) -> None:
        """Take some segments' live rows."""
        columns = (Segment.id, Segment.checksum, Segment.count.label("rows"), Segment.dim, Segment.dtype, Segment.data)
        mine = sa.select(*columns, Thumbnails.offsets, Thumbnails.data.label("pictures"))
        mine = mine.outerjoin(Thumbnails, Thumbnails.segment_id == Segment.id)
        mine = mine.where(Segment.id.in_(segment_ids), Segment.collection_id == collection_id)
        found = session.execute(mine.order_by(Segment.id)).all()
        vectors = blobs.whole(session, blobs.Kind.VECTORS, [(one.id, one.data) for one in found])
        packs = thumbnails.whole(session, [(one.id, one.offsets or _NO_OFFSETS, one.pictures or b"") for one in found])
        for segment, data, pictures in zip(found, vectors, packs, strict=True):
            self._add(session, segment, data, pictures)

    def _add(self, session: Session, segment: sa.Row, data: bytes, packed: bytes) -> None:
        segment_id = segment.id
        live = sa.select(Image.id, Image.row).where(Image.segment_id == segment_id, Image.deleted_at.is_(None))
        images = session.execute(live.order_by(Image.row)).all()
        sound = (
            (segment.dim, segment.dtype) == self._space
            and vector_codec.checksum(data) == segment.checksum
            and len(data) == segment.rows * self._width
            and all(0 <= image.row < segment.rows for image in images)
        )
        pictures = _thumbnails(segment.offsets, packed, segment.rows)
        if not sound or pictures is None:
            log.error("segment_not_sound", segment_id=segment_id, hint="run `imagekin doctor`")
            return
        self.sources.append(segment_id)
        known = signs.of_segment(session, segment_id, segment.rows)
        self.signs.append(known[[row for _, row in images]])
        for id, row in images:
            self.images.append(id)
            self.vectors.append(data[row * self._width : (row + 1) * self._width])
            self.thumbnails.append(pictures[row])


def _thumbnails(offsets: bytes | None, packed: bytes, count: int) -> list[bytes] | None:
    """Return a segment's thumbnails, which may be empty; None if their offsets are not sound."""
    if offsets is None:
        return [b""] * count
    if not thumbnails.holds(offsets, count, len(packed)):
        return None
    return thumbnails.unpack(offsets, packed)


def _put(session: Session, announced: str, data: bytes, packed: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Write an announced segment's blobs into the storage, and return what is left for the rows."""
    storage = blobs.of(session)
    if storage is None or not blobs.name(session, announced):
        return data, packed
    storage.put(announced, {blobs.Kind.VECTORS: data, blobs.Kind.THUMBNAILS: packed["data"]})
    return b"", {**packed, "data": b""}
