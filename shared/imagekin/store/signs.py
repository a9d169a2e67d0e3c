"""Perceptual hashes of thumbnails, kept once they were taken: it takes a millisecond each, and they never change.

A segment has one record for each of its rows; what no image needed yet is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from imagekin.database import sql, tables
from imagekin.database.tables import IMAGES, SEGMENTS

#: The hashes of a picture and of its mirror image, and what is known of it.
RECORD = np.dtype([("hash", "<u8"), ("mirror", "<u8"), ("state", "u1")])
UNKNOWN, SEEN, UNSEEN = 0, 1, 2

Signs = tables.Signs
_SEGMENTS_AT_ONCE = 256


def unknown(count: int) -> NDArray[np.void]:
    """Return the records (count,) of images of which nothing is known."""
    return np.zeros(count, RECORD)


def kept(session: Session, ids: Sequence[str]) -> NDArray[np.void]:
    """Return the records (n,) of images by id, deleted ones' too."""
    found = unknown(len(ids))
    for places, rows, data, _ in _by_segment(session, ids):
        if data is not None:
            found[places] = np.frombuffer(data, RECORD)[rows]
    return found


def keep(session: Session, ids: Sequence[str], records: NDArray[np.void]) -> None:
    """Keep the records (n,) of images by id; what is of a segment that went meanwhile is left out."""
    for places, rows, data, segment_id in list(_by_segment(session, ids)):
        count = session.scalar(sa.select(SEGMENTS.c.count).where(SEGMENTS.c.id == segment_id))
        if count is None:
            continue
        known = unknown(count) if data is None else np.frombuffer(data, RECORD).copy()
        known[rows] = records[places]
        write(session, segment_id, known)


def write(session: Session, segment_id: str, records: NDArray[np.void]) -> None:
    """Write, or write again, the records (count,) of a segment's rows."""
    insert = sql.insert(session, Signs).values(segment_id=segment_id, data=records.tobytes())
    session.execute(insert.on_conflict_do_update(index_elements=["segment_id"], set_={"data": records.tobytes()}))


def of_segment(session: Session, segment_id: str, count: int) -> NDArray[np.void]:
    """Return the records (count,) of a segment's rows."""
    data = session.scalar(sa.select(Signs.data).where(Signs.segment_id == segment_id))
    return unknown(count) if data is None else np.frombuffer(data, RECORD)


def _by_segment(
    session: Session, ids: Sequence[str]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], bytes | None, str]]:
    """Yield for each segment: which of the images it has, their rows, its records as bytes, and its id."""
    columns = sa.select(IMAGES.c.id, IMAGES.c.segment_id, IMAGES.c.row)
    asked = {id: place for place, id in enumerate(ids)}
    there: dict[str, list[tuple[int, int]]] = {}
    for some in sql.batches(ids):
        for id, segment_id, row in session.execute(columns.where(IMAGES.c.id.in_(some))):
            there.setdefault(segment_id, []).append((asked[id], row))
    names = sorted(there)
    for start in range(0, len(names), _SEGMENTS_AT_ONCE):
        some = names[start : start + _SEGMENTS_AT_ONCE]
        rows = session.execute(sa.select(Signs.segment_id, Signs.data).where(Signs.segment_id.in_(some)))
        data: dict[str, bytes] = dict(rows.all())
        for name in some:
            places = np.array(there[name], np.int64)
            yield places[:, 0], places[:, 1], data.get(name), name
