"""A collection's way from SQL into the resident matrix, against reading a raw file of its size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imagekin import collections, models, segments
from imagekin.catalog import Space
from imagekin.db import Database
from imagekin.types import DType, OnConflict
from imagekin_worker.bench import timing
from imagekin_worker.bench.report import Figure
from imagekin_worker.bench.search import rows_like_embeddings
from imagekin_worker.bench.workbench import DEFAULT, Workbench
from imagekin_worker.residents import Residents

OWNER = "bench"


def figure(bench: Workbench) -> Figure:
    """Measure both with everything in the system's cache."""
    space = bench.space(DEFAULT)
    rows = rows_like_embeddings(bench.sizes.load_rows, space.dim)
    raw = bench.folder / "rows.f32"
    rows.tofile(raw)
    database = Database(f"sqlite:///{bench.folder / 'load.db'}")
    try:
        collection_id = fill(database, space, rows, bench.settings.chunk_images)
        buffer = np.empty_like(rows)

        def load() -> None:
            Residents(database, bench.settings.matrix_memory_bytes).get(collection_id)

        def read() -> None:
            with raw.open("rb", buffering=0) as file:
                file.readinto(buffer.data)

        works = {"load": lambda: timing.seconds(load), "read": lambda: timing.seconds(read)}
        for work in works.values():
            work()
        found = timing.in_turns(works, 2 * bench.sizes.repetitions + 1)
    finally:
        database.dispose()
    speeds = {name: rows.nbytes / seconds / 1e6 for name, seconds in found.items()}
    limit = f"{1e6 * found['load'] / len(rows):.1f} us a row in SQL, beside the copy of its numbers"
    details = {"rows": len(rows), "dim": space.dim, "chunk_images": bench.settings.chunk_images}
    return Figure(speeds["load"], speeds["read"], "MB/s", found["read"] / found["load"], limit, details)


def fill(database: Database, space: Space, rows: np.ndarray, chunk: int) -> str:
    """Store rows as jobs would, a segment for each chunk, in a new database; return the collection's id."""
    import imagekin_migrations

    imagekin_migrations.upgrade(database)
    made = database.write(collections.create, OWNER, "bench", space, DType.FLOAT32)
    collection: models.Collection = database.read(collections.get, OWNER, made.name)
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
