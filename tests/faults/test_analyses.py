"""Analyses whose worker is killed again and again: continued elsewhere, they come to the answer of a run in peace."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import analyze, tables
from imagekin.enums import OnConflict
from imagekin.store import collections, segments
from kit.cluster import Cluster
from kit.databases import migrated
from kit.patience import PATIENCE_S, until

DIM, CROWDS, ROWS_PER_SEGMENT = 64, 40, 2000
# Whole workers are killed here and no children, so a lease need not outlast the news of a child's death.
LEASE_S, RENEW_S = 2.0, 0.4
KILLS = 2
# From the news of a saved slice to the kill: anywhere in the next one, which is longer.
LATEST_S = 2.0


@dataclass(frozen=True)
class Kind:
    """A kind of job over so many images, and what is asked of it besides the collection."""

    name: str
    count: int
    body: dict[str, Any] = field(default_factory=dict)


# One of each shape: all pairs; k-means again and again, to choose a number; one long computation.
KINDS = [
    Kind("duplicates", 60_000),
    Kind("cluster", 20_000, {"n_clusters": "auto", "max_clusters": 40, "n_init": 2}),
    Kind("map", 3_000),
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own, in which nothing but analyses run."""
    folder = tmp_path_factory.mktemp("analyses")
    with (
        migrated(request, request.param, folder) as url,
        Cluster(folder / "data", url, interactive=0, lease_s=LEASE_S, renew_s=RENEW_S) as cluster,
    ):
        yield cluster


def stored(cluster: Cluster, name: str, count: int) -> None:
    """Fill a collection with vectors around centers; one in fifty is nearly that of the image before it."""
    drawn = np.random.default_rng(count)
    centers = drawn.standard_normal((CROWDS, DIM))
    rows = centers[drawn.integers(0, CROWDS, count)] + 0.5 * drawn.standard_normal((count, DIM))
    rows[1::50] = rows[:-1:50][: len(rows[1::50])] + 0.001

    def write(session: Session, start: int) -> None:
        collection = collections.get(session, "local", name)
        items = [
            segments.Item(f"{at:06}.jpg", vector=rows[at].astype("<f4"), content_hash=f"{name}-{at}".rjust(64, "0"))
            for at in range(start, min(start + ROWS_PER_SEGMENT, count))
        ]
        segments.store(session, collection.id, items, OnConflict.REPLACE)

    cluster.collection(name)
    for start in range(0, count, ROWS_PER_SEGMENT):
        cluster.database.write(write, start)
    # as a worker does once a minute
    cluster.database.write(analyze.refresh)


def answer(cluster: Cluster, job_id: str) -> dict[str, Any]:
    assert cluster.finish(job_id, timeout_s=3 * PATIENCE_S) == ["succeeded"]
    return cluster.client.get(f"/v1/jobs/{job_id}/result").raise_for_status().json()


def further(cluster: Cluster, job_id: str, before: float) -> float:
    """Wait until a slice was saved that went further than `before`, or the job is over; return how far it is."""

    def fraction() -> float | None:
        found = cluster.job(job_id)["progress"]["fraction"] or 0.0
        assert found >= before, "it began again"
        return found if found > before else None

    return until(fraction, "another saved slice", 3 * PATIENCE_S)


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_a_killed_analysis_comes_to_the_same_answer(cluster: Cluster, kind: Kind) -> None:
    cluster.heal()
    name = f"killed-{kind.name}"
    stored(cluster, name, kind.count)
    body = {"collection": name, **kind.body}
    in_peace = answer(cluster, cluster.post(f"/v1/jobs/{kind.name}", json=body))

    moments, kills, fraction = random.Random(kind.name), 0, 0.0
    job_id = cluster.post(f"/v1/jobs/{kind.name}", json=body)
    claimed_by = sa.select(tables.Chunk.claimed_by).where(tables.Chunk.job_id == job_id)
    while kills < KILLS and (fraction := further(cluster, job_id, fraction)) < 1:
        moment = time.monotonic() + moments.uniform(0, LATEST_S)
        until(lambda moment=moment: time.monotonic() > moment, "a moment of the next slice")
        if worker := next((each for each in cluster.workers if cluster.holds(each, job_id)), None):
            held = cluster.scalar(claimed_by)
            cluster.kill(worker)
            kills += 1
            until(lambda held=held: cluster.scalar(claimed_by) not in (None, held), "the job to be taken up")
            cluster.start(worker)
    assert kills, "it was over before a slice was saved"
    print(f"{kind.name}: {kills} kills")
    assert answer(cluster, job_id) == in_peace
