"""A collection's way from SQL into the resident matrix, against reading a raw file of its size."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from sqlalchemy.orm import Session

from imagekin.catalog import Space
from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import DType, OnConflict
from imagekin.store import collections, reading, segments
from imagekin_worker.bench import timing
from imagekin_worker.bench.report import Figure
from imagekin_worker.bench.search import rows_like_embeddings
from imagekin_worker.bench.workbench import DEFAULT, Workbench
from imagekin_worker.matrix.loaded import Residents

OWNER = "bench"


def figure(bench: Workbench) -> Figure:
    """Measure both with everything in the system's cache, into new memory, as a worker that starts has it."""
    space = bench.space(DEFAULT)
    rows = rows_like_embeddings(bench.sizes.load_rows, space.dim)
    raw = bench.folder / "rows.f32"
    rows.tofile(raw)
    path = bench.folder / "load.db"
    database = Database(f"sqlite:///{path}")
    try:
        collection_id = fill(database, space, rows, bench.settings.chunk_images)

        def load() -> None:
            Residents(database, bench.settings.matrix_memory_bytes).get(collection_id)

        def walk() -> None:
            database.read(_walk, collection_id)

        works = {
            "load": lambda: timing.seconds(load),
            "walk": lambda: timing.seconds(walk),
            "bare": lambda: timing.seconds(lambda: _bare(path, rows.shape)),
            "read": lambda: timing.seconds(lambda: np.fromfile(raw, np.float32)),
        }
        for work in works.values():
            work()
        found = timing.in_turns(works, 2 * bench.sizes.repetitions + 1)
    finally:
        database.dispose()
    speeds = {name: rows.nbytes / seconds / 1e6 for name, seconds in found.items()}
    ms = {name: f"{1000 * seconds:.0f}" for name, seconds in found.items()}
    limit = (
        f"{ms['load']} ms: blobs and ids from SQL are {ms['walk']}, then come the copy into new memory and lengths; "
        f"sqlite3 and numpy alone put the blobs there in {ms['bare']}, without ids, lengths, checks; "
        f"the raw file takes {ms['read']} from the system's cache"
    )
    details = {"rows": len(rows), "dim": space.dim, "chunk_images": bench.settings.chunk_images}
    return Figure(speeds["load"], speeds["read"], "MB/s", found["read"] / found["load"], limit, details)


def _walk(session: Session, collection_id: str) -> int:
    revision, _ = reading.head(session, collection_id)
    return sum(len(change.names) for change in reading.changes(session, collection_id, 0, revision))


def _bare(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return all vectors of a database as the least code reads them: what SQL and new memory cost at least."""
    matrix, end = np.empty(shape, np.float32), 0
    with closing(sqlite3.connect(path)) as connection:
        for (blob,) in connection.execute("SELECT data FROM segments ORDER BY id"):
            some = np.frombuffer(blob, np.float32).reshape(-1, shape[1])
            start, end = end, end + len(some)
            matrix[start:end] = some
    return matrix


def fill(database: Database, space: Space, rows: np.ndarray, chunk: int) -> str:
    """Store rows (n, dim) as jobs would, a segment for each chunk, in a new database; return the collection's id."""
    import imagekin_migrations

    imagekin_migrations.upgrade(database)
    made = database.write(collections.create, OWNER, "bench", space, DType.FLOAT32)
    collection: tables.Collection = database.read(collections.get, OWNER, made.name)
    for start in range(0, len(rows), chunk):
        database.write(segments.store, collection.id, _items(rows[start : start + chunk], start), OnConflict.REPLACE)
    return collection.id


def _items(rows: np.ndarray, start: int) -> Sequence[segments.Item]:
    return [
        segments.Item(
            f"{number:08}.jpg", vector=row, content_hash=f"{number:064x}", width=500, height=400, format="JPEG"
        )
        for number, row in enumerate(rows, start=start)
    ]
