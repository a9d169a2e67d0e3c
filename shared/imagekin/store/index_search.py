"""Searches by an index of vectors: the images that it leads to, and their exact vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import sql, tables
from imagekin.store import blobs, filters, vector_codec
from imagekin.store.indexes import Index

Image, Segment = tables.Image, tables.Segment

# What pgvector looks at least at in one search, and at most before it asks whether that is enough.
BREADTH, MOST_BREADTH = 200, 1000
# Rows that one search goes through, more if a filter lets few pass, and the memory for these in units of `work_mem`.
SCANNED, SCANNED_OVER_EXPECTED, MEMORY_FACTOR = 20_000, 20, 8
# Finding a row by the graph takes about this share of what reading an exact vector takes.
READ_PER_SCANNED = 0.5
_OF_AN_IMAGE: tuple[Any, ...] = (Image.id, Image.key, Image.row)
# Leave the planner no way but the index, row by row: it knows little of what a distance costs.
_PLAN = ("enable_seqscan", "enable_sort", "enable_hashjoin", "enable_mergejoin", "enable_bitmapscan", "jit")


class _Small(sa.types.UserDefinedType[str]):
    """The type of an index's vectors."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


class Candidate(NamedTuple):
    """An image that may be near; `closeness` is what the index says of its score, nothing where it has signs alone."""

    id: str
    key: str
    closeness: float


class Found(NamedTuple):
    """Images with their keys and exact vectors (n, dim) float32."""

    ids: list[str]
    keys: list[str]
    vectors: vector_codec.Vectors


def nearest(
    session: Session, index: Index, query: np.ndarray, count: int, wanted: dict[str, Any] | None = None
) -> list[Candidate]:
    """Return about `count` images near a query (dim,), given in the view of the index, that pass a filter.

    Those are images that the index has as they are; ones that came or were replaced after its revision are not among
    them. With a filter there may be fewer although more pass.
    """
    scanned = SCANNED
    if wanted is not None:
        scanned = max(scanned, SCANNED_OVER_EXPECTED * count * index.images // _few(index, count))
    _plan(session, min(MOST_BREADTH, max(BREADTH, count)), scanned)
    rows = session.execute(_nearest(session, index, query, count, wanted)).all()
    return [Candidate(row.id, row.key, -float(row.distance)) for row in rows]


def passing(session: Session, index: Index, wanted: dict[str, Any], count: int | None) -> list[str] | None:
    """Return the images that the index has as they are and that pass a filter.

    None if it costs less, for `count` neighbors, to go through the graph until enough have passed.
    """
    mine = sa.and_(
        Image.collection_id == index.collection_id, Image.revision <= index.revision, Image.deleted_at.is_(None)
    )
    ids = sa.select(Image.id).where(mine, filters.clause(session, wanted))
    if count is None:
        return list(session.scalars(ids))
    few = _few(index, count)
    found = list(session.scalars(ids.limit(few + 1)))
    return found if len(found) <= few else None


def _few(index: Index, count: int) -> int:
    return int((READ_PER_SCANNED * count * max(index.images, 1)) ** 0.5) + count


def _plan(session: Session, breadth: int, scanned: int) -> None:
    options = {
        "hnsw.ef_search": breadth,
        "hnsw.iterative_scan": "relaxed_order",
        "hnsw.max_scan_tuples": scanned,
        "hnsw.scan_mem_multiplier": MEMORY_FACTOR,
        **dict.fromkeys(_PLAN, "off"),
    }
    session.execute(sa.select(*(sa.func.set_config(name, str(value), True) for name, value in options.items())))


def _nearest(
    session: Session, index: Index, query: np.ndarray, count: int, wanted: dict[str, Any] | None
) -> sa.Select[*tuple[Any, ...]]:
    rows = sa.table(index.table, sa.column("image_id"), sa.column("revision"), sa.column("vector"))
    # by itself, or each row would read the text again
    asked = sa.select(sa.cast(sa.literal(_text(index, query), sa.Text()), _Small(index.type))).scalar_subquery()
    distance = rows.c.vector.op("<~>" if index.signs else "<#>", return_type=sa.Double())(asked).label("distance")
    as_indexed = sa.and_(Image.id == rows.c.image_id, Image.revision == rows.c.revision, Image.deleted_at.is_(None))
    passed = sa.true() if wanted is None else filters.clause(session, wanted)
    joined = sa.select(Image.id, Image.key, distance).join_from(rows, Image, as_indexed)
    # written out, so that the plan is one for few rows
    return joined.where(passed).order_by(distance).limit(sa.literal_column(str(count)))


def later(session: Session, index: Index, wanted: dict[str, Any]) -> list[str]:
    """Return the images that the index does not have as they are, and that pass a filter."""
    newer = sa.and_(
        Image.collection_id == index.collection_id, Image.revision > index.revision, Image.deleted_at.is_(None)
    )
    return list(session.scalars(sa.select(Image.id).where(newer, filters.clause(session, wanted))))


def _text(index: Index, query: np.ndarray) -> str:
    if index.signs:
        return "".join("1" if number > 0 else "0" for number in query.tolist())
    return "[" + ",".join([f"{number:.5g}" for number in query.tolist()]) + "]"


def _exact(index: Index) -> sa.Select[*tuple[Any, ...]]:
    """Select images with their own bytes of their segments."""
    # nothing where the blob is in the storage
    size = sa.func.length(Segment.data, type_=sa.Integer()) // Segment.count
    part = sql.cut(tables.SEGMENTS.c.data, Image.row * size, size).label("part")
    return sa.select(*_OF_AN_IMAGE, Segment.dim, Segment.dtype, Segment.blob, part)


def _found(session: Session, index: Index, rows: Sequence[sa.Row[Any]]) -> Found:
    parts = []
    for row in rows:
        width = vector_codec.width(row.dim, row.dtype)
        parts.append((blobs.Part(row.blob, row.row * width, (row.row + 1) * width), row.part))
    data = blobs.parts(session, blobs.Kind.VECTORS, parts)
    vectors = np.empty((len(rows), index.dim), np.float32)
    for at, (row, one) in enumerate(zip(rows, data, strict=True)):
        vectors[at] = vector_codec.decode(one, row.dim, row.dtype)[0]
    return Found([row.id for row in rows], [row.key for row in rows], vectors)


def read(session: Session, index: Index, ids: Sequence[str]) -> Found:
    """Return images of the collection by id, those that are not deleted, in any order."""
    pieces = list(pieces_of(session, index, ids))
    found = Found([], [], np.concatenate([np.empty((0, index.dim), np.float32), *(each.vectors for each in pieces)]))
    for piece in pieces:
        found.ids.extend(piece.ids)
        found.keys.extend(piece.keys)
    return found


def pieces_of(session: Session, index: Index, ids: Sequence[str]) -> Iterator[Found]:
    """Yield what `read` returns, some images at a time."""
    mine = _exact(index).join(Segment, Segment.id == Image.segment_id)
    mine = mine.where(Image.collection_id == index.collection_id, Image.deleted_at.is_(None))
    for some in sql.batches(ids):
        yield _found(session, index, session.execute(mine.where(Image.id.in_(some))).all())


def sample(session: Session, index: Index, count: int) -> list[str]:
    """Return ids of images that the index has, drawn by chance."""
    share = min(100.0, max(0.01, 100 * 50 * count / max(index.images, 1)))
    drawn = sa.text(
        f"SELECT image_id FROM {index.table} AS indexed TABLESAMPLE SYSTEM ({share:.4f})"
        " JOIN images ON images.id = image_id AND images.revision = indexed.revision AND images.deleted_at IS NULL"
        " ORDER BY right(image_id, 8) LIMIT :count"
    )
    return list(session.scalars(drawn, {"count": count}))
