"""Cluster jobs, in slices of a few seconds; how far a slice came is kept in SQL."""

from __future__ import annotations

import hashlib
import math
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import tables
from imagekin.enums import Algorithm, DType, Metric
from imagekin.jobs import checkpoint, fence, finish, results
from imagekin.jobs.claim import Claim, release
from imagekin.settings import Settings
from imagekin.store import ledger, reading, vector_codec
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kmeans import measure, pytorch_package
from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.kmeans.measure import Clustering, Options

SLICE_S = 4.0
PARTS_PER_COMMIT = 16
# kmeans-pytorch cannot be cut into slices: it must be through before the task's own limit.
SHARE_OF_TIME_LIMIT = 0.75


class Pinned:
    """A collection's vectors as of one revision, by key: chance then meets the same images in whatever order they came.

    So the same collection, seed and number of clusters give the same clusters.
    """

    def __init__(self, revision: int, ids: list[str], keys: list[str], rows: np.ndarray) -> None:
        self.revision = revision
        self.ids, self.keys, self.rows = ids, keys, rows
        self.digest = hashlib.blake2b("\n".join(ids).encode(), digest_size=16).hexdigest()


@dataclass
class Slice:
    """What a process keeps of a job between two slices; `saved` is the state that it left in SQL."""

    pinned: Pinned
    kmeans: KMeans
    saved: bytes = b""


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Work on a cluster job for a slice; the last one writes the result.

    Raises InvalidRequest and JobError where it cannot be done, LeaseLost.
    """
    (claim,) = claims
    job = node.database.read(fence.job_of, claim)
    saved = node.database.read(checkpoint.kept, claim)
    pinned = None
    if saved is None:
        pinned = _pin(node, claim)
        few = measure.of_few(measure.Rows(pinned.rows), Metric(job.params["metric"]), job.params["n_clusters"])
        if few is not None:
            _write(node, claim, job, pinned, few, batch_rows=None, distinct=few.n_clusters)
            return
    if job.params["algorithm"] == Algorithm.KMEANS_PYTORCH:
        pinned = pinned or _pin(node, claim)
        _write(node, claim, job, pinned, _original(node, claim, job, pinned, lease), batch_rows=None)
        return
    part = _resume(node, claim, job, saved, pinned)
    deadline = time.monotonic() + SLICE_S
    if part.kmeans.advance(until=lambda: lease.lost or time.monotonic() > deadline):
        _write(node, claim, job, part.pinned, part.kmeans.result(), part.kmeans.batch_rows)
        return
    part.saved = _packed(part)
    node.database.write(checkpoint.keep, claim, part.saved, round(part.kmeans.progress, 4))
    node.slices[claim.job_id] = part
    node.database.write(release, [claim])


def _pin(node: Node, claim: Claim, revision: int | None = None) -> Pinned:
    """Return the vectors as of `revision`, or as they are; beyond the memory budget they are in a mapped file."""
    return node.database.read(_pinned, claim, revision, node.settings)


def _pinned(session: Session, claim: Claim, revision: int | None, settings: Settings) -> Pinned:
    current, _ = reading.head(session, claim.collection_id)
    upto = current if revision is None else revision
    ids, keys = reading.names(session, claim.collection_id, upto)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    places = np.argsort(order)
    shape = (len(order), session.get_one(tables.Space, claim.space_id).dim)
    changes = reading.changes(session, claim.collection_id, 0, upto)
    if 4 * math.prod(shape) > settings.cluster_memory_bytes:
        rows = _spooled(changes, places, shape, settings.cache_folder)
    else:
        rows = np.empty(shape, np.float32)
        for at, change in _placed(changes, places):
            rows[at] = change.stored
    return Pinned(upto, [ids[row] for row in order], [keys[row] for row in order], rows)


def _placed(changes: Iterable[reading.Change], places: np.ndarray) -> Iterator[tuple[np.ndarray, reading.Change]]:
    """Yield the changes that have rows, each with the places of these."""
    start = 0
    for change in changes:
        if len(change.names):
            yield places[start : start + len(change.names)], change
            start += len(change.names)


def _spooled(changes: Iterable[reading.Change], places: np.ndarray, shape: tuple[int, int], folder: Path) -> np.ndarray:
    """Write the vectors one segment after the other into a file without a name, which is gone with its mapping."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        for at, change in _placed(changes, places):
            found = np.ascontiguousarray(change.vectors)
            # the images of a segment mostly follow each other by key, too
            breaks = np.flatnonzero(np.diff(at) != 1) + 1
            for start, run in zip(at[[0, *breaks]], np.split(found, breaks), strict=True):
                file.seek(int(start) * 4 * shape[1])
                file.write(run.data)
        file.flush()
        return np.memmap(file, np.float32, "r", shape=shape)


def _resume(node: Node, claim: Claim, job: tables.Job, saved: bytes | None, pinned: Pinned | None) -> Slice:
    """Go on where the last slice ended: from memory if that was here, else from SQL, else from the start."""
    kept: Slice | None = node.slices.pop(claim.job_id, None)
    node.slices.clear()
    if saved is not None:
        if kept is not None and kept.saved == saved:
            return kept
        about, state = _unpacked(saved)
        earlier = _pin(node, claim, about["revision"])
        # images that were replaced or deleted since are gone from the pinned revision: then it starts over
        if earlier.digest == about["digest"]:
            return Slice(earlier, KMeans.resume(earlier.rows, state, device=node.device))
    pinned = pinned or _pin(node, claim)
    options = replace(_options(node, job), memory_budget_bytes=node.settings.cluster_memory_bytes)
    kmeans = KMeans(pinned.rows, job.params["n_clusters"], options)
    return Slice(pinned, kmeans)


def _options(node: Node, job: tables.Job) -> Options:
    params = job.params
    return Options(metric=params["metric"], seed=params["seed"], n_init=params.get("n_init"), device=node.device)


def _packed(part: Slice) -> bytes:
    about = ledger.pack({"revision": part.pinned.revision, "digest": part.pinned.digest})
    return struct.pack("<I", len(about)) + about + part.kmeans.state()


def _unpacked(saved: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack_from("<I", saved)
    return ledger.unpack(saved[4 : 4 + length]), saved[4 + length :]


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
    for first, parts in _parts(pinned, found):
        node.database.write(finish.finalize, claim, first, parts)
    summary = {
        "n_clusters": found.n_clusters,
        "metric": job.params["metric"],
        "algorithm": job.params["algorithm"],
        "seed": job.params["seed"],
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
        centers=vector_codec.encode(found.centers, DType.FLOAT32),
    )
    node.database.write(finish.result, claim, summary, clustering=centers)


def _parts(pinned: Pinned, found: Clustering) -> Iterator[tuple[int, list[list[dict[str, Any]]]]]:
    """Yield (number of the first part, parts) of the assignments, by key."""
    per_commit = results.ROWS_PER_PART * PARTS_PER_COMMIT
    for start in range(0, len(pinned.keys), per_commit):
        rows = [
            {
                "id": pinned.ids[row],
                "key": pinned.keys[row],
                "label": int(found.labels[row]),
                "distance": round(float(found.distances[row]), 6),
            }
            for row in range(start, min(start + per_commit, len(pinned.keys)))
        ]
        parts = [rows[at : at + results.ROWS_PER_PART] for at in range(0, len(rows), results.ROWS_PER_PART)]
        yield 1 + start // results.ROWS_PER_PART, parts
