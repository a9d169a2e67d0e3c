"""Searches: many queries, one forward pass for their pictures, one matrix product for each collection."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.catalog import Space
from imagekin.database import tables
from imagekin.jobs import end, fence, finish
from imagekin.jobs.claim import Claim
from imagekin.net.fetch import Fetcher
from imagekin.store import images, segments
from imagekin.store.vector_codec import Vectors
from imagekin.telemetry import metrics
from imagekin_worker.context import claim_log
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.matrix import lengths
from imagekin_worker.matrix.neighbors import Neighbor
from imagekin_worker.matrix.view import RAW, View
from imagekin_worker.network import preprocess
from imagekin_worker.network.backbones import Backbone

log = structlog.get_logger()


# The searches behind wait as long.
SLOWEST_FETCH_S = 5.0


@dataclass(eq=False)
class Search:
    """A claimed search on its way: its job, and its query's vector (dim,) once that is known.

    `pixels` (crop, crop, 3): the picture that a query by URL leads to, once it is fetched.
    """

    claim: Claim
    job: tables.Job
    vector: Vectors | None = None
    pixels: np.ndarray | None = None
    thumbnail: bytes | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def view(self) -> str:
        # a job of a service that did not know views
        return self.job.params.get("view", RAW)


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Answer claimed searches of one space; one that cannot be answered fails alone."""
    searches = [search for claim in claims if (search := _begun(node, claim, lease)) is not None]
    elsewhere = [search for search in searches if "url" in search.job.work["query"]]
    # those that need no network don't wait for it
    _answer(node, [search for search in searches if search not in elsewhere], lease)
    if elsewhere:
        _answer(node, _fetched(node, elsewhere), lease)


def _answer(node: Node, searches: Sequence[Search], lease: Lease) -> None:
    groups: dict[tuple[str, str], list[Search]] = defaultdict(list)
    for search in _with_vectors(node, searches):
        groups[search.claim.collection_id, search.view].append(search)
    for (collection_id, name), group in groups.items():
        metrics.WORK.product_searches.observe(len(group))
        try:
            view, answers = node.residents.search(
                collection_id,
                np.stack([search.vector for search in group if search.vector is not None]),
                max(search.job.params["top_k"] for search in group),
                view=name,
                exclude=[_excluded(search) for search in group],
                among=_among(node, group),
            )
        except errors.ImagekinError as error:
            for search in group:
                node.database.write(end.fail, search.claim.job_id, error.code, error.detail)
            continue
        for search, neighbors in zip(group, answers, strict=True):
            _finish(node, search, view, neighbors, lease)


def _begun(node: Node, claim: Claim, lease: Lease) -> Search | None:
    try:
        return Search(claim, node.database.read(fence.job_of, claim))
    except errors.LeaseLost:
        lease.lose(claim)
        return None


def _excluded(search: Search) -> str | None:
    query = search.job.work["query"]
    return query.get("image_id") if search.job.params["exclude_query"] else None


def _among(node: Node, group: Sequence[Search]) -> list[set[str] | None]:
    """Return the images that each search's filter allows; the same filter is asked once."""
    known: dict[str, set[str] | None] = {}
    allowed: list[set[str] | None] = []
    for search in group:
        wanted = search.job.params.get("filter")
        name = json.dumps(wanted, sort_keys=True)
        if name not in known:
            collection_id = search.claim.collection_id
            known[name] = node.database.read(images.matching, collection_id, wanted) if wanted else None
        allowed.append(known[name])
    return allowed


def _with_vectors(node: Node, searches: Sequence[Search]) -> list[Search]:
    """Find each query's vector; pictures are embedded together. Those that fail here are ended and left out."""
    good: list[Search] = []
    backbone: Backbone | None = None
    pictures: list[tuple[Search, np.ndarray]] = []
    for search in searches:
        query = search.job.work["query"]
        try:
            if "embedding" in query:
                search.vector = np.asarray(query["embedding"], dtype=np.float32)
            elif "image_id" in query:
                search.vector = node.database.read(_stored, search.claim.collection_id, query["image_id"])
            else:
                backbone = backbone or node.backbone(search.claim.space_id)
                if search.pixels is None:
                    search.pixels = _pixels(node, search, backbone.space, _uploaded(node, search))
                pictures.append((search, search.pixels))
        except errors.ImagekinError as error:
            node.database.write(end.fail, search.claim.job_id, error.code, error.detail)
            continue
        good.append(search)
    if backbone is not None:
        for start in range(0, len(pictures), backbone.batch_size):
            some = pictures[start : start + backbone.batch_size]
            batch = np.stack([pixels for _, pixels in some]).transpose(0, 3, 1, 2)
            with metrics.WORK.forward_seconds.time():
                embedded = node.passes.embed(backbone, batch)
            for (search, _), vector in zip(some, embedded, strict=True):
                search.vector = vector
    return [search for search in good if _comparable(node, search)]


def _comparable(node: Node, search: Search) -> bool:
    """Return whether a query's vector has a finite length; otherwise its search is ended, alone."""
    assert search.vector is not None
    if np.isfinite(lengths.of(search.vector[None])).all():
        return True
    error = errors.InvalidRequest("The query's vector has NaN, infinite or huge numbers.")
    node.database.write(end.fail, search.claim.job_id, error.code, error.detail)
    return False


def _fetched(node: Node, searches: Sequence[Search]) -> list[Search]:
    """Fetch and decode the pictures of queries by URL; failed ones are ended and left out."""
    good: list[Search] = []
    space = node.backbone(searches[0].claim.space_id).space
    with closing(Fetcher(node.settings)) as fetcher, ThreadPoolExecutor(node.settings.fetch_threads) as pool:
        coming = [pool.submit(_fetch, node, search, space, fetcher) for search in searches]
        for search, future in zip(searches, coming, strict=True):
            try:
                search.pixels = future.result()
            except errors.ImagekinError as error:
                node.database.write(end.fail, search.claim.job_id, error.code, error.detail)
                continue
            good.append(search)
    return good


def _fetch(node: Node, search: Search, space: Space, fetcher: Fetcher) -> np.ndarray:
    return _pixels(node, search, space, fetcher.fetch(search.job.work["query"]["url"], SLOWEST_FETCH_S))


def _stored(session: Session, collection_id: str, image_id: str) -> Vectors:
    image = session.get(tables.Image, image_id)
    if image is None or image.deleted_at is not None or image.collection_id != collection_id:
        raise errors.ImageNotFound("The image of this query was deleted before the search began.")
    return segments.vector(session, image)


def _uploaded(node: Node, search: Search) -> bytes:
    with node.storage.open(search.job.work["query"]["upload"]) as file:
        return file.read(node.settings.max_image_bytes + 1)


def _pixels(node: Node, search: Search, space: Space, data: bytes) -> np.ndarray:
    """Decode the query's picture (crop, crop, 3) for the space; keep a thumbnail, as it is stored nowhere else."""
    with metrics.WORK.decode_seconds.time():
        picture, pixels = preprocess.prepare(data, space, node.settings)
        search.thumbnail = preprocess.thumbnail(picture, node.settings.thumbnail_px)
    return pixels


def _finish(node: Node, search: Search, view: View, neighbors: Sequence[Neighbor], lease: Lease) -> None:
    params = search.job.params
    least = params.get("min_score")
    kept = [one for one in neighbors[: params["top_k"]] if least is None or one.score >= least]
    try:
        node.database.write(_write, search, view, kept)
    except errors.LeaseLost:
        lease.lose(search.claim)
        log.info("search_lost", **claim_log.about([search.claim]))
    else:
        claim_log.chunk_done(search.claim, search.started, neighbors=len(kept))
    lease.finished(search.claim)


def _write(session: Session, search: Search, view: View, neighbors: Sequence[Neighbor]) -> None:
    """Write the result, with the neighbors' metadata as they are now. Raises LeaseLost."""
    metadata = _metadata(session, [one.id for one in neighbors])
    summary: dict[str, Any] = {
        "query": search.job.params["query"],
        "top_k": search.job.params["top_k"],
        "view": view.described(),
        "neighbors": [
            {"rank": one.rank, "id": one.id, "key": one.key, "score": one.score, "metadata": metadata.get(one.id, {})}
            for one in neighbors
        ],
    }
    finish.result(session, search.claim, summary, thumbnail=search.thumbnail)


def _metadata(session: Session, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    rows = session.execute(sa.select(tables.Image.id, tables.Image.metadata_).where(tables.Image.id.in_(ids)))
    return dict(rows.all())
