"""Searches: many queries, one forward pass for their pictures, one matrix product for each collection."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.catalog import Space
from imagekin.database import tables
from imagekin.enums import Refine
from imagekin.jobs import end, fence, finish
from imagekin.jobs.claim import Claim
from imagekin.net.fetch import Fetcher
from imagekin.store import reading, segments
from imagekin.store.vector_codec import Vectors
from imagekin.telemetry import metrics
from imagekin_worker.analysis import refinement
from imagekin_worker.context import claim_log
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import copies, projections
from imagekin_worker.kinds.copies import Ranked
from imagekin_worker.matrix import lengths
from imagekin_worker.matrix import view as views
from imagekin_worker.matrix.indexed import Indexed, Matching
from imagekin_worker.matrix.neighbors import Matrix, Neighbor
from imagekin_worker.matrix.view import RAW, View
from imagekin_worker.network import preprocess
from imagekin_worker.network.backbones import Backbone

log = structlog.get_logger()


# The searches behind wait as long.
SLOWEST_FETCH_S = 5.0
# Of a search by several, the images that are looked among for those to ask about.
CANDIDATES = 300


@dataclass(eq=False)
class Example:
    """A query, or one of several: what it is, as the job has it, and its vector (dim,) once that is known.

    `pixels` (height, width, 3): the picture that a URL leads to, once it is fetched.
    """

    what: dict[str, Any]
    vector: Vectors | None = None
    pixels: np.ndarray | None = None


@dataclass(eq=False)
class Search:
    """A claimed search on its way: its job, and what is searched for: one example, or several, right or wrong ones."""

    claim: Claim
    job: tables.Job
    positives: list[Example] = field(init=False)
    negatives: list[Example] = field(init=False)
    thumbnail: bytes | None = None
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        work = self.job.work
        self.positives = [Example(what) for what in ([work["query"]] if "query" in work else work["positives"])]
        self.negatives = [Example(what) for what in work.get("negatives", ())]

    @property
    def view(self) -> str:
        # a job of a service that did not know views
        return self.job.params.get("view", RAW)

    @property
    def collapses(self) -> bool:
        return bool(self.job.params.get("collapse_duplicates"))

    @property
    def several(self) -> bool:
        return "positives" in self.job.work

    @property
    def examples(self) -> list[Example]:
        return self.positives + self.negatives

    @property
    def vectors(self) -> np.ndarray:
        """The vectors (n, dim) of all examples."""
        return np.stack([each.vector for each in self.examples if each.vector is not None])

    @property
    def judged(self) -> list[str]:
        """The ids of the examples that are images of the collection."""
        return [each.what["image_id"] for each in self.examples if "image_id" in each.what]


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Answer claimed searches of one space; one that cannot be answered fails alone."""
    searches = [search for claim in claims if (search := _begun(node, claim, lease)) is not None]
    elsewhere = [search for search in searches if any("url" in each.what for each in search.examples)]
    # those that need no network don't wait for it
    _answer(node, [search for search in searches if search not in elsewhere], lease)
    if elsewhere:
        _answer(node, _fetched(node, elsewhere), lease)


def _answer(node: Node, searches: Sequence[Search], lease: Lease) -> None:
    groups: dict[tuple[str, str], list[Search]] = defaultdict(list)
    for search in _with_vectors(node, searches):
        if search.several or search.collapses:
            _answer_alone(node, search, lease)
        else:
            groups[search.claim.collection_id, search.view].append(search)
    for (collection_id, name), group in groups.items():
        metrics.WORK.product_searches.observe(len(group))
        try:
            view, answers = node.searches.search(
                collection_id,
                np.concatenate([search.vectors for search in group]),
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


def _answer_alone(node: Node, search: Search, lease: Lease) -> None:
    """Answer a search by several examples, or one whose neighbors are collapsed."""
    [among] = _among(node, [search])
    try:
        view, (neighbors, ask, ranked) = node.searches.using(
            search.claim.collection_id, search.view, lambda matrix: _answered(node, search, matrix, among)
        )
    except errors.ImagekinError as error:
        node.database.write(end.fail, search.claim.job_id, error.code, error.detail)
        return
    _finish(node, search, view, neighbors, lease, ask, ranked)


def _answered(
    node: Node, search: Search, matrix: Matrix | Indexed, among: Matching | None
) -> tuple[Sequence[Neighbor], Sequence[Neighbor], Ranked | None]:
    """Return the neighbors, those to ask about, and the ranks without copies if they are collapsed."""
    params, ask = search.job.params, list[Neighbor]()

    def find(count: int) -> Sequence[Neighbor]:
        if search.several:
            found, asked = _refined(node, search, matrix, among, count)
            ask[:] = asked
            return found[:count]
        excluded = [_excluded(search)]
        [found] = matrix.search(
            search.vectors,
            count,
            exclude=excluded,
            among=[among],
            keys=lambda ids: node.database.read(reading.keys, ids),
        )
        return found

    if not search.collapses:
        return find(params["top_k"]), ask, None
    ranked = copies.collapsed(node, search.claim.owner, matrix, find, params["top_k"], params.get("min_score"))
    return ranked.neighbors, ask, ranked


def _refined(
    node: Node, search: Search, matrix: Matrix | Indexed, among: Matching | None, count: int
) -> tuple[list[Neighbor], list[Neighbor]]:
    """Return `count` neighbors of what the examples come to, or more, and those whose verdict would teach most."""
    params, judged = search.job.params, set(search.judged)
    view = matrix.view or views.raw(search.claim.space_id, matrix.dim, len(matrix))
    seen = view.exact(search.vectors)
    positives, negatives = seen[: len(search.positives)], seen[len(search.positives) :]
    drawn = [id for id in matrix.sample(refinement.WEAK_NEGATIVES + len(judged)) if id not in judged]
    others = matrix.directions(drawn[: refinement.WEAK_NEGATIVES])
    if params["refine"] == Refine.LOGISTIC:
        direction = refinement.logistic(positives, negatives, others)
    else:
        direction = refinement.rocchio(positives, negatives)
    [found] = matrix.along(
        direction[None],
        max(count, CANDIDATES) + len(judged),
        exclude=[None],
        among=[among],
        keys=lambda ids: node.database.read(reading.keys, ids),
    )
    fresh = [one for one in found if one.id not in judged]
    candidates = fresh[:CANDIDATES]
    asked: list[Neighbor] = []
    if candidates and (len(negatives) or len(others)):
        there = matrix.directions([one.id for one in candidates])
        asked = [candidates[at] for at in refinement.ask(positives, negatives, others, there)]
    answers = fresh if params["exclude_query"] else found
    return [replace(one, rank=rank) for rank, one in enumerate(answers, 1)], asked


def _begun(node: Node, claim: Claim, lease: Lease) -> Search | None:
    try:
        return Search(claim, node.database.read(fence.job_of, claim))
    except errors.LeaseLost:
        lease.lose(claim)
        return None


def _excluded(search: Search) -> str | None:
    query = search.job.work["query"]
    return query.get("image_id") if search.job.params["exclude_query"] else None


def _among(node: Node, group: Sequence[Search]) -> list[Matching | None]:
    """Return the images that each search's filter allows; the same filter is asked once."""
    known: dict[str, Matching | None] = {}
    allowed: list[Matching | None] = []
    for search in group:
        wanted = search.job.params.get("filter")
        name = json.dumps(wanted, sort_keys=True)
        if name not in known:
            collection_id = search.claim.collection_id
            known[name] = Matching(node.database, collection_id, wanted) if wanted else None
        allowed.append(known[name])
    return allowed


def _with_vectors(node: Node, searches: Sequence[Search]) -> list[Search]:
    """Find each query's vector; pictures are embedded together. Those that fail here are ended and left out."""
    good: list[Search] = []
    backbone: Backbone | None = None
    pictures: list[tuple[Example, np.ndarray]] = []
    for search in searches:
        shown: list[tuple[Example, np.ndarray]] = []
        try:
            for each in search.examples:
                if "embedding" in each.what:
                    each.vector = np.asarray(each.what["embedding"], dtype=np.float32)
                elif "image_id" in each.what:
                    each.vector = node.database.read(_stored, search.claim.collection_id, each.what["image_id"])
                else:
                    backbone = backbone or node.backbone(search.claim.space_id)
                    if each.pixels is None:
                        each.pixels = _pixels(node, search, each, backbone.space, _uploaded(node, each))
                    shown.append((each, each.pixels))
        except errors.ImagekinError as error:
            node.database.write(end.fail, search.claim.job_id, error.code, error.detail)
            continue
        good.append(search)
        pictures += shown
    if backbone is not None:
        node.tuner.use_compiled(backbone)
        for start in range(0, len(pictures), backbone.batch_size):
            some = pictures[start : start + backbone.batch_size]
            batch = np.stack([pixels for _, pixels in some]).transpose(0, 3, 1, 2)
            with metrics.WORK.forward_seconds.time():
                embedded = projections.applied(node, searches[0].claim.space_id, node.passes.embed(backbone, batch))
            for (each, _), vector in zip(some, embedded, strict=True):
                each.vector = vector
    return [search for search in good if _comparable(node, search)]


def _comparable(node: Node, search: Search) -> bool:
    """Return whether a search's vectors have finite lengths; otherwise the search is ended, alone."""
    if np.isfinite(lengths.of(search.vectors)).all():
        return True
    error = errors.InvalidRequest("The query's vector has NaN, infinite or huge numbers.")
    node.database.write(end.fail, search.claim.job_id, error.code, error.detail)
    return False


def _fetched(node: Node, searches: Sequence[Search]) -> list[Search]:
    """Fetch and decode the pictures of queries by URL; failed ones are ended and left out."""
    good: list[Search] = []
    space = node.backbone(searches[0].claim.space_id).space
    with closing(Fetcher(node.settings)) as fetcher, ThreadPoolExecutor(node.settings.fetch_threads) as pool:
        coming = [
            [
                (each, pool.submit(_fetch, node, search, each, space, fetcher))
                for each in search.examples
                if "url" in each.what
            ]
            for search in searches
        ]
        for search, futures in zip(searches, coming, strict=True):
            try:
                for each, future in futures:
                    each.pixels = future.result()
            except errors.ImagekinError as error:
                node.database.write(end.fail, search.claim.job_id, error.code, error.detail)
                continue
            good.append(search)
    return good


def _fetch(node: Node, search: Search, each: Example, space: Space, fetcher: Fetcher) -> np.ndarray:
    return _pixels(node, search, each, space, fetcher.fetch(each.what["url"], SLOWEST_FETCH_S))


def _stored(session: Session, collection_id: str, image_id: str) -> Vectors:
    image = session.get(tables.Image, image_id)
    if image is None or image.deleted_at is not None or image.collection_id != collection_id:
        raise errors.ImageNotFound("The image of this query was deleted before the search began.")
    return segments.vector(session, image)


def _uploaded(node: Node, each: Example) -> bytes:
    with node.storage.open(each.what["upload"]) as file:
        return file.read(node.settings.max_image_bytes + 1)


def _pixels(node: Node, search: Search, each: Example, space: Space, data: bytes) -> np.ndarray:
    """Decode the query's picture (height, width, 3) for the space; keep a thumbnail, as it is stored nowhere else."""
    # among several, the part is one of the picture that was sent
    crop = search.job.params.get("crop") if "upload" in each.what or not search.several else None
    with metrics.WORK.decode_seconds.time():
        picture, pixels = preprocess.prepare(data, space, node.settings, crop=crop)
        if search.thumbnail is None or "upload" in each.what:
            search.thumbnail = preprocess.thumbnail(picture, node.settings.thumbnail_px)
    return pixels


def _finish(
    node: Node,
    search: Search,
    view: View,
    neighbors: Sequence[Neighbor],
    lease: Lease,
    ask: Sequence[Neighbor] = (),
    ranked: Ranked | None = None,
) -> None:
    params = search.job.params
    least = params.get("min_score")
    kept = [one for one in neighbors[: params["top_k"]] if least is None or one.score >= least]
    try:
        node.database.write(_write, search, view, kept, ask, ranked)
    except errors.LeaseLost:
        lease.lose(search.claim)
        log.info("search_lost", **claim_log.about([search.claim]))
    else:
        claim_log.chunk_done(search.claim, search.started, neighbors=len(kept))
    lease.finished(search.claim)


def _write(
    session: Session,
    search: Search,
    view: View,
    neighbors: Sequence[Neighbor],
    ask: Sequence[Neighbor],
    ranked: Ranked | None,
) -> None:
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
    if ranked is not None:
        summary["looked_at"] = ranked.looked_at
        for row, one in zip(summary["neighbors"], neighbors, strict=True):
            row["duplicates"] = copies.shown(ranked, one)
    if (crop := search.job.params.get("crop")) is not None:
        summary["crop"] = crop
    if search.several:
        summary["ask"] = [{"id": one.id, "key": one.key} for one in ask]
    finish.result(session, search.claim, summary, thumbnail=search.thumbnail)


def _metadata(session: Session, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    rows = session.execute(sa.select(tables.Image.id, tables.Image.metadata_).where(tables.Image.id.in_(ids)))
    return dict(rows.all())
