"""The database: what storing a chunk of images costs, over the bare writing of the same bytes to the same tables.

Bare is what a loader written for this one purpose would do: rows that are made already, `executemany` on SQLite, COPY
for the images on PostgreSQL, one commit a chunk, the same tables with their indexes; no lease, no look whether a key is
there, no ledger, no counters.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from imagekin import catalog
from imagekin.database import analyze, tables
from imagekin.database.engine import Database
from imagekin.enums import DType, Lane, OnConflict, Precision
from imagekin.jobs import claim as claim_step
from imagekin.jobs import finish, plan, submit
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from imagekin.store import collections, reuse, segments, thumbnails, vector_codec

OWNER = "bench"
CHUNK_IMAGES = 64
DIM, FEW_DIM = 1280, 64
THUMBNAIL_BYTES = 4000
PIECES_PER_COMMIT = 32
# A larger segment costs less to fill with.
FILLED_ROWS = 512

IMAGE_COLUMNS = (
    "id", "collection_id", "key", "content_hash", "width", "height", "format", "metadata", "segment_id", "row",
    "revision", "created_at",
)  # fmt: skip
SEGMENT_COLUMNS = ("id", "collection_id", "count", "dim", "dtype", "checksum", "created_at", "data")
THUMBNAIL_COLUMNS = ("segment_id", "offsets", "data")


@dataclass
class Seconds:
    """What each stage took for some images; `bare` is the writing of their bytes alone."""

    plan: float = 0.0
    claim: float = 0.0
    lookup: float = 0.0
    store: float = 0.0
    bare: float = 0.0


class Writing:
    """A collection of its own that takes chunk after chunk, as workers write them and bare.

    `seconds` are of the clock, `cpu` those of `cpu_clock`, which a busy machine disturbs less.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        dim: int = DIM,
        thumbnail_bytes: int = THUMBNAIL_BYTES,
        chunk_images: int = CHUNK_IMAGES,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.database, self.settings, self.dim = database, settings, dim
        self.chunk_images = chunk_images
        self._cpu_clock = cpu_clock
        self.forget()
        self._thumbnail_bytes = thumbnail_bytes
        self._random = np.random.default_rng(5)
        self._stored = 0
        # the fake's dimensions are few; no network is run here
        backbone = catalog.FAKE_BACKBONE if dim == FEW_DIM else "efficientnet_b0"
        space = catalog.resolve_space(backbone, "DEFAULT", Precision.EXACT, settings.weights_dir)
        assert space.dim == dim
        self.collections: dict[str, tables.Collection] = {}
        for way in ("ours", "bare"):
            name = f"{way}-{tables.new_id()}"
            database.write(collections.create, OWNER, name, space, DType.FLOAT32)
            self.collections[way] = database.read(collections.get, OWNER, name)

    def share(self, name: str, number: int) -> None:
        """Store into the collection of that name from now on, as the writer of that number, with keys of its own."""
        self.collections["ours"] = self.database.read(collections.get, OWNER, name)
        self._stored = number * 10**8

    def ready(self, images: int) -> list[tuple[claim_step.Claim, list[segments.Item]]]:
        """Plan and claim `images` more and return the chunks with what they are to store.

        What other writers have planned must be claimed.
        """
        keys = self._keys(images)
        self._plan(keys)
        pieces = [keys[at : at + self.chunk_images] for at in range(0, images, self.chunk_images)]
        return [(self._claim(), self.items(piece)) for piece in pieces]

    def store(self, claim: claim_step.Claim, items: list[segments.Item]) -> None:
        """Store a chunk and finish it."""
        self._timed("store", lambda: finish.chunk(self.database, claim, items, OnConflict.REPLACE))

    def forget(self) -> None:
        """Reset the measurements."""
        self.seconds, self.cpu = Seconds(), Seconds()

    def fill(self, images: int) -> None:
        """Write `images` more bare into both collections, and plan an idle job of the same size."""
        keys = self._keys(images)
        self._plan(keys)
        for start in range(0, images, FILLED_ROWS):
            items = self.items(keys[start : start + FILLED_ROWS])
            for collection in self.collections.values():
                _write_bare(self.database, _rows(items, collection.id, self.dim))
        self.database.write(analyze.refresh)

    def add(self, images: int) -> None:
        """Put `images` more through a job, and the same number bare, in turns."""
        keys = self._keys(images)
        self._timed("plan", lambda: self._plan(keys))
        for start in range(0, images, self.chunk_images):
            if start % (self.chunk_images * PIECES_PER_COMMIT) == 0:
                # as the sweep does every few seconds
                self.database.write(analyze.refresh)
            items = self.items(keys[start : start + self.chunk_images])
            self._ours(items)
            made = _rows(items, self.collections["bare"].id, self.dim)
            self._timed("bare", lambda made=made: _write_bare(self.database, made))

    def _keys(self, images: int) -> list[str]:
        self._stored += images
        return [f"photos/{number:09}.jpg" for number in range(self._stored - images, self._stored)]

    def _timed(self, stage: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter(), self._cpu_clock()
        done = work()
        ended = time.perf_counter(), self._cpu_clock()
        for took, start, end in zip((self.seconds, self.cpu), started, ended, strict=True):
            setattr(took, stage, getattr(took, stage) + end - start)
        return done

    def _plan(self, keys: list[str]) -> None:
        collection = self.collections["ours"]
        submission = submit.Submission(
            owner=OWNER,
            kind=JobKind.EMBED,
            collection_id=collection.id,
            space_id=collection.space_id,
            params={"on_conflict": OnConflict.REPLACE.value},
        )
        self.database.write(submit.submit, submission, self.settings)
        # what `fill` planned comes earlier
        new_jobs = claim_step.Preference(gathering=True)
        [claim] = self.database.write(claim_step.claim, Lane.BULK, tables.new_id(), self.settings, new_jobs)
        entries = [{"key": key, "ref": {"at": at}} for at, key in enumerate(keys)]
        pieces = [entries[at : at + self.chunk_images] for at in range(0, len(entries), self.chunk_images)]
        for at in range(0, len(pieces), PIECES_PER_COMMIT):
            some, last = pieces[at : at + PIECES_PER_COMMIT], at + PIECES_PER_COMMIT >= len(pieces)
            self.database.write(plan.add, claim, some, ignored=0, cursor=at, finished=last)

    def items(self, keys: list[str]) -> list[segments.Item]:
        """Make different images with these keys."""
        matrix = self._random.standard_normal((len(keys), self.dim), np.float32)
        return [
            segments.Item(
                key, {}, vector=vector, content_hash=self._random.bytes(32).hex(), width=500, height=400,
                format="JPEG", thumbnail=self._random.bytes(self._thumbnail_bytes),
            )
            for key, vector in zip(keys, matrix, strict=True)
        ]  # fmt: skip

    def _claim(self) -> claim_step.Claim:
        [claim] = self.database.write(claim_step.claim, Lane.BULK, tables.new_id(), self.settings)
        return claim

    def _ours(self, items: list[segments.Item]) -> None:
        claim = self._timed("claim", self._claim)
        contents = [(item.key, item.content_hash) for item in items]
        collection = self.collections["ours"]
        known = self._timed(
            "lookup",
            lambda: self.database.read(reuse.known, collection, contents, OnConflict.REPLACE),
        )
        assert not any(known)
        self.store(claim, items)


def _rows(items: list[segments.Item], collection_id: str, dim: int) -> tuple[tuple, tuple, list[tuple]]:
    """Return the rows of a segment, of its thumbnails and of its images, as `segments.store` makes them."""
    segment_id, now = tables.new_id(), time.time()
    data = vector_codec.encode(np.stack([item.vector for item in items if item.vector is not None]), DType.FLOAT32)
    pack = [item.thumbnail or b"" for item in items]
    segment = (segment_id, collection_id, len(items), dim, "float32", vector_codec.checksum(data), now, data)
    rows = [
        (
            tables.new_id(), collection_id, item.key, item.content_hash, item.width, item.height, item.format,
            json.dumps(item.metadata), segment_id, row, 1, now,
        )
        for row, item in enumerate(items)
    ]  # fmt: skip
    return segment, (segment_id, *thumbnails.pack(pack).values()), rows


def _write_bare(database: Database, made: tuple[tuple, tuple, list[tuple]]) -> None:
    database.write(_bare_sqlite if database.is_sqlite else _bare_postgresql, made)


def _tables(made: tuple[tuple, tuple, list[tuple]]) -> Iterator[tuple[str, tuple[str, ...], list[tuple]]]:
    segment, thumbnails, images = made
    yield "segments", SEGMENT_COLUMNS, [segment]
    yield "thumbnails", THUMBNAIL_COLUMNS, [thumbnails]
    yield "images", IMAGE_COLUMNS, images


def _bare_sqlite(session: Session, made: tuple[tuple, tuple, list[tuple]]) -> None:
    driver: Any = session.connection().connection.driver_connection
    for table, columns, rows in _tables(made):
        driver.executemany(_insert(table, columns, "?"), rows)


def _bare_postgresql(session: Session, made: tuple[tuple, tuple, list[tuple]]) -> None:
    driver: Any = session.connection().connection.driver_connection
    with driver.cursor() as cursor:
        for table, columns, rows in _tables(made):
            if table != "images":
                # COPY would write a blob as text
                cursor.executemany(_insert(table, columns, "%s"), rows)
                continue
            with cursor.copy(f"COPY {table} ({_names(columns)}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)


def _insert(table: str, columns: Sequence[str], place: str) -> str:
    return f"INSERT INTO {table} ({_names(columns)}) VALUES ({', '.join(place for _ in columns)})"


def _names(columns: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)
