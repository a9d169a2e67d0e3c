"""The rows of indexes: vectors in the view that an index was begun with, added when it is built and later."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.store import indexes, reading
from imagekin.store.indexes import Index
from imagekin_worker.matrix.view import Accumulator, View

# Segments that the view of a new index is made of, spread over all.
SAMPLED_SEGMENTS = 64
# Rows of one transaction while the table is filled, and while the graph is there, which takes some milliseconds a row.
FILLED_ROWS, CAUGHT_UP_ROWS = 2048, 256


class Rows(NamedTuple):
    """Images (n,) with the revisions that brought their vectors (n, dim), as stored."""

    names: NDArray[np.bytes_]
    revisions: list[int]
    stored: np.ndarray

    def shown(self, view: View) -> np.ndarray:
        """Return the vectors (n, dim) in a view, float32 of length 1."""
        return view.transform(self.stored.astype(np.float32, copy=False))


def sampled_view(session: Session, collection_id: str, space_id: str, dim: int, upto: int) -> View:
    """Return the calibrated view of some of a collection's images; `raw` if there are few."""
    Segment = tables.Segment
    made = Accumulator(space_id, dim)
    numbered = sa.select(Segment.id, sa.func.row_number().over(order_by=Segment.id).label("number"))
    rows = numbered.where(Segment.collection_id == collection_id).subquery()
    count = session.scalar(sa.select(sa.func.count()).select_from(rows)) or 0
    step = max(1, count // SAMPLED_SEGMENTS)
    chosen = session.scalars(sa.select(rows.c.id).where(rows.c.number % step == 0)).all()
    for after in ["", *chosen]:
        changes = reading.changes(session, collection_id, 0, upto, after)
        if (first := next(changes, None)) is not None:
            made.add(first.vectors)
        changes.close()
    return made.view()


def next_rows(session: Session, collection_id: str, upto: int, after_segment: str) -> tuple[Rows, str | None]:
    """Return images as of revision `upto` of the segments after one, and the last of these; None at the end."""
    changes = reading.changes(session, collection_id, 0, upto, after_segment)
    some: list[reading.Change] = []
    for change in changes:
        some.append(change)
        if sum(len(each.names) for each in some) >= FILLED_ROWS:
            break
    changes.close()
    return _rows(session, some), some[-1].segment_id if some else None


def _rows(session: Session, some: Sequence[reading.Change]) -> Rows:
    some = [each for each in some if len(each.names)]
    if not some:
        return Rows(np.empty(0, reading.ID), [], np.empty((0, 0), np.float32))
    names = np.concatenate([each.names for each in some])
    at = indexes.revisions(session, names.astype(str).tolist())
    return Rows(names, [at[id] for id in names.astype(str).tolist()], np.concatenate([each.stored for each in some]))


@dataclass(frozen=True)
class _Changed:
    """What happened to a collection up to revision `upto`: images that came or were replaced, and all that changed."""

    upto: int
    view: View
    sums: Accumulator
    ids: list[str]
    rows: Rows


def catch_up(database: Database, index: Index) -> Index | None:
    """Bring an index some rows further; None if there are few to add, or another process did so meanwhile."""
    changed = database.read(_changed, index)
    if changed is None:
        return None
    shown = np.empty((0, index.dim), np.float32)
    if len(changed.rows.names):
        changed.sums.add(changed.rows.stored.astype(np.float32, copy=False))
        shown = changed.rows.shown(changed.view)
    added = changed.rows.names, changed.rows.revisions, shown
    return database.write(indexes.follow, index, changed.upto, changed.ids, added, changed.sums.state())


def _changed(session: Session, index: Index) -> _Changed | None:
    if indexes.behind(session, index, CAUGHT_UP_ROWS) < CAUGHT_UP_ROWS:
        return None
    upto = indexes.next_revision(session, index, CAUGHT_UP_ROWS)
    if upto is None:
        return None
    view, sums = indexes.saved(session, index.id)
    some = list(reading.changes(session, index.collection_id, index.revision, upto))
    ids = [id for each in some for id in (*each.ids, *each.deleted)]
    return _Changed(upto, View.load(view), Accumulator.resume(sums), ids, _rows(session, some))


def catch_up_all(database: Database, seconds: float) -> int:
    """Bring all indexes further, for about `seconds`; return how many steps that were."""
    if database.is_sqlite:
        return 0
    deadline, steps = time.monotonic() + seconds, 0
    for collection_id in database.read(indexes.all_ready):
        index = database.read(indexes.ready, collection_id)
        while index is not None and time.monotonic() < deadline and (index := catch_up(database, index)) is not None:
            steps += 1
    return steps
