"""Thumbnails: JPEGs packed beside a segment, one after another, and the offsets at which they are cut apart.

Offsets are count + 1 little-endian uint32: where each thumbnail starts, and where the last one ends.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import sql, tables
from imagekin.database.tables import COLLECTIONS, IMAGES, THUMBNAILS
from imagekin.store import blobs, vector_codec

# Past this share of its thumbnails, a segment is read whole rather than one thumbnail at a time.
WHOLE_SHARE = 0.25

_PACK = sa.select(THUMBNAILS.c.offsets, THUMBNAILS.c.blob).where(THUMBNAILS.c.segment_id == sa.bindparam("segment"))
_THUMBNAIL = sa.select(
    sql.cut(THUMBNAILS.c.data, sa.bindparam("start", type_=sa.Integer()), sa.bindparam("length", type_=sa.Integer()))
).where(THUMBNAILS.c.segment_id == sa.bindparam("segment"))


# A grid asks for dozens at once: made once, one statement instead of three, in less than half of the time.
_NAMED = (
    sa.select(IMAGES.c.content_hash, IMAGES.c.segment_id, IMAGES.c.row, THUMBNAILS.c.offsets, THUMBNAILS.c.blob)
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


class Cut(NamedTuple):
    """A thumbnail's place: its segment and row, and of the segment's pack offsets and blob, None without a pack."""

    segment_id: str
    row: int
    offsets: bytes | None
    blob: str | None


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


def unpack(offsets: bytes, data: bytes) -> list[bytes]:
    """Return the thumbnails of a segment whose offsets hold."""
    ends = np.frombuffer(offsets, dtype="<u4").tolist()
    return [data[start:end] for start, end in pairwise(ends)]


def of(session: Session, image: tables.Image) -> bytes | None:
    """Return an image's JPEG thumbnail, or None if it does not have one, like an imported vector."""
    return cut(session, [Cut(image.segment_id, image.row, *_pack(session, image.segment_id))])[0]


def _pack(session: Session, segment_id: str) -> tuple[bytes | None, str | None]:
    row = session.execute(_PACK, {"segment": segment_id}).first()
    return (None, None) if row is None else (row.offsets, row.blob)


def named(session: Session, owner: str, collection: str, image_id: str) -> tuple[str, bytes | None] | None:
    """Return an image's content hash and its thumbnail, None if it does not have one; None without such an image."""
    row = session.execute(_NAMED, {"owner": owner, "collection": collection, "image": image_id}).first()
    return None if row is None else (row.content_hash, cut(session, [Cut(*row[1:])])[0])


def cut(session: Session, cuts: Sequence[Cut]) -> list[bytes | None]:
    """Return thumbnails by their places; images without one have None."""
    spans = [(0, 0) if one.offsets is None else struct.unpack_from("<2I", one.offsets, 4 * one.row) for one in cuts]
    parts = [(one.segment_id, blobs.Part(one.blob, *span)) for one, span in zip(cuts, spans, strict=True)]
    asked = {
        (segment_id, part): b""
        if part.blob is not None
        else session.scalar(_THUMBNAIL, {"segment": segment_id, "start": part.start, "length": part.size}) or b""
        for segment_id, part in dict.fromkeys(parts)
        if part.size
    }
    rows = [(part, data) for (_, part), data in asked.items()]
    read = dict(zip(asked, blobs.parts(session, blobs.Kind.THUMBNAILS, rows), strict=True))
    return [read.get(part) for part in parts]


def by_id(session: Session, images: Sequence[tables.Image]) -> dict[str, bytes]:
    """Return the thumbnails of some images by image id; images without one are left out."""
    packs = {segment_id: _pack(session, segment_id) for segment_id in dict.fromkeys(one.segment_id for one in images)}
    found = cut(session, [Cut(one.segment_id, one.row, *packs[one.segment_id]) for one in images])
    return {image.id: data for image, data in zip(images, found, strict=True) if data is not None}


def in_bulk(session: Session, ids: Sequence[str]) -> dict[str, bytes]:
    """Return the thumbnails of many images by image id, deleted ones' too; images without one are left out."""
    columns = sa.select(IMAGES.c.segment_id, IMAGES.c.row, IMAGES.c.id)
    places: dict[str, list[tuple[int, str]]] = {}
    for some in sql.batches(ids):
        for row in session.execute(columns.where(IMAGES.c.id.in_(some))):
            places.setdefault(row.segment_id, []).append((row.row, row.id))
    found: dict[str, bytes] = {}
    scattered: dict[str, Cut] = {}
    for segment_id, wanted in places.items():
        offsets, blob = _pack(session, segment_id)
        if offsets is None:
            continue
        if len(wanted) >= WHOLE_SHARE * (len(offsets) // 4 - 1):
            data = session.scalar(sa.select(THUMBNAILS.c.data).where(THUMBNAILS.c.segment_id == segment_id)) or b""
            pictures = unpack(offsets, blobs.whole(session, blobs.Kind.THUMBNAILS, [(blob, data)])[0])
            found |= {id: pictures[row] for row, id in wanted if pictures[row]}
        else:
            scattered |= {id: Cut(segment_id, row, offsets, blob) for row, id in wanted}
    pieces = cut(session, list(scattered.values()))
    found |= {id: data for id, data in zip(scattered, pieces, strict=True) if data is not None}
    return found
