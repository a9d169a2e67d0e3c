"""Index jobs whose worker is killed again and again: continued elsewhere, the index has every image once."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import analyze, tables
from imagekin.enums import OnConflict
from imagekin.store import collections, indexes, segments
from kit.cluster import Cluster
from kit.databases import migrated
from kit.patience import PATIENCE_S, until

DIM, COUNT, ROWS_PER_SEGMENT = 64, 60_000, 2000
LEASE_S, RENEW_S = 2.0, 0.4
KILLS = 4


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("indexes")
    with (
        migrated(request, "postgresql", folder) as url,
        Cluster(folder / "data", url, lease_s=LEASE_S, renew_s=RENEW_S) as cluster,
    ):
        yield cluster


def stored(cluster: Cluster, rows: np.ndarray) -> str:
    """Fill a collection and return its id."""

    def write(session: Session, start: int) -> str:
        collection = collections.get(session, "local", "killed")
        items = [
            segments.Item(f"{at:06}.jpg", vector=rows[at], content_hash=f"{at:064x}")
            for at in range(start, start + ROWS_PER_SEGMENT)
        ]
        segments.store(session, collection.id, items, OnConflict.REPLACE)
        return collection.id

    cluster.collection("killed")
    ids = [cluster.database.write(write, start) for start in range(0, len(rows), ROWS_PER_SEGMENT)]
    cluster.database.write(analyze.refresh)
    return ids[0]


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_an_index_that_is_killed_while_it_is_built_has_every_image_once(cluster: Cluster) -> None:
    rows = np.random.default_rng(0).standard_normal((COUNT, DIM)).astype("<f4")
    collection_id = stored(cluster, rows)
    job_id = cluster.post("/v1/collections/killed/index", json={"index": "hnsw"})
    moments, kills, phases = random.Random(1), 0, set[str]()
    claimed_by = sa.select(tables.Chunk.claimed_by).where(tables.Chunk.job_id == job_id)
    while kills < KILLS and cluster.job(job_id)["finished_at"] is None:
        moment = time.monotonic() + moments.uniform(0.2, 3)
        until(lambda moment=moment: time.monotonic() > moment, "a moment of the building")
        if worker := next(iter(cluster.holders(job_id)), None):
            held = cluster.scalar(claimed_by)
            phases.add("graph" if (cluster.job(job_id)["progress"]["fraction"] or 0) >= 0.2 else "rows")
            cluster.kill(worker)
            kills += 1
            until(lambda held=held: cluster.scalar(claimed_by) not in (None, held), "the job to be taken up")
            cluster.start(worker)
    print(f"{kills} kills, in {sorted(phases)}")
    assert kills
    assert cluster.finish(job_id, timeout_s=6 * PATIENCE_S) == ["succeeded"]
    index = cluster.database.read(indexes.ready, collection_id)
    assert index is not None and index.images == COUNT
    assert cluster.database.read(indexes.missing, index, COUNT) == 0
    assert cluster.scalar(sa.select(sa.func.count()).select_from(sa.table(index.table))) == COUNT
    hits = sum(found(cluster, rows[at]) == f"{at:06}.jpg" for at in range(0, COUNT, COUNT // 20))
    assert hits == 20


def found(cluster: Cluster, row: np.ndarray) -> str:
    query: dict[str, Any] = {"embedding": row.tolist()}
    job_id = cluster.post("/v1/jobs/search", json={"collection": "killed", "query": query, "top_k": 1})
    assert cluster.finish(job_id) == ["succeeded"]
    return cluster.client.get(f"/v1/jobs/{job_id}/result").raise_for_status().json()["neighbors"][0]["key"]
