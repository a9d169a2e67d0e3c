"""Cluster jobs, in slices of a few seconds; how far a slice came is kept in SQL."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imagekin import errors
from imagekin.database import tables
from imagekin.enums import AUTO, Algorithm, DType, Metric
from imagekin.jobs import checkpoint, fence, finish
from imagekin.jobs.claim import Claim, release
from imagekin.store import vector_codec
from imagekin_worker.analysis import granularity
from imagekin_worker.analysis.granularity import GranularitySearch
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import pinned as pins
from imagekin_worker.kinds.pinned import Pinned
from imagekin_worker.kmeans import measure, pytorch_package
from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.kmeans.measure import Clustering, Options
from imagekin_worker.matrix.view import RAW

# kmeans-pytorch cannot be cut into slices: it must be through before the task's own limit.
SHARE_OF_TIME_LIMIT = 0.75
# Of the progress, where the number of clusters is to be chosen first.
CHOOSING_SHARE = 0.5


@dataclass
class Slice:
    """What a process keeps of a job between two slices; `saved` is the state that it left in SQL.

    `search` is there until the number of clusters is chosen, `kmeans` from then on. `silhouettes`: of the numbers that
    were tried; None if the job named one.
    """

    pinned: Pinned
    search: GranularitySearch | None = None
    n_clusters: int = 0
    silhouettes: list[tuple[int, float]] | None = None
    kmeans: KMeans | None = None
    saved: bytes = b""

    @property
    def chosen_share(self) -> float:
        """The progress of the job when its number of clusters is chosen."""
        return 0.0 if self.search is None and self.silhouettes is None else CHOOSING_SHARE

    def packed(self) -> bytes:
        """Return what another process needs to continue."""
        about = {**self.pinned.about, "n_clusters": self.n_clusters, "silhouettes": self.silhouettes}
        work = self.kmeans or self.search
        return pins.packed({**about, "choosing": self.kmeans is None}, b"" if work is None else work.state())

    def progress(self) -> float:
        """Return the share of the job that is done, 0 to 1."""
        start = self.chosen_share
        if self.kmeans is not None:
            return start + (1 - start) * self.kmeans.progress
        return start * self.search.fraction if self.search is not None else 0.0


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Work on a cluster job for a turn; the last one writes the result.

    Raises InvalidRequest and JobError if it cannot be done, LeaseLost.
    """
    (claim,) = claims
    job = node.database.read(fence.job_of, claim)
    part = _resumed(node, claim, job)
    if isinstance(part, Few):
        _write(node, claim, job, part, part.found, distinct=part.found.n_clusters)
        return
    began = time.monotonic()
    if part.search is not None:
        if not _through(node, claim, lease, part, part.search, began):
            return
        chosen = part.search.result()
        part.n_clusters, part.silhouettes, part.search = chosen.n_clusters, chosen.scores, None
    if job.params["algorithm"] == Algorithm.KMEANS_PYTORCH:
        _write(node, claim, job, part, _original(node, claim, job, part, lease))
        return
    if part.kmeans is None:
        options = replace(_options(node, job), memory_budget_bytes=node.settings.cluster_memory_bytes)
        part.kmeans = KMeans(part.pinned.rows, part.n_clusters, options)
    if _through(node, claim, lease, part, part.kmeans, began):
        _write(node, claim, job, part, part.kmeans.result(), batch_rows=part.kmeans.batch_rows)


def _through(
    node: Node, claim: Claim, lease: Lease, part: Slice, work: GranularitySearch | KMeans, began: float
) -> bool:
    """Work in slices while the turn lasts; return whether it is finished, or was let go for the next claim."""
    while True:
        deadline = time.monotonic() + pins.SLICE_S
        if work.advance(until=lambda deadline=deadline: lease.lost or time.monotonic() > deadline):
            return True
        part.saved = part.packed()
        node.database.write(checkpoint.keep, claim, part.saved, round(part.progress(), 4))
        if not pins.lasts(node, began):
            node.slices[claim.job_id] = part
            node.database.write(release, [claim])
            return False


@dataclass
class Few:
    """A collection with fewer distinct vectors than clusters: each is one, and there is nothing to compute."""

    pinned: Pinned
    found: Clustering
    silhouettes: list[tuple[int, float]] | None


def _resumed(node: Node, claim: Claim, job: tables.Job) -> Slice | Few:
    """Continue where the last slice ended: from memory if that was here, else from SQL, else from the start."""
    kept: Slice | None = node.slices.pop(claim.job_id, None)
    node.slices.clear()
    saved = node.database.read(checkpoint.kept, claim)
    # an empty one is of kmeans-pytorch, which starts over
    if saved:
        if kept is not None and kept.saved == saved:
            return kept
        about, state = pins.unpacked(saved)
        earlier = _pinned(node, claim, job, about["revision"])
        # images that were replaced or deleted since are gone from the pinned revision: then it starts over
        if earlier.digest == about["digest"]:
            return _continued(node, job, earlier, about, state)
    return _begun(job, _pinned(node, claim, job))


def _continued(node: Node, job: tables.Job, pinned: Pinned, about: dict[str, Any], state: bytes) -> Slice:
    if about.get("choosing"):
        return Slice(pinned, search=GranularitySearch.resume(pinned.rows, state))
    part = Slice(pinned, kmeans=KMeans.resume(pinned.rows, state, device=node.device))
    # of a slice that began before numbers were chosen
    part.n_clusters = about.get("n_clusters") or job.params["n_clusters"]
    if about.get("silhouettes"):
        part.silhouettes = [(number, score) for number, score in about["silhouettes"]]
    return part


def _begun(job: tables.Job, pinned: Pinned) -> Slice | Few:
    params, wanted = job.params, job.params["n_clusters"]
    auto = wanted == AUTO
    metric = Metric(params["metric"])
    least = granularity.LEAST_ROWS if auto else wanted
    if (few := measure.of_few(measure.Rows(pinned.rows), metric, least)) is not None:
        return Few(pinned, few, [] if auto else None)
    if auto:
        search = GranularitySearch(pinned.rows, metric, max_clusters=params["max_clusters"], seed=params["seed"])
        return Slice(pinned, search=search)
    return Slice(pinned, n_clusters=wanted)


def _pinned(node: Node, claim: Claim, job: tables.Job, revision: int | None = None) -> Pinned:
    """Return the vectors in the view that they are clustered in."""
    # a job of a service that did not know views
    return pins.pin(node, claim, revision, view=job.params.get("view", RAW), transformed=True)


def _options(node: Node, job: tables.Job) -> Options:
    params = job.params
    return Options(metric=params["metric"], seed=params["seed"], n_init=params.get("n_init"), device=node.device)


def _original(node: Node, claim: Claim, job: tables.Job, part: Slice, lease: Lease) -> Clustering:
    start = part.chosen_share
    seconds = SHARE_OF_TIME_LIMIT * node.settings.soft_time_limit_s
    deadline = time.monotonic() + seconds
    try:
        return pytorch_package.run(
            part.pinned.rows,
            part.n_clusters,
            _options(node, job),
            progress=lambda share: node.database.write(
                checkpoint.keep, claim, part.saved, round(start + (1 - start) * share, 4)
            ),
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
    part: Slice | Few,
    found: Clustering,
    *,
    batch_rows: int | None = None,
    distinct: int | None = None,
) -> None:
    """Write the assignments in parts, then the summary and the centers, which end the job."""
    pinned = part.pinned
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
        "silhouettes": None
        if part.silhouettes is None
        else [{"n_clusters": number, "score": round(score, 6)} for number, score in part.silhouettes],
        "clusters": [
            {
                "label": label,
                "name": None,
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
