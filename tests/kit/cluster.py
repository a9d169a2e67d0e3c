"""A whole imagekin of real processes, made to be broken: Redis, the API, workers of both lanes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx2
import redis as redis_client
import sqlalchemy as sa
from sqlalchemy import exc

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import ChunkStatus, Lane
from imagekin.settings import Settings
from imagekin.stack import port, redis
from imagekin.stack.environment import child_environment
from imagekin.stack.service import Process, Service
from imagekin.store.blobs import Blobs
from imagekin.uploads.files import Storage
from kit import history, tiny
from kit.patience import PATIENCE_S, until

T = TypeVar("T")

SHORT = {
    # Celery hears of a child's death within 5 s: a lease must outlast that, or nobody is blamed
    "lease_s": 8.0,
    "renew_s": 1.0,
    "sweep_s": 0.5,
    "chunk_target_s": 0.5,
    "chunk_images": 16,
    "lanes": 1,
    "warm": ("fake",),
    "auth": "local",
    "log_format": "json",
}
# What a weights file of the fake backbone may make it do.
BEHAVIOURS: dict[str, dict[str, Any]] = {
    "slow.json": {"delay_s": 0.1},
    "slower.json": {"delay_s": 1.5},
    "stuck.json": {"delay_s": 600},
    "fatal.json": {"fatal_rgb": list(tiny.FATAL_RGB)},
}


class Refused(AssertionError):
    """The API's answer that a request is not accepted, whenever it is made."""

    def __init__(self, path: str, answer: httpx2.Response) -> None:
        super().__init__(f"{path} was not accepted: {answer.text}")
        self.status = answer.status_code


class PatientDatabase(Database):
    """A database that is broken on purpose: reads are tried until there is an answer."""

    def read(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return super().read(work, *args, **kwargs)
            except exc.DBAPIError:
                if time.monotonic() > deadline:
                    raise


class Cluster:
    """Processes over one database and one folder; as a context manager it starts and ends with the block.

    What it was told 202 of is kept, and held against the database by `check`.
    """

    def __init__(self, folder: Path, database_url: str, *, bulk: int = 2, interactive: int = 1, **changes: Any) -> None:
        weights = folder / "weights"
        weights.mkdir(parents=True, exist_ok=True)
        for name, behaviour in BEHAVIOURS.items():
            (weights / name).write_text(json.dumps(behaviour))
        self.folder = folder
        # a socket's path may have 107 bytes, which pytest's own folders exceed
        self._run = tempfile.TemporaryDirectory(prefix="ik-")
        self.socket = Path(self._run.name) / "redis.sock"
        self.settings = Settings(
            data_dir=folder,
            database_url=database_url,
            weights_dir=weights,
            redis_url=f"unix://{self.socket}",
            port=port.claim("127.0.0.1", 0),
            **{**SHORT, **changes},
        )
        self.env = child_environment(self.settings)
        self.database = PatientDatabase(database_url, blobs=Blobs.of(self.settings))
        self.accepted: dict[str, list[str]] = {}
        self.redis = self._process(redis.service(self.socket))
        ready = partial(port.answers, self.settings.host, self.settings.port, "/healthz")
        self.api = self._process(Service("api", [sys.executable, "-m", "imagekin_api"], self.env, ready))
        self.workers = {
            f"{lane}-{number}": self._worker(lane, number)
            for lane, count in ((Lane.BULK, bulk), (Lane.INTERACTIVE, interactive))
            for number in range(count)
        }
        self.client = httpx2.Client(
            base_url=port.url(self.settings.host, self.settings.port), timeout=30, trust_env=False
        )

    def __enter__(self) -> Cluster:
        self.heal()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            if process.running:
                self.signal_group(process, signal.SIGCONT)
            process.kill()
        self.client.close()
        self.database.dispose()
        self._run.cleanup()

    def _process(self, service: Service) -> Process:
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        return Process(service, logs)

    def _worker(self, lane: Lane, number: int) -> Process:
        argv = [sys.executable, "-m", "imagekin_worker", "--lane", lane.value]
        return self._process(Service(f"{lane.value}-{number}", argv, self.env))

    # --- processes

    @property
    def processes(self) -> dict[str, Process]:
        return {"redis": self.redis, "api": self.api, **self.workers}

    def start(self, *names: str) -> None:
        """Start some processes (all that do not run) and wait until they are ready."""
        for name in names or self.processes:
            self._launched(name)
        for name in names or self.processes:
            until(partial(self._up, name), f"{name}; it says why in {self.folder / 'logs'}")

    heal = start

    def _launched(self, name: str) -> Process:
        process = self.processes[name]
        process.reap()
        if not process.running:
            process.launch(uuid4().hex)
        return process

    def _up(self, name: str) -> bool:
        # what was asked to stop may end only now
        process = self._launched(name)
        return self.warm(name) if name in self.workers else process.ready

    def kill(self, *names: str, with_children: bool = True) -> None:
        """SIGKILL processes."""
        for name in names:
            process = self.processes[name]
            self.signal_group(process, signal.SIGCONT)
            if with_children:
                process.kill()
            else:
                os.kill(self.pid(name), signal.SIGKILL)
                until(lambda process=process: not process.running)

    def pid(self, name: str) -> int:
        """Return the pid of a process; of a worker's, the parent."""
        popen = self.processes[name]._popen
        assert popen is not None
        return popen.pid

    def signal_group(self, process: Process | str, number: int) -> None:
        """Send a signal to a process and its children."""
        process = self.processes[process] if isinstance(process, str) else process
        if process._popen is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process._popen.pid, number)

    def freeze(self, *names: str) -> None:
        """SIGSTOP processes while none of them has SQLite's one write lock: nobody could write until it woke up."""
        for name in names:
            while True:
                self.signal_group(name, signal.SIGSTOP)
                if self.writable():
                    break
                self.signal_group(name, signal.SIGCONT)
                # on a busy machine it would be stopped again before it went on
                until(self.writable, "SQLite's lock")

    def writable(self) -> bool:
        """Tell whether a transaction that writes can begin within seconds; PostgreSQL locks rows only."""
        url = sa.make_url(self.settings.database_url)
        if url.get_backend_name() != "sqlite":
            return True
        with contextlib.closing(sqlite3.connect(url.database or "", timeout=2, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.execute("ROLLBACK")
        return True

    def child(self, name: str) -> int | None:
        """Return the pid of a worker's child, where it has one."""
        children = children_of(self.pid(name)) if self.processes[name].running else []
        return next((pid for pid in children if b"billiard.spawn" in command_line(pid)), None)

    def warm(self, name: str) -> bool:
        """Tell whether a worker has said in SQL that its models are warm."""
        like = f"{name.partition('-')[0]}.{self.pid(name)}@%"
        return bool(self.scalar(sa.select(tables.Worker.name).where(tables.Worker.name.like(like))))

    def holder(self, job_id: str) -> str:
        """Wait until a worker works on an image chunk of the job, and return which one it is."""
        return until(lambda: self.holders(job_id), f"a worker of {job_id}")[0]

    def holders(self, job_id: str) -> list[str]:
        """Return the workers that have chunks of the job in hand."""
        return [name for name in self.workers if self.holds(name, job_id)]

    def holds(self, name: str, job_id: str) -> bool:
        """Tell whether a worker has image chunks of the job in hand."""
        query = sa.select(tables.Chunk.claimed_by).where(
            tables.Chunk.job_id == job_id, tables.Chunk.status == ChunkStatus.CLAIMED, tables.Chunk.seq >= 0
        )
        process = f".{self.child(name)}@"
        return any(process in (each or "") for each in self.database.read(lambda s: s.scalars(query).all()))

    # --- the client's side

    def collection(self, name: str, weights: str | None = None) -> str:
        body = {"name": name, "backbone": "fake"} | ({"weights": weights} if weights else {})
        answer = self.client.post("/v1/collections", json=body)
        assert answer.status_code == 201, answer.text
        return name

    def embed(self, collection: str, keys: Sequence[str], idempotency_key: str | None = None) -> str:
        """Post an embed job until it is accepted, as a client does that asks again under one key; return its id."""
        files = {"archive": ("pictures.zip", tiny.archive(keys), "application/zip")}
        job_id = self.post("/v1/jobs/embed", idempotency_key, data={"collection": collection}, files=files)
        self.accepted[job_id] = list(keys)
        return job_id

    def search(self, collection: str, key: str, top_k: int = 3) -> str:
        """Post a search by an image's key; return its id."""
        body = {"collection": collection, "query": {"image_key": key}, "top_k": top_k}
        return self._accepted("/v1/jobs/search", body)

    def index(self, collection: str, method: str) -> str:
        """Post an index job, `hnsw` or `exact`; return its id."""
        return self._accepted(f"/v1/collections/{collection}/index", {"index": method})

    def check_index(self, collection: str) -> str | None:
        """Post a job that checks an index; return its id, None if there is no index."""
        try:
            return self._accepted(f"/v1/collections/{collection}/index/check", {"queries": 20})
        except Refused as refusal:
            if refusal.status != httpx2.codes.CONFLICT:
                raise
            return None

    def _accepted(self, path: str, body: dict[str, Any]) -> str:
        job_id = self.post(path, json=body)
        self.accepted[job_id] = []
        return job_id

    def post(self, path: str, idempotency_key: str | None = None, **request: Any) -> str:
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self.client.post(path, headers=headers, **request)
            except httpx2.TransportError:
                answer = None
            if answer is not None and answer.status_code == 202:
                return answer.json()["id"]
            if answer is not None and answer.status_code < 429:
                raise Refused(path, answer)
            if time.monotonic() > deadline:
                raise AssertionError(f"{path} was not accepted: {answer and answer.text}")
            time.sleep(0.1)

    def job(self, job_id: str) -> dict[str, Any]:
        return self.client.get(f"/v1/jobs/{job_id}").raise_for_status().json()

    # --- the database's side

    def scalar(self, query: sa.Select[T]) -> T | None:
        return self.database.read(lambda session: session.scalar(query))

    def done(self, job_id: str) -> int:
        """Return how many images of the job have ended."""
        Job = tables.Job
        ended = Job.embedded + Job.reused + Job.skipped + Job.failed + Job.cancelled
        return self.scalar(sa.select(ended).where(Job.id == job_id)) or 0

    def crash_database(self) -> None:
        """SIGKILL one of PostgreSQL's processes: the server takes it for a crash, drops everybody and recovers."""
        activity = sa.table("pg_stat_activity", sa.column("pid", sa.Integer), sa.column("backend_type", sa.String))
        mine = activity.c.pid == sa.func.pg_backend_pid()
        query = sa.select(activity.c.pid).where(activity.c.backend_type == "client backend", sa.not_(mine))
        if pid := self.scalar(query.order_by(sa.func.random()).limit(1)):
            os.kill(pid, signal.SIGKILL)

    def finish(self, *job_ids: str, timeout_s: float = PATIENCE_S) -> list[str]:
        """Wait until the jobs (all that were accepted) have ended; return their statuses."""
        ids = job_ids or tuple(self.accepted)
        until(lambda: not history.unfinished(self.database, ids), "jobs to end", timeout_s)
        return [self.scalar(sa.select(tables.Job.status).where(tables.Job.id == id)) or "" for id in ids]

    def check(self) -> history.Report:
        """Hold what was accepted against the database, and ask the doctor; raises AssertionError with what is wrong."""
        report = history.check(self.database, self.accepted)
        assert not report.problems, "\n".join(report.problems[:20])
        assert not (ills := self.ills()), "\n".join(ills)
        return report

    def ills(self) -> list[str]:
        """Return what the doctor finds."""
        if importlib.util.find_spec("imagekin.doctor") is None:
            return []
        from imagekin import doctor

        seen = doctor.examine(self.database, Storage(self.settings), self.settings)
        return [f"{each.sentence}: {each.details}" for each in seen.outcomes.values() if each.left]

    def broker(self) -> redis_client.Redis:
        """Return a client of Redis."""
        return redis_client.Redis(unix_socket_path=str(self.socket))


def children_of(pid: int) -> list[int]:
    """Return the living children of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found


def command_line(pid: int) -> bytes:
    """Return how a process was started; nothing where it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def peak_kib(pid: int) -> int:
    """Return a process's largest resident set so far, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
