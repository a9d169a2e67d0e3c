"""Redis that dies, forgets, refuses or hangs: it only carries rings, so nothing may depend on it."""

from __future__ import annotations

import signal

import pytest
import redis

from kit import tiny
from kit.cluster import Cluster
from kit.patience import until


def rings_arrive(cluster: Cluster, name: str) -> None:
    """Check that the consumers are there again: whoever rings now, rings through Redis."""
    cluster.finish()
    assert cluster.finish(cluster.embed(name, tiny.keys(f"{name}-after", 1))) == ["succeeded"]


def test_redis_may_die_under_load(cluster: Cluster, name: str) -> None:
    cluster.collection(name, "slow.json")
    before = cluster.embed(name, tiny.keys(f"{name}-before", 32))
    cluster.holder(before)
    cluster.kill("redis")
    during = cluster.embed(name, tiny.keys(f"{name}-during", 4))
    # what is claimed is finished without Redis
    until(lambda: cluster.done(before), "images of the chunk in hand")
    cluster.start("redis")
    assert cluster.finish(before, during) == ["succeeded"] * 2
    rings_arrive(cluster, name)


def test_redis_may_forget_everything(cluster: Cluster, name: str) -> None:
    cluster.collection(name, "slow.json")
    job_id = cluster.embed(name, tiny.keys(name, 32))
    cluster.holder(job_id)
    cluster.broker().flushall()
    assert cluster.finish(job_id) == ["succeeded"]
    rings_arrive(cluster, name)


@pytest.mark.parametrize(
    ("setting", "refusal"),
    [
        ({"min-replicas-to-write": 1}, "NOREPLICAS"),
        ({"maxmemory": 1, "maxmemory-policy": "noeviction"}, "maxmemory"),
    ],
    ids=["no-replicas", "no-memory"],
)
def test_redis_may_refuse_to_write(cluster: Cluster, name: str, setting: dict[str, int | str], refusal: str) -> None:
    name = f"{name}-{len(setting)}"
    cluster.collection(name)
    broker = cluster.broker()
    # without memory a ring is refused, but who only waits for one need not notice; without replicas everybody does
    processes = ["api", *(cluster.workers if refusal == "NOREPLICAS" else [])]
    logs = {process: cluster.folder / "logs" / f"{process}.log" for process in processes}
    before = {process: log.stat().st_size for process, log in logs.items()}
    for key, value in setting.items():
        broker.config_set(key, value)
    try:
        with pytest.raises(redis.ResponseError):
            broker.set("probe", 1)
        job_id = cluster.embed(name, tiny.keys(name, 8))
        for process, log in logs.items():
            said = lambda log=log, start=before[process]: refusal.encode() in log.read_bytes()[start:]  # noqa: E731 - bound
            until(said, f"a refusal for {process}")
    finally:
        broker.config_set("min-replicas-to-write", 0)
        broker.config_set("maxmemory", 0)
    assert cluster.finish(job_id) == ["succeeded"]
    rings_arrive(cluster, name)


@pytest.mark.faults
def test_redis_may_hang(cluster: Cluster, name: str) -> None:
    cluster.collection(name, "slow.json")
    before = cluster.embed(name, tiny.keys(f"{name}-before", 32))
    cluster.holder(before)
    cluster.signal_group("redis", signal.SIGSTOP)
    try:
        during = cluster.embed(name, tiny.keys(f"{name}-during", 4))
        until(lambda: cluster.done(before), "images of the chunk in hand")
    finally:
        cluster.signal_group("redis", signal.SIGCONT)
    assert cluster.finish(before, during) == ["succeeded"] * 2
    rings_arrive(cluster, name)


def test_a_ring_that_comes_twice_is_two_claims(cluster: Cluster, name: str) -> None:
    from imagekin import doorbell

    cluster.collection(name, "slow.json")
    app = doorbell.celery_app(cluster.settings)
    job_id = cluster.embed(name, tiny.keys(name, 48))
    cluster.holder(job_id)
    for _ in range(4):
        app.send_task(doorbell.RING, queue="bulk", task_id=f"{name}-again", ignore_result=True)
    app.close()
    assert cluster.finish(job_id) == ["succeeded"]
