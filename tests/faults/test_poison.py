"""Images that take their process with them, or never end; tenants that would take everything."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from kit import tiny
from kit.cluster import Cluster
from kit.patience import until


def items(cluster: Cluster, job_id: str, status: str) -> list[dict]:
    return cluster.client.get(f"/v1/jobs/{job_id}/items", params={"status": status}).json()["items"]


@pytest.mark.timeout(300)
def test_an_image_that_kills_is_set_aside_and_its_neighbors_finish(cluster: Cluster, name: str) -> None:
    cluster.collection(name, "fatal.json")
    pictures = tiny.keys(name, 4)
    pictures[2] = tiny.key(tiny.FATAL)
    innocent = cluster.embed(cluster.collection(f"{name}-innocent", "fatal.json"), tiny.keys(f"{name}-innocent", 4))
    job_id = cluster.embed(name, pictures)
    assert cluster.finish(job_id, innocent, timeout_s=240) == ["partial", "succeeded"]
    (failed,) = items(cluster, job_id, "failed")
    assert (failed["key"], failed["error"]["code"]) == (tiny.key(tiny.FATAL), "quarantined")
    assert "SIGKILL" in failed["error"]["detail"]
    assert len(items(cluster, job_id, "embedded")) == 3


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_an_image_that_never_ends_is_set_aside(tmp_path: Path, migrated_sqlite: Path) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "imagekin.db")
    url = f"sqlite:///{tmp_path / 'imagekin.db'}"
    with Cluster(tmp_path, url, bulk=1, interactive=0, soft_time_limit_s=2.0, time_limit_s=4.0) as cluster:
        job_id = cluster.embed(cluster.collection("stuck", "stuck.json"), tiny.keys("stuck", 2))
        assert cluster.finish(job_id, timeout_s=300) == ["failed"]
        assert [item["error"]["code"] for item in items(cluster, job_id, "failed")] == ["quarantined"] * 2
        cluster.check()


def test_a_child_killed_while_it_loads_is_replaced(cluster: Cluster, name: str) -> None:
    """Deaths before any claim blame nobody, and end."""
    cluster.collection(name, "slow.json")
    job_id = cluster.embed(name, tiny.keys(name, 32))
    worker = cluster.holder(job_id)
    for _ in range(3):
        child = until(lambda: cluster.child(worker), "a child") or 0
        os.kill(child, signal.SIGKILL)
        until(lambda child=child: cluster.child(worker) not in (None, child), "another child")
    assert cluster.finish(job_id) == ["succeeded"]


def test_searches_pass_a_huge_tenant(cluster: Cluster, name: str) -> None:
    cluster.collection(name, "slow.json")
    assert cluster.finish(cluster.embed(name, tiny.keys(name, 4))) == ["succeeded"]
    huge = cluster.embed(name, tiny.keys(f"{name}-huge", 300))
    cluster.holder(huge)
    for _ in range(5):
        assert cluster.finish(cluster.search(name, tiny.keys(name, 1)[0])) == ["succeeded"]
    assert cluster.job(huge)["progress"]["done"] < 300
    assert cluster.client.post(f"/v1/jobs/{huge}/cancel").status_code == 202
