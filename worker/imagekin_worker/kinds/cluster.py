"""Cluster jobs, in slices of a few seconds; how far a slice came is kept in SQL."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imagekin import errors
from imagekin.database import tables
from imagekin.enums import Algorithm, DType, Metric
from imagekin.jobs import checkpoint, fence, finish
from imagekin.jobs.claim import Claim, release
from imagekin.store import vector_codec
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import pinned as pins
from imagekin_worker.kinds.pinned import Pinned
from imagekin_worker.kmeans import measure, pytorch_package
from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.kmeans.measure import Clustering, Options
from imagekin_worker.matrix.view import RAW

SLICE_S = 4.0
# kmeans-pytorch cannot be cut into slices: it must be through before the task's own limit.
SHARE_OF_TIME_LIMIT = 0.75


@dataclass
class Slice:
    """What a process keeps of a job between two slices; `saved` is the state that it left in SQL."""

    pinned: Pinned
    kmeans: KMeans
    saved: bytes = b""


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Work on a cluster job for a slice; the last one writes the result.

    Raises InvalidRequest and JobError if it cannot be done, LeaseLost.
    """
    (claim,) = claims
    job = node.database.read(fence.job_of, claim)
    saved = node.database.read(checkpoint.kept, claim)
    pinned = None
    if saved is None:
        pinned = _pinned(node, claim, job)
        few = measure.of_few(measure.Rows(pinned.rows), Metric(job.params["metric"]), job.params["n_clusters"])
        if few is not None:
            _write(node, claim, job, pinned, few, batch_rows=None, distinct=few.n_clusters)
            return
    if job.params["algorithm"] == Algorithm.KMEANS_PYTORCH:
        pinned = pinned or _pinned(node, claim, job)
        _write(node, claim, job, pinned, _original(node, claim, job, pinned, lease), batch_rows=None)
        return
    part = _resume(node, claim, job, saved, pinned)
    deadline = time.monotonic() + SLICE_S
    if part.kmeans.advance(until=lambda: lease.lost or time.monotonic() > deadline):
        _write(node, claim, job, part.pinned, part.kmeans.result(), part.kmeans.batch_rows)
        return
    part.saved = pins.packed(part.pinned.about, part.kmeans.state())
    node.database.write(checkpoint.keep, claim, part.saved, round(part.kmeans.progress, 4))
    node.slices[claim.job_id] = part
    node.database.write(release, [claim])


def _resume(node: Node, claim: Claim, job: tables.Job, saved: bytes | None, pinned: Pinned | None) -> Slice:
    """Continue where the last slice ended: from memory if that was here, else from SQL, else from the start."""
    kept: Slice | None = node.slices.pop(claim.job_id, None)
    node.slices.clear()
    if saved is not None:
        if kept is not None and kept.saved == saved:
            return kept
        about, state = pins.unpacked(saved)
        earlier = _pinned(node, claim, job, about["revision"])
        # images that were replaced or deleted since are gone from the pinned revision: then it starts over
        if earlier.digest == about["digest"]:
            return Slice(earlier, KMeans.resume(earlier.rows, state, device=node.device))
    pinned = pinned or _pinned(node, claim, job)
    options = replace(_options(node, job), memory_budget_bytes=node.settings.cluster_memory_bytes)
    kmeans = KMeans(pinned.rows, job.params["n_clusters"], options)
    return Slice(pinned, kmeans)


def _pinned(node: Node, claim: Claim, job: tables.Job, revision: int | None = None) -> Pinned:
    """Return the vectors in the view that they are clustered in."""
    # a job of a service that did not know views
    return pins.pin(node, claim, revision, view=job.params.get("view", RAW), transformed=True)


def _options(node: Node, job: tables.Job) -> Options:
    params = job.params
    return Options(metric=params["metric"], seed=params["seed"], n_init=params.get("n_init"), device=node.device)


def _original(node: Node, claim: Claim, job: tables.Job, pinned: Pinned, lease: Lease) -> Clustering:
    seconds = SHARE_OF_TIME_LIMIT * node.settings.soft_time_limit_s
    deadline = time.monotonic() + seconds
    try:
        return pytorch_package.run(
            pinned.rows,
            job.params["n_clusters"],
            _options(node, job),
            progress=lambda share: node.database.write(checkpoint.keep, claim, b"", round(share, 4)),
            should_stop=lambda: lease.lost or time.monotonic() > deadline,
        )
    except pytorch_package.Stopped as stopped:
        if lease.lost:
            raise errors.LeaseLost from stopped
        raise errors.NotConverged(
            f"kmeans-pytorch was not done after {seconds:.0f} s; use algorithm=kmeans, or fewer starts (n_init)."
        ) from stopped


def _write(
    node: Node,
    claim: Claim,
    job: tables.Job,
    pinned: Pinned,
    found: Clustering,
    batch_rows: int | None,
    distinct: int | None = None,
) -> None:
    """Write the assignments in parts, then the summary and the centers, which end the job."""
    pins.write_rows(node, claim, _rows(pinned, found))
    assert pinned.view is not None
    summary = {
        "n_clusters": found.n_clusters,
        "metric": job.params["metric"],
        "algorithm": job.params["algorithm"],
        "seed": job.params["seed"],
        "view": pinned.view.described(),
        "revision": pinned.revision,
        "inertia": float(found.inertia),
        "iterations": int(found.iterations),
        "batch_rows": batch_rows,
        "distinct": distinct,
        "clusters": [
            {
                "label": label,
                "size": int(found.sizes[label]),
                "medoid": {"id": pinned.ids[row], "key": pinned.keys[row]},
                "cohesion": round(float(found.cohesion[label]), 6),
            }
            for label, row in enumerate(found.medoids)
        ],
    }
    centers = tables.Clustering(
        job_id=claim.job_id,
        owner=claim.owner,
        collection_id=claim.collection_id,
        metric=job.params["metric"],
        n_clusters=found.n_clusters,
        dim=found.centers.shape[1],
        revision=pinned.revision,
        view=pinned.view.saved(),
        centers=vector_codec.encode(found.centers, DType.FLOAT32),
    )
    node.database.write(finish.result, claim, summary, clustering=centers)


def _rows(pinned: Pinned, found: Clustering) -> Iterator[dict[str, Any]]:
    """Yield the assignments, by key."""
    for row, (id, key) in enumerate(zip(pinned.ids, pinned.keys, strict=True)):
        distance = round(float(found.distances[row]), 6)
        yield {"id": id, "key": key, "label": int(found.labels[row]), "distance": distance}
