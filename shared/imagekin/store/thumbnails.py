"""Thumbnails: JPEGs packed beside a segment, one after another, and the offsets at which they are cut apart.

Offsets are count + 1 little-endian uint32: where each thumbnail starts, and where the last one ends.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import sql, tables
from imagekin.database.tables import COLLECTIONS, IMAGES, THUMBNAILS

# Past this share of its thumbnails, a segment is read whole rather than one thumbnail at a time.
WHOLE_SHARE = 0.25

_OFFSETS = sa.select(THUMBNAILS.c.offsets).where(THUMBNAILS.c.segment_id == sa.bindparam("segment"))
_THUMBNAIL = sa.select(
    sql.cut(THUMBNAILS.c.data, sa.bindparam("start", type_=sa.Integer()), sa.bindparam("length", type_=sa.Integer()))
).where(THUMBNAILS.c.segment_id == sa.bindparam("segment"))


# A grid asks for dozens at once: made once, one statement instead of three, in less than half of the time.
_NAMED = (
    sa.select(IMAGES.c.content_hash, IMAGES.c.segment_id, IMAGES.c.row, THUMBNAILS.c.offsets)
    .join(COLLECTIONS, COLLECTIONS.c.id == IMAGES.c.collection_id)
    .outerjoin(THUMBNAILS, THUMBNAILS.c.segment_id == IMAGES.c.segment_id)
    .where(
        IMAGES.c.id == sa.bindparam("image"),
        IMAGES.c.deleted_at.is_(None),
        COLLECTIONS.c.owner == sa.bindparam("owner"),
        COLLECTIONS.c.name == sa.bindparam("collection"),
        COLLECTIONS.c.deleted_at.is_(None),
    )
)


def pack(pictures: Sequence[bytes]) -> dict[str, bytes]:
    """Return the `offsets` and `data` of a segment's thumbnails, one for each of its rows; it may be empty."""
    ends = np.cumsum([0, *map(len, pictures)], dtype="<u4")
    return {"offsets": ends.tobytes(), "data": b"".join(pictures)}


def holds(offsets: bytes, count: int, size: int) -> bool:
    """Return whether offsets cut `size` bytes into `count` thumbnails."""
    if len(offsets) != 4 * (count + 1):
        return False
    ends = np.frombuffer(offsets, dtype="<u4").astype(np.int64)
    return bool(ends[0] == 0 and ends[-1] == size and (np.diff(ends) >= 0).all())


def unpack(offsets: bytes, data: bytes) -> list[bytes]:
    """Return the thumbnails of a segment whose offsets hold."""
    ends = np.frombuffer(offsets, dtype="<u4").tolist()
    return [data[start:end] for start, end in pairwise(ends)]


def of(session: Session, image: tables.Image) -> bytes | None:
    """Return an image's JPEG thumbnail, or None if it does not have one, like an imported vector."""
    offsets = session.scalar(_OFFSETS, {"segment": image.segment_id})
    return at(session, image.segment_id, image.row, offsets)


def named(session: Session, owner: str, collection: str, image_id: str) -> tuple[str, bytes | None] | None:
    """Return an image's content hash and its thumbnail, None if it does not have one; None without such an image."""
    row = session.execute(_NAMED, {"owner": owner, "collection": collection, "image": image_id}).first()
    return None if row is None else (row.content_hash, at(session, row.segment_id, row.row, row.offsets))


def at(session: Session, segment_id: str, row: int, offsets: bytes | None) -> bytes | None:
    """Return the thumbnail of a segment's row by the segment's offsets, or None."""
    start, end = (0, 0) if offsets is None else struct.unpack_from("<2I", offsets, 4 * row)
    if start == end:
        return None
    return session.scalar(_THUMBNAIL, {"segment": segment_id, "start": start, "length": end - start})


def by_id(session: Session, images: Sequence[tables.Image]) -> dict[str, bytes]:
    """Return the thumbnails of some images by image id; images without one are left out."""
    found = ((image.id, of(session, image)) for image in images)
    return {id: data for id, data in found if data is not None}


def in_bulk(session: Session, ids: Sequence[str]) -> dict[str, bytes]:
    """Return the thumbnails of many images by image id, deleted ones' too; images without one are left out."""
    columns = sa.select(IMAGES.c.segment_id, IMAGES.c.row, IMAGES.c.id)
    places: dict[str, list[tuple[int, str]]] = {}
    for some in sql.batches(ids):
        for row in session.execute(columns.where(IMAGES.c.id.in_(some))):
            places.setdefault(row.segment_id, []).append((row.row, row.id))
    found: dict[str, bytes] = {}
    for segment_id, wanted in places.items():
        offsets = session.scalar(_OFFSETS, {"segment": segment_id})
        if offsets is None:
            continue
        if len(wanted) >= WHOLE_SHARE * (len(offsets) // 4 - 1):
            data = session.scalar(sa.select(THUMBNAILS.c.data).where(THUMBNAILS.c.segment_id == segment_id))
            pictures = unpack(offsets, data or b"")
            found |= {id: pictures[row] for row, id in wanted if pictures[row]}
        else:
            cut = ((id, at(session, segment_id, row, offsets)) for row, id in wanted)
            found |= {id: data for id, data in cut if data is not None}
    return found
