"""Chunks of images: through the pipeline together, finished one by one after their last image."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, NamedTuple

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, undefer

from imagekin import errors, sources
from imagekin.database import tables
from imagekin.enums import Lane, OnConflict
from imagekin.jobs import end, fence, finish, split
from imagekin.jobs.claim import Claim, release
from imagekin.store import ledger, reuse
from imagekin.store.reuse import Copy
from imagekin.store.segments import Item
from imagekin.telemetry import metrics
from imagekin_worker.context import claim_log
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import projections
from imagekin_worker.pipeline.lanes import Fetched, Outcome, Pipeline
from imagekin_worker.pipeline.readahead import ReadAhead

log = structlog.get_logger()

# The parts of the soft time limit after which nothing more is claimed, nor a chunk begun whose images come over a
# network, and after which no chunk is begun at all, as what is begun may take three quarters (see planner.remote_chunk;
# a chunk may have been planned by a worker that is many times as fast).
CLAIM_UNTIL, BEGIN_UNTIL = 0.1, 0.25
# A chunk of more images than take this many times `chunk_target_s` here is divided: a worker that is many times as fast
# planned it, or it comes after another network.
LONG, KEPT = 8, 2
# Each job has a source of its own, mostly an open file.
MOST_SOURCES = 64


@dataclass(eq=False)
class Work:
    """A claimed chunk on its way: an item for each entry, None while it is not known what becomes of it.

    Each entry without an item has one outcome to come; `missing` counts them. Content that several entries have is
    computed for the first of them: `firsts` has its index, `twins` the content of each other. `begun`: one of its
    images was given out.
    """

    claim: Claim
    job: tables.Job
    collection: tables.Collection
    entries: list[dict[str, Any]]
    source: sources.Source
    items: list[Item | None]
    missing: int
    firsts: dict[str, int] = field(default_factory=dict)
    twins: dict[int, str] = field(default_factory=dict)
    begun: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def remote(self) -> bool:
        """Whether its images come over a network."""
        return sources.is_remote(self.job.work["source"])


class Place(NamedTuple):
    """One image: the work on its chunk, and the index of its entry there."""

    work: Work
    at: int


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Embed claimed chunks of one space, and those that come next while there is time.

    A job whose source is gone fails alone. Raises WeightsUnavailable.
    """
    began = time.monotonic()
    backbone = node.backbone(claims[0].space_id)
    started, computed = time.monotonic(), 0
    with Feed(node, claims, lease, began) as feed:
        # left also where a finish fails: no thread must go on beside the next claim
        with ReadAhead(feed, _read, lambda place: place.work.remote, node.settings.fetch_threads) as ahead:
            pipeline = Pipeline(
                backbone,
                node.settings,
                ahead,
                ahead.read,
                settle=lambda fetched: _settle(node, fetched),
                should_stop=lambda: lease.lost,
                left=lambda: feed.left,
                arrangement=node.tuner.arrangement(backbone),
            )
            with closing(pipeline.outcomes()) as outcomes:
                for outcome in outcomes:
                    work, index = outcome.item
                    computed += outcome.embedding is not None
                    if not outcome.settled:
                        work.items[index] = _item(node, work, index, outcome)
                    work.missing -= 1
                    if not work.missing:
                        _finish(node, work, lease)
        _give_back(node, feed.works, lease)
    seconds = time.monotonic() - started
    # a network's speed is not the backbone's, which is as high at least
    known = node.images_per_claim(claims[0].space_id) / node.settings.chunk_target_s
    if computed > known * seconds or not any(work.remote for work in feed.works):
        node.note_speed(claims[0].space_id, computed, seconds)
        if not node.leaving.is_set():
            node.tuner.worked(backbone, computed, seconds)


class Feed:
    """The images of claimed chunks, and of those claimed ahead while the last of them is given out.

    So no lane waits for a claim while there is work. The first chunk is always begun, later ones while there is time
    since `began` (seconds of the monotonic clock), when the task did: loading a network is a part of its time. An
    iterator for one thread at a time; `left` counts the images that it has yet, `works` are the chunks. As a context it
    closes their sources.
    """

    def __init__(self, node: Node, claims: Sequence[Claim], lease: Lease, began: float) -> None:
        self.works: list[Work] = []
        self.left = 0
        self._node, self._lease = node, lease
        self._began = began
        self._first = claims[0]
        self._sources: dict[str, sources.Source] = {}
        self._ahead: list[claim_log.Report] = []
        self._places = self._give()
        self._admit(claims)

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for source in self._sources.values():
            source.close()
        for report in self._ahead:
            # after an error others take over what was claimed ahead
            report.end("done" if kind is None else "lost")

    def __iter__(self) -> Iterator[Place]:
        return self

    def __next__(self) -> Place:
        return next(self._places)

    def _give(self) -> Iterator[Place]:
        # grows meanwhile
        for work in self.works:
            begins = work is self.works[0] or self._in_time(CLAIM_UNTIL if work.remote else BEGIN_UNTIL)
            if begins and work is self.works[-1]:
                self._claim_ahead()
            for index, item in enumerate(work.items):
                if item is not None:
                    continue
                self.left -= 1
                if begins and self._lease.holds(work.claim):
                    work.begun = True
                    yield Place(work, index)

    def _claim_ahead(self) -> None:
        if self._lease.lost or not self._in_time(CLAIM_UNTIL) or len(self._sources) > MOST_SOURCES:
            return
        try:
            claims = self._node.claim(self._first.claimed_by, like=self._first)
        except DBAPIError as error:
            # what is in hand goes on; the next claim will say if the database is away
            log.warning("not_claimed_ahead", error=str(error.orig))
            return
        if claims:
            self._ahead.append(claim_log.Report(claims))
            self._lease.add(claims)
            self._admit(claims)

    def _in_time(self, part: float) -> bool:
        return time.monotonic() - self._began <= part * self._node.settings.soft_time_limit_s

    def _admit(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            work = _open(self._node, claim, self._sources, self._lease)
            if work is None:
                continue
            self.left += work.missing
            self.works.append(work)
            if not work.missing:
                _finish(self._node, work, self._lease)


def _give_back(node: Node, works: Sequence[Work], lease: Lease) -> None:
    """Hand back the chunks for which there was no time, for the next claim."""
    left = [work.claim for work in works if work.missing and not work.begun and lease.holds(work.claim)]
    for claim in left:
        lease.finished(claim)
    node.database.write(release, left)


def _open(node: Node, claim: Claim, opened: dict[str, sources.Source], lease: Lease) -> Work | None:
    """Load a chunk, with the source of its job, which the job's other chunks share; None without a source."""
    usual = node.images_per_claim(claim.space_id)
    try:
        if claim.size > LONG * usual:
            node.database.write(split.keep, claim, KEPT * usual)
            node.doorbell.ring(Lane.BULK, 1)
        job, collection, manifest = node.database.read(load, claim)
    except errors.LeaseLost:
        lease.lose(claim)
        return None
    try:
        source = opened.get(job.id) or sources.open_source(job.work["source"], node.storage, node.settings)
    except (errors.JobError, errors.InvalidRequest) as error:
        node.database.write(end.fail, claim.job_id, error.code, error.detail)
        return None
    opened[job.id] = source
    entries = ledger.unpack(manifest)
    items = [refused(entry) for entry in entries]
    return Work(claim, job, collection, entries, source, items, missing=items.count(None))


def load(session: Session, claim: Claim) -> tuple[tables.Job, tables.Collection, bytes]:
    """Return a chunk's job and collection, and its packed entries. Raises LeaseLost."""
    job = fence.job_of(session, claim)
    chunk = session.get(tables.Chunk, (claim.job_id, claim.seq), options=[undefer(tables.Chunk.manifest)])
    if chunk is None:
        raise errors.LeaseLost()
    assert chunk.manifest is not None
    return job, session.get_one(tables.Collection, claim.collection_id), chunk.manifest


def refused(entry: dict[str, Any]) -> Item | None:
    """Return the item of an entry that planning found to fail, else None."""
    error = entry.get("error")
    return None if error is None else Item(entry["key"], error=(error[0], error[1]))


def _read(place: Place) -> bytes:
    # one run may have chunks of several jobs
    with structlog.contextvars.bound_contextvars(**claim_log.about([place.work.claim])):
        return place.work.source.read(place.work.entries[place.at]["ref"])


def _settle(node: Node, fetched: list[Fetched[Place]]) -> set[int]:
    """Find what need not be computed: what is stored already, and what an image before it has the content of."""
    settled: set[int] = set()
    for work in {id(each.item.work): each.item.work for each in fetched}.values():
        mine = [at for at, each in enumerate(fetched) if each.item.work is work]
        contents = [(work.entries[fetched[at].item.at]["key"], fetched[at].content_hash) for at in mine]
        answers = node.database.read(reuse.known, work.collection, contents, OnConflict(work.job.params["on_conflict"]))
        for at, answer in zip(mine, answers, strict=True):
            place, content = fetched[at].item, fetched[at].content_hash
            if answer is not None:
                work.items[place.at] = _known(work.entries[place.at], fetched[at], answer)
                settled.add(at)
            elif content in work.firsts:
                work.twins[place.at] = content
                settled.add(at)
            else:
                work.firsts[content] = place.at
    return settled


def _known(entry: dict[str, Any], fetched: Fetched[Place], answer: ledger.Record | Copy) -> Item:
    item = Item(entry["key"], entry.get("metadata"), content_hash=fetched.content_hash, nbytes=len(fetched.data))
    if isinstance(answer, ledger.Record):
        item.known = answer
        return item
    item.vector, item.thumbnail, item.reused = answer.vector, answer.thumbnail, True
    item.width, item.height, item.format = answer.width, answer.height, answer.format
    return item


def _item(node: Node, work: Work, index: int, outcome: Outcome[Place]) -> Item:
    entry = work.entries[index]
    item = Item(entry["key"], entry.get("metadata"), content_hash=outcome.content_hash or "")
    if outcome.error is not None:
        item.error = (outcome.error.code, outcome.error.detail)
        return item
    assert outcome.embedding is not None
    item.vector = projections.applied(node, work.claim.space_id, outcome.embedding[None])[0]
    item.thumbnail = outcome.thumbnail
    item.width, item.height, item.format, item.nbytes = outcome.width, outcome.height, outcome.format, outcome.nbytes
    return item


def _finish(node: Node, work: Work, lease: Lease) -> None:
    for index, content in work.twins.items():
        first = work.items[work.firsts[content]]
        assert first is not None
        entry = work.entries[index]
        work.items[index] = replace(first, key=entry["key"], metadata=entry.get("metadata"), reused=True)
    items = [item for item in work.items if item is not None]
    stored = time.monotonic()
    try:
        # the job may end with it, which is told in there
        with structlog.contextvars.bound_contextvars(**claim_log.about([work.claim])):
            counts = finish.chunk(node.database, work.claim, items, OnConflict(work.job.params["on_conflict"]))
    except errors.LeaseLost:
        lease.lose(work.claim)
        log.info("chunk_lost", **claim_log.about([work.claim]))
    else:
        seconds = time.monotonic() - stored
        metrics.WORK.store_seconds.observe(seconds)
        claim_log.chunk_done(work.claim, work.started, images=len(items), store_seconds=round(seconds, 3), **counts)
    lease.finished(work.claim)
    # a run goes on for seconds, and what is stored need not be kept
    work.entries, work.items = [], []
