"""What exports are made of: a collection at one moment, column by column, a segment in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import InstrumentedAttribute, Session

from imagekin.database import tables
from imagekin.enums import JobStatus
from imagekin.schemas.kinds import JobKind
from imagekin.store import blobs, collections, filters, reading, vector_codec

Image, Segment = tables.Image, tables.Segment

ROWS_PER_READ = 2048
# Metadata may be 64 KiB each.
IMAGES_PER_READ = 256


class Block(NamedTuple):
    """Some images that lie together: `vectors` (n, dim) in the collection's dtype, little-endian."""

    ids: list[str]
    keys: list[str]
    metadata: list[str]
    vectors: NDArray[Any]


class Described(NamedTuple):
    """An image without its vector."""

    id: str
    key: str
    content_hash: str
    width: int | None
    height: int | None
    format: str | None
    metadata: dict[str, Any]
    nbytes: int | None = None


class Contents:
    """A collection's images in the order in which they are stored; each walk over them gives the same ones.

    That holds in one transaction that sees the database at one moment: `session` is that of `Database.snapshot`.
    """

    def __init__(
        self,
        session: Session,
        collection: tables.Collection,
        field: str = "label",
        wanted: dict[str, Any] | None = None,
        split: str = "split",
    ) -> None:
        """Look at the images of a collection that a filter (`wanted`) chooses."""
        self._session = session
        self._mine = sa.and_(Image.collection_id == collection.id, Image.deleted_at.is_(None))
        if wanted:
            self._mine = sa.and_(self._mine, filters.clause(session, wanted))
        self.collection_id, self.field, self.split, self.wanted = collection.id, field, split, wanted or {}
        self._revision = collection.revision
        self.about = collections.view(session, collection)
        self.dtype = vector_codec.WIRE[self.about.dtype]
        self.count = session.scalars(sa.select(sa.func.count()).where(self._mine)).one()

    @property
    def description(self) -> dict[str, str]:
        """What the file says of its vectors; an import holds `space_id` against its own collection's."""
        about = self.about
        return {
            "space_id": about.space_id,
            "backbone": about.backbone,
            "weights": about.weights,
            "precision": about.precision.value,
            "dim": str(about.dim),
            "dtype": about.dtype.value,
            "collection": about.name,
            "revision": str(self._revision),
        }

    def longest_key(self) -> int:
        """Return the number of characters of the longest key, 0 without keys."""
        longest = sa.select(sa.func.coalesce(sa.func.max(sa.func.length(Image.key)), 0))
        return self._session.scalars(longest.where(self._mine)).one()

    def ids(self) -> Iterator[str]:
        return self._column(Image.id)

    def keys(self) -> Iterator[str]:
        return self._column(Image.key)

    def metadata(self) -> Iterator[str]:
        """Yield each image's metadata as one line of JSON."""
        return map(json_line, self._column(Image.metadata_))

    def images(self) -> Iterator[Described]:
        """Yield what is known of each image, by key: the same images make the same file, however they came."""
        columns = (
            Image.id, Image.key, Image.content_hash, Image.width, Image.height, Image.format, Image.metadata_,
            Image.nbytes,
        )  # fmt: skip
        ordered = sa.select(*columns).where(self._mine).order_by(Image.key)
        with self._session.execute(ordered.execution_options(yield_per=IMAGES_PER_READ)) as rows:
            yield from map(Described._make, rows)

    def jobs(self) -> Iterator[dict[str, Any]]:
        """Yield the jobs that succeeded, searches excepted, in the order in which they came."""
        Job = tables.Job
        mine = sa.select(Job.id, Job.kind, Job.status, Job.params).where(
            Job.collection_id == self.collection_id,
            Job.kind != JobKind.SEARCH,
            Job.status.in_((JobStatus.SUCCEEDED, JobStatus.PARTIAL)),
        )
        with self._session.execute(mine.order_by(Job.id).execution_options(yield_per=IMAGES_PER_READ)) as rows:
            yield from (dict(row) for row in rows.mappings())

    def label(self, image: Described) -> str | None:
        """Return the text of an image's label, the value of `field`; None if it is not set."""
        return value_text(image, self.field)

    def vectors(self) -> Iterator[bytes]:
        """Yield the vectors of some images after the other, as their bytes."""
        return (block.vectors.tobytes() for block in self._blocks(Image.segment_id, Image.row))

    def blocks(self) -> Iterator[Block]:
        """Yield everything, a segment's images at a time."""
        return self._blocks(Image.segment_id, Image.row, Image.id, Image.key, Image.metadata_)

    def _rows(self, *columns: InstrumentedAttribute[Any]) -> Iterator[sa.Row]:
        ordered = sa.select(*columns).where(self._mine).order_by(Image.segment_id, Image.row)
        # closed also where the reader leaves
        with self._session.execute(ordered.execution_options(yield_per=ROWS_PER_READ)) as rows:
            yield from rows

    def _column(self, column: InstrumentedAttribute[Any]) -> Iterator[Any]:
        return (value for (value,) in self._rows(column))

    def _blocks(self, *columns: InstrumentedAttribute[Any]) -> Iterator[Block]:
        grouped = groupby(self._rows(*columns), key=attrgetter("segment_id"))
        groups = ((segment_id, list(rows)) for segment_id, rows in grouped)
        while some := list(islice(groups, reading.at_once(self._session))):
            yield from self._read(some)

    def _read(self, some: list[tuple[str, list[sa.Row]]]) -> Iterator[Block]:
        """Yield the blocks of some segments with their rows; what was read for them is let go at the end."""
        query = sa.select(Segment.id, Segment.blob, Segment.data)
        there = self._session.execute(query.where(Segment.id.in_([segment_id for segment_id, _ in some])))
        stored = {segment_id: (blob, data) for segment_id, blob, data in there}
        asked = [stored[segment_id] for segment_id, _ in some]
        read = blobs.whole(self._session, blobs.Kind.VECTORS, asked)
        for (_, rows), data in zip(some, read, strict=True):
            matrix = np.frombuffer(data, self.dtype).reshape(-1, self.about.dim)
            _, at, *rest = zip(*rows, strict=True)
            ids, keys, metadata = map(list, rest) if rest else ([], [], [])
            yield Block(ids, keys, list(map(json_line, metadata)), matrix[list(at)])


def value_text(image: Described, field: str) -> str | None:
    """Return the text of a field of an image's metadata, JSON for what is not a text; None if it is not set."""
    value = image.metadata.get(field)
    return value if value is None or isinstance(value, str) else json_line(value)


def json_line(value: Any) -> str:
    """Return a value of JSON as one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
