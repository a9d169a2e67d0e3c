"""Compaction: segments that are mostly dead or tiny become one.

No vector changes, so no revision rises. Readers see one moment (`Database.read`): the segments before or those after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import tables
from imagekin.database.engine import Database
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


def merge(database: Database, collection_id: str, segment_ids: Sequence[str]) -> int:
    """Copy the live rows of some segments into a new one, point their images there, and delete the old ones.

    Blobs are read and written before the collection is locked. Returns how many segments went. One that is gone, or not
    sound, is left as it is: the doctor is to see it. Nothing happens while a clustering runs, which finds its vectors
    again by their order, or if images left the segments meanwhile. Raises CollectionDeleted, and Unavailable if the
    storage fails.
    """
    pack = database.read(_read, collection_id, segment_ids)
    if not pack.sources:
        return 0
    drafted = pack.drafted(collection_id)
    segments.place(database, drafted)
    try:
        return database.write(_replace, pack, drafted)
    except (segments.Stale, IntegrityError):
        # what was read has changed, or the blobs lay for so long that the sweep took them: another time
        return 0


def _read(session: Session, collection_id: str, segment_ids: Sequence[str]) -> _Pack:
    collection = session.get(Collection, collection_id)
    if collection is None or collection.deleted_at is not None:
        raise errors.CollectionDeleted()
    pack = _Pack(session.get_one(tables.Space, collection.space_id).dim, collection.dtype)
    if not pinned(session, collection_id):
        pack.add(session, collection_id, segment_ids)
    return pack


def _replace(session: Session, pack: _Pack, drafted: segments.Draft) -> int:
    """Put a draft in the place of the segments that it was made of. Raises segments.Stale."""
    assert drafted.segment is not None
    target = drafted.segment["id"]
    segments.lock(session, drafted.collection_id)
    if pinned(session, drafted.collection_id) or _live(session, pack.sources) != pack.images:
        raise segments.Stale()
    segments.add(session, drafted)
    known = [signs.of_segment(session, segment_id, rows)[kept] for segment_id, rows, kept in pack.kept]
    if any(some["state"].any() for some in known):
        signs.write(session, target, np.concatenate(known))
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


def _live(session: Session, segment_ids: Sequence[str]) -> list[str]:
    """Return the live images of segments, in the order of their rows; rows never change under their segment."""
    live = sa.select(Image.id).where(Image.segment_id.in_(segment_ids), Image.deleted_at.is_(None))
    return list(session.scalars(live.order_by(Image.segment_id, Image.row)))


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
        #: of each source its id, its rows, and which of them live
        self.kept: list[tuple[str, int, list[int]]] = []
        self._space = (dim, dtype)
        self._width = vector_codec.width(dim, dtype)

    def add(self, session: Session, collection_id: str, segment_ids: Sequence[str]) -> None:
        """Take some segments' live rows."""
        columns = (
            Segment.id, Segment.checksum, Segment.count.label("rows"), Segment.dim, Segment.dtype, Segment.data,
            Segment.blob, Thumbnails.offsets, Thumbnails.data.label("pictures"), Thumbnails.blob.label("pack"),
        )  # fmt: skip
        mine = sa.select(*columns)
        mine = mine.outerjoin(Thumbnails, Thumbnails.segment_id == Segment.id)
        mine = mine.where(Segment.id.in_(segment_ids), Segment.collection_id == collection_id)
        found = session.execute(mine.order_by(Segment.id)).all()
        vectors = blobs.whole(session, blobs.Kind.VECTORS, [(one.blob, one.data) for one in found])
        packs = blobs.whole(session, blobs.Kind.THUMBNAILS, [(one.pack, one.pictures or b"") for one in found])
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
        self.kept.append((segment_id, segment.rows, [row for _, row in images]))
        for id, row in images:
            self.images.append(id)
            self.vectors.append(data[row * self._width : (row + 1) * self._width])
            self.thumbnails.append(pictures[row])

    def drafted(self, collection_id: str) -> segments.Draft:
        """Return these rows as a new segment."""
        data, (dim, dtype), id = b"".join(self.vectors), self._space, tables.new_id()
        segment = {
            "id": id,
            "collection_id": collection_id,
            "count": len(self.images),
            "dim": dim,
            "dtype": dtype,
            "checksum": vector_codec.checksum(data),
            "data": data,
        }
        packed = {"segment_id": id, **thumbnails.pack(self.thumbnails)}
        return segments.Draft(collection_id, segment=segment, thumbnails=packed)


def _thumbnails(offsets: bytes | None, packed: bytes, count: int) -> list[bytes] | None:
    """Return a segment's thumbnails, which may be empty; None if their offsets are not sound."""
    if offsets is None:
        return [b""] * count
    if not thumbnails.holds(offsets, count, len(packed)):
        return None
    return thumbnails.unpack(offsets, packed)
