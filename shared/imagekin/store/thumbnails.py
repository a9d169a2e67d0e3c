"""Thumbnails: JPEGs packed beside a segment, one after another, and the offsets at which they are cut apart.

Offsets are count + 1 little-endian uint32: where each thumbnail starts, and where the last one ends.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import sql, tables
from imagekin.database.tables import COLLECTIONS, IMAGES, THUMBNAILS
from imagekin.store import blobs, vector_codec

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


def pack(pictures: Sequence[bytes]) -> dict[str, Any]:
    """Return `offsets`, `checksum` and `data` of a segment's thumbnails, one for each of its rows; it may be empty."""
    ends = np.cumsum([0, *map(len, pictures)], dtype="<u4")
    data = b"".join(pictures)
    return {"offsets": ends.tobytes(), "checksum": vector_codec.checksum(data), "data": data}


def holds(offsets: bytes, count: int, size: int) -> bool:
    """Return whether offsets cut `size` bytes into `count` thumbnails."""
    if len(offsets) != 4 * (count + 1):
        return False
    ends = np.frombuffer(offsets, dtype="<u4").astype(np.int64)
    return bool(ends[0] == 0 and ends[-1] == size and (np.diff(ends) >= 0).all())


def size(offsets: bytes) -> int:
    """Return the bytes of a segment's thumbnails."""
    return struct.unpack_from("<I", offsets, len(offsets) - 4)[0]


def whole(session: Session, rows: Sequence[tuple[str, bytes, bytes]]) -> list[bytes]:
    """Return the thumbnails of segments, given as (id, offsets, `data` of the row), one after another as packed."""
    asked = [(id, data) for id, offsets, data in rows if size(offsets)]
    read = dict(zip([id for id, _ in asked], blobs.whole(session, blobs.Kind.THUMBNAILS, asked), strict=True))
    return [read.get(id, b"") for id, *_ in rows]


def unpack(offsets: bytes, data: bytes) -> list[bytes]:
    """Return the thumbnails of a segment whose offsets hold."""
    ends = np.frombuffer(offsets, dtype="<u4").tolist()
    return [data[start:end] for start, end in pairwise(ends)]


def of(session: Session, image: tables.Image) -> bytes | None:
    """Return an image's JPEG thumbnail, or None if it does not have one, like an imported vector."""
    offsets = session.scalar(_OFFSETS, {"segment": image.segment_id})
    return cut(session, [(image.segment_id, image.row, offsets)])[0]


def named(session: Session, owner: str, collection: str, image_id: str) -> tuple[str, bytes | None] | None:
    """Return an image's content hash and its thumbnail, None if it does not have one; None without such an image."""
    row = session.execute(_NAMED, {"owner": owner, "collection": collection, "image": image_id}).first()
    return None if row is None else (row.content_hash, cut(session, [(row.segment_id, row.row, row.offsets)])[0])


def cut(session: Session, rows: Sequence[tuple[str, int, bytes | None]]) -> list[bytes | None]:
    """Return the thumbnails of segments' rows, given as (segment, row, the segment's offsets), None without one."""
    parts = [
        blobs.Part(segment_id, *((0, 0) if offsets is None else struct.unpack_from("<2I", offsets, 4 * row)))
        for segment_id, row, offsets in rows
    ]
    asked = [
        (
            part,
            session.scalar(_THUMBNAIL, {"segment": part.segment_id, "start": part.start, "length": part.size}) or b"",
        )
        for part in dict.fromkeys(parts)
        if part.size
    ]
    read = dict(zip([part for part, _ in asked], blobs.parts(session, blobs.Kind.THUMBNAILS, asked), strict=True))
    return [read.get(part) for part in parts]


def by_id(session: Session, images: Sequence[tables.Image]) -> dict[str, bytes]:
    """Return the thumbnails of some images by image id; images without one are left out."""
    offsets: dict[str, bytes | None] = {}
    for image in images:
        if image.segment_id not in offsets:
            offsets[image.segment_id] = session.scalar(_OFFSETS, {"segment": image.segment_id})
    found = cut(session, [(image.segment_id, image.row, offsets[image.segment_id]) for image in images])
    return {image.id: data for image, data in zip(images, found, strict=True) if data is not None}


def in_bulk(session: Session, ids: Sequence[str]) -> dict[str, bytes]:
    """Return the thumbnails of many images by image id, deleted ones' too; images without one are left out."""
    columns = sa.select(IMAGES.c.segment_id, IMAGES.c.row, IMAGES.c.id)
    places: dict[str, list[tuple[int, str]]] = {}
    for some in sql.batches(ids):
        for row in session.execute(columns.where(IMAGES.c.id.in_(some))):
            places.setdefault(row.segment_id, []).append((row.row, row.id))
    found: dict[str, bytes] = {}
    scattered: list[tuple[str, int, bytes, str]] = []
    for segment_id, wanted in places.items():
        offsets = session.scalar(_OFFSETS, {"segment": segment_id})
        if offsets is None:
            continue
        if len(wanted) >= WHOLE_SHARE * (len(offsets) // 4 - 1):
            data = session.scalar(sa.select(THUMBNAILS.c.data).where(THUMBNAILS.c.segment_id == segment_id)) or b""
            pictures = unpack(offsets, whole(session, [(segment_id, offsets, data)])[0])
            found |= {id: pictures[row] for row, id in wanted if pictures[row]}
        else:
            scattered += [(segment_id, row, offsets, id) for row, id in wanted]
    pieces = cut(session, [(segment_id, row, offsets) for segment_id, row, offsets, _ in scattered])
    found |= {id: data for (*_, id), data in zip(scattered, pieces, strict=True) if data is not None}
    return found
