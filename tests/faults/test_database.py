"""The database locked, restarted or full; processes killed around their commits; a worker's clock that is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from imagekin.database import tables
from imagekin.enums import ChunkStatus
from kit import tiny
from kit.cluster import Cluster
from kit.patience import until


@pytest.fixture
def sqlite_file(cluster: Cluster) -> Path:
    if not cluster.database.is_sqlite:
        pytest.skip("PostgreSQL locks rows, not files")
    return Path(cluster.database.engine.url.database or "")


def test_a_locked_database_is_waited_for(cluster: Cluster, name: str, sqlite_file: Path) -> None:
    cluster.collection(name, "slow.json")
    job_id = cluster.embed(name, tiny.keys(name, 32))
    cluster.holder(job_id)
    with held(sqlite_file):
        # the chunk in hand is through, and its commit waits; so does a request
        time.sleep(4)
        assert cluster.done(job_id) < 32
    assert cluster.finish(job_id) == ["succeeded"]
    attempts = sa.select(sa.func.max(tables.Chunk.attempt)).where(tables.Chunk.job_id == job_id)
    assert cluster.scalar(attempts) == 1, "the lock was outwaited, not run from"


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold SQLite's write lock from another process."""
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n"
        "connection.execute('BEGIN IMMEDIATE'); print('held', flush=True)\n"
        "sys.stdin.read(); connection.execute('ROLLBACK')\n"
    )
    argv = [sys.executable, "-I", "-S", "-c", code, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            process.stdin.close()


def test_many_requests_and_workers_write_at_once(cluster: Cluster, name: str) -> None:
    cluster.collection(name)
    made: list[str] = []

    def submit(number: int) -> None:
        made.append(cluster.embed(name, tiny.keys(f"{name}-{number}", 8)))

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cluster.finish(*made) == ["succeeded"] * 24
    assert '"status": 500' not in (cluster.folder / "logs" / "api.log").read_text()


def test_many_submits_under_one_key_are_one_job(cluster: Cluster, name: str) -> None:
    cluster.collection(name)
    pictures = tiny.keys(name, 3)
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(cluster.embed(name, pictures, name))) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 40 and len(set(made)) == 1
    assert cluster.finish(made[0]) == ["succeeded"]
    # their uploads went with them, but for the one that the job names
    uploads = sa.select(sa.func.count()).where(tables.Job.id == made[0], tables.Upload.id == tables.Job.upload_id)
    assert cluster.scalar(uploads) == 1


def test_a_killed_api_forgets_its_ring_and_not_its_job(cluster: Cluster, name: str) -> None:
    cluster.collection(name)
    # without Redis the ring is still in the API's hands when it is killed
    cluster.kill("redis")
    job_id = cluster.embed(name, tiny.keys(name, 4))
    cluster.kill("api")
    cluster.start("redis", "api")
    assert cluster.finish(job_id) == ["succeeded"]


@pytest.mark.faults
def test_a_postgresql_that_crashes_is_reconnected_to(cluster: Cluster, name: str) -> None:
    if cluster.database.is_sqlite:
        pytest.skip("SQLite has no server")
    cluster.collection(name, "slow.json")
    job_id = cluster.embed(name, tiny.keys(name, 48))
    cluster.holder(job_id)
    for _ in range(3):
        before = cluster.done(job_id)
        cluster.crash_database()
        until(lambda before=before: cluster.done(job_id) > before, "images after the crash")
    assert cluster.finish(job_id) == ["succeeded"]
    cluster.search(name, tiny.keys(name, 1)[0])


def test_a_full_database_refuses_and_goes_on_when_there_is_room(cluster: Cluster, name: str, sqlite_file: Path) -> None:
    """A limit on the size of the workers' files stands for the full disk: write() fails there and here."""
    cluster.collection(name, "slow.json")
    job_id = cluster.embed(name, tiny.keys(name, 48))
    cluster.holder(job_id)
    limited = [pid for each in ("bulk-0", "bulk-1") for pid in (cluster.pid(each), cluster.child(each)) if pid]
    # what was claimed could not be finished, and whoever has room made it ready again
    again = sa.select(sa.func.count()).where(
        tables.Chunk.job_id == job_id, tables.Chunk.status == ChunkStatus.READY, tables.Chunk.attempt > 0
    )
    prlimit(limited, 32 << 10)
    try:
        until(lambda: cluster.scalar(again), "the refusal")
    finally:
        prlimit(limited, None)
    assert cluster.finish(job_id) == ["succeeded"]


def prlimit(pids: list[int], most_bytes: int | None) -> None:
    """Limit the size of the files that running processes may write: beyond it they get EFBIG."""
    import resource

    limit = resource.RLIM_INFINITY if most_bytes is None else most_bytes
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@pytest.mark.faults
def test_a_workers_wrong_clock_means_nothing(cluster: Cluster, name: str, tmp_path: Path) -> None:
    """Python's clock in one worker is an hour late, as on a machine of its own; the database's is right."""
    (tmp_path / "sitecustomize.py").write_text("import time\nright = time.time\ntime.time = lambda: right() + 3600\n")
    cluster.workers["bulk-0"].terminate()
    until(lambda: not cluster.workers["bulk-0"].running, "the stop", 30)
    paths = cluster.env.get("PYTHONPATH", "")
    cluster.env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{paths}"
    try:
        cluster.start("bulk-0")
    finally:
        cluster.env["PYTHONPATH"] = paths
    cluster.collection(name, "slow.json")
    job_id = cluster.embed(name, tiny.keys(name, 64))
    assert cluster.finish(job_id) == ["succeeded"]
    attempts = sa.select(sa.func.max(tables.Chunk.attempt)).where(
        tables.Chunk.job_id == job_id, tables.Chunk.status == ChunkStatus.DONE
    )
    assert cluster.scalar(attempts) == 1, "a lease was told by a wrong clock"
    cluster.kill("bulk-0")
