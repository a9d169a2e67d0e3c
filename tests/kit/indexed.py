"""Indexes of vectors after a run in which things broke: nothing is left over, and searches by them find every image."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import tables
from imagekin.enums import IndexStatus, JobStatus, Lane
from imagekin.schemas.kinds import JobKind
from imagekin.store import indexes
from imagekin_worker.context.process_state import Node
from imagekin_worker.matrix.view import CALIBRATED
from kit import tiny
from kit.cluster import Cluster
from kit.patience import until

QUERIES, TOP_K = 20, 10
# Images of a collection that are searched for at most: each reads vectors, which takes long from object storage.
MOST_OWN = 1000
# What is found of the true neighbors at least, on average.
LEAST_RECALL = 0.9
# Scores of the same picture, up to rounding.
SAME = 0.99999


def problems(cluster: Cluster) -> list[str]:
    """Return what is wrong with indexes once all jobs have ended; a collection without one has one built first."""
    found = cluster.database.read(_failed)
    try:
        until(lambda: not cluster.database.read(indexes.leftovers), "the upkeep to drop indexes that nothing uses")
    except TimeoutError as error:
        found.append(str(error))
    found += cluster.database.read(_left)
    with closing(Node(cluster.settings, Lane.INTERACTIVE)) as node:
        for collection in cluster.database.read(_collections):
            found += _searched(cluster, node, collection)
    return found


def _failed(session: Session) -> list[str]:
    """Return the jobs that failed, except those that were to check an index that was removed meanwhile."""
    jobs = session.scalars(sa.select(tables.Job).where(tables.Job.kind == JobKind.INDEX)).all()
    print("index jobs", dict(Counter(f"{job.params.get('index', 'check')} {job.status}" for job in jobs)))
    return [
        f"index job {job.id} {job.params} failed: {job.error_detail}"
        for job in jobs
        if job.status == JobStatus.FAILED
        and not ("queries" in job.params and "no index to check" in (job.error_detail or ""))
    ]


def _left(session: Session) -> list[str]:
    """Return tables that belong to no index, indexes that are not ready and have no job, and graphs begun and left."""
    names = session.scalars(sa.text("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'hnsw\\_%'"))
    known = dict(session.execute(sa.select(tables.VectorIndex.id, tables.VectorIndex.status)).all())
    there = {name.removeprefix("hnsw_") for name in names}
    invalid = session.scalars(sa.text("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"))
    return [
        *(f"the table hnsw_{id} is there: {id in there}, and its index: {id in known}" for id in there ^ known.keys()),
        *(f"the index {id} is {status}" for id, status in known.items() if status != IndexStatus.READY),
        *(f"{name} is not a valid index" for name in invalid),
    ]


def _collections(session: Session) -> list[tuple[str, str]]:
    return [(each.id, each.name) for each in session.scalars(sa.select(tables.Collection)) if each.image_count]


def _searched(cluster: Cluster, node: Node, collection: tuple[str, str]) -> Iterator[str]:
    """Yield what searches by a collection's index miss."""
    id, name = collection
    database, made = cluster.database, "in the run"
    if database.read(indexes.ready, id) is None:
        made = "after it"
        job_id = cluster.index(name, "hnsw")
        if cluster.finish(job_id) != [JobStatus.SUCCEEDED]:
            yield f"{name} has no index: {cluster.job(job_id)}"
            return
    index = database.read(indexes.ready, id)
    if index is None:
        yield f"{name} has no index, and its job succeeded"
        return
    images = sa.select(tables.Image.key).where(tables.Image.collection_id == id, tables.Image.deleted_at.is_(None))
    keys = list(database.read(lambda session: session.scalars(images).all()))
    count = len(keys)
    if missing := database.read(indexes.missing, index, count):
        yield f"the index of {name} lacks {missing} images"
    keys = random.Random(0).sample(keys, min(len(keys), MOST_OWN))
    _, own = node.searches.search(id, np.stack([tiny.embedding(key) for key in keys]), 1, view=CALIBRATED)
    for key, neighbors in zip(keys, own, strict=True):
        # one of the same content is as near
        if not neighbors or tiny.content(neighbors[0].key) != tiny.content(key) or neighbors[0].score < SAME:
            yield f"{key} of {name} was searched for, and found: {neighbors}"
    queries = np.stack([tiny.embedding(key) for key in tiny.keys("not stored", QUERIES)])
    _, true = node.residents.search(id, queries, TOP_K, view=CALIBRATED)
    _, near = node.searches.search(id, queries, TOP_K, view=CALIBRATED)
    scores = {(at, one.key): one.score for at, some in enumerate(true) for one in some}
    both = [(at, one) for at, some in enumerate(near) for one in some if (at, one.key) in scores]
    recall = len(both) / max(len(scores), 1)
    behind = database.read(indexes.behind, index, count)
    print(f"{name}: {count} images, index made {made}, {behind} behind, recall@{TOP_K} {recall:.3f}")
    if recall < LEAST_RECALL:
        yield f"searches by the index of {name} find {recall:.3f} of the true neighbors"
    yield from (
        f"{one.key} of {name} has another score by the index" for at, one in both if scores[at, one.key] != one.score
    )
