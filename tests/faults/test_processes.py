"""Processes that are killed, frozen or told to stop while they work."""

from __future__ import annotations

import os
import signal

import pytest
import sqlalchemy as sa

from imagekin.database import tables
from kit import tiny
from kit.cluster import Cluster
from kit.patience import until

# What a worker says whose chunk is somebody else's, or nobody's, by now.
REFUSED = ('"event": "lease_lost"', '"event": "claim_lost"', '"event": "chunk_lost"')


def busy(cluster: Cluster, name: str, images: int = 48) -> tuple[str, str]:
    """Submit a job of slow pictures; return its id and the worker that has some of them in hand."""
    job_id = cluster.embed(cluster.collection(name, "slow.json"), tiny.keys(name, images))
    return job_id, cluster.holder(job_id)


def test_a_killed_child_is_blamed_and_replaced(cluster: Cluster, name: str) -> None:
    job_id, worker = busy(cluster, name)
    child = cluster.child(worker)
    assert child is not None
    os.kill(child, signal.SIGKILL)
    deaths = sa.select(sa.func.sum(tables.Chunk.deaths)).where(tables.Chunk.job_id == job_id)
    until(lambda: cluster.scalar(deaths), "the blame")
    assert cluster.finish(job_id) == ["succeeded"]
    until(lambda: cluster.child(worker) not in (None, child), "another child")


def test_a_killed_worker_loses_nothing_and_does_nothing_twice(cluster: Cluster, name: str) -> None:
    """Between a chunk's commit and the acknowledgement of its ring, as near as can be had from outside."""
    job_id, worker = busy(cluster, name)
    before = cluster.done(job_id)
    until(lambda: cluster.done(job_id) > before, "a commit")
    cluster.kill(worker)
    assert cluster.finish(job_id) == ["succeeded"]
    # no process was there to blame another
    assert not cluster.scalar(sa.select(sa.func.sum(tables.Chunk.deaths)).where(tables.Chunk.job_id == job_id))


@pytest.mark.faults
def test_a_worker_without_its_parent_ends(cluster: Cluster, name: str) -> None:
    job_id, worker = busy(cluster, name)
    child = cluster.child(worker)
    assert child is not None
    cluster.kill(worker, with_children=False)
    assert cluster.finish(job_id) == ["succeeded"]
    until(lambda: not os.path.exists(f"/proc/{child}"), "the orphan's end")  # noqa: PTH110 - no file


def test_who_wakes_up_late_writes_nothing(cluster: Cluster, name: str) -> None:
    job_id, worker = busy(cluster, name)
    cluster.freeze(worker)
    try:
        assert cluster.finish(job_id) == ["succeeded"]
    finally:
        cluster.signal_group(worker, signal.SIGCONT)
    again = sa.select(sa.func.count()).where(tables.Chunk.job_id == job_id, tables.Chunk.attempt > 1)
    assert cluster.scalar(again), "nothing was taken over"
    log = cluster.folder / "logs" / f"{worker}.log"
    until(lambda: any(word in log.read_text() for word in REFUSED), "the refusal")


def test_a_worker_frozen_while_idle_and_killed_loses_its_message_only(cluster: Cluster, name: str) -> None:
    cluster.collection(name)
    for worker in ("bulk-0", "bulk-1"):
        cluster.freeze(worker)
    job_id = cluster.embed(name, tiny.keys(name, 4))
    cluster.kill("bulk-0", "bulk-1")
    cluster.start("bulk-0")
    assert cluster.finish(job_id) == ["succeeded"]


@pytest.mark.faults
def test_an_idle_worker_stops_within_seconds(cluster: Cluster) -> None:
    cluster.finish()
    cluster.workers["bulk-1"].terminate()
    until(lambda: not cluster.workers["bulk-1"].running, "the stop", timeout_s=8)


@pytest.mark.faults
def test_a_worker_hands_back_what_it_cannot_finish_in_its_grace(cluster: Cluster, name: str) -> None:
    job_id = cluster.embed(cluster.collection(name, "slower.json"), tiny.keys(name, 16))
    worker = cluster.holder(job_id)
    cluster.workers[worker].terminate()
    until(lambda: not cluster.workers[worker].running, "the stop", timeout_s=14)
    log = cluster.folder / "logs" / f"{worker}.log"
    assert '"event": "handed_back"' in log.read_text()
    assert cluster.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202


@pytest.mark.faults
def test_rolling_restarts_lose_nothing(cluster: Cluster, name: str) -> None:
    cluster.collection(name, "slow.json")
    jobs = [cluster.embed(name, tiny.keys(f"{name}{number}", 40)) for number in range(3)]
    for worker in [*cluster.workers, "api"]:
        cluster.processes[worker].terminate()
        until(lambda worker=worker: not cluster.processes[worker].running, f"the end of {worker}", 30)
        cluster.start(worker)
    assert cluster.finish(*jobs) == ["succeeded"] * 3
    attempts = sa.select(sa.func.max(tables.Chunk.attempt)).where(tables.Chunk.job_id.in_(jobs), tables.Chunk.seq >= 0)
    assert cluster.scalar(attempts) == 1, "what was in hand was not finished"


def test_after_a_cancellation_nothing_is_written(cluster: Cluster, name: str) -> None:
    job_id, worker = busy(cluster, name)
    answer = cluster.client.post(f"/v1/jobs/{job_id}/cancel")
    assert answer.status_code == 202
    count = sa.select(tables.Collection.image_count, tables.Collection.revision).where(tables.Collection.name == name)
    before = cluster.database.read(lambda session: session.execute(count).one())
    log = cluster.folder / "logs" / f"{worker}.log"

    until(lambda: any(word in log.read_text() for word in REFUSED), "the worker to hear of it")
    # another job through the same hands: what came before it is over
    assert cluster.finish(cluster.embed(name, tiny.keys(f"{name}-2", 1))) == ["succeeded"]
    after = cluster.database.read(lambda session: session.execute(count).one())
    assert (after.image_count, after.revision) == (before.image_count + 1, before.revision + 1)
    assert cluster.job(job_id)["status"] == "cancelled"
