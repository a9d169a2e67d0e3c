"""Index jobs: they fill the table of an index, have PostgreSQL build its graph, and measure what is found by it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import tables
from imagekin.enums import IndexMethod
from imagekin.jobs import checkpoint, end, fence, finish
from imagekin.jobs.claim import Claim, release
from imagekin.store import index_search, indexes, ledger, reading, segments
from imagekin.store import views as kept_views
from imagekin.store.indexes import Index
from imagekin_worker.analysis import folds
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import pinned as pins
from imagekin_worker.matrix import index_rows
from imagekin_worker.matrix.view import Accumulator, View

log = structlog.get_logger()

# The part of the progress that is filling the table; the rest is building the graph, which takes longer.
FILLING = 0.2
# How often a graph's progress is looked at.
WATCHED_S = 0.5
Params = dict[str, Any]


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Work for a turn on what the job is to do: build an index, remove it, or check it.

    Raises JobError if there cannot be one, InvalidRequest without one to check, CollectionDeleted and LeaseLost.
    """
    (claim,) = claims
    params = node.database.read(fence.job_of, claim).params
    if "queries" in params:
        _check(node, claim, lease, params)
    elif params["index"] == IndexMethod.EXACT:
        node.database.write(_remove, claim)
    else:
        _build(node, claim, lease)


def _remove(session: Session, claim: Claim) -> None:
    revision, _ = reading.head(session, claim.collection_id)
    summary = {"index": IndexMethod.EXACT.value, "images": 0, "nbytes": 0, "revision": revision, "check": None}
    finish.result(session, claim, summary)
    indexes.retire(session, claim.collection_id)


# --- building ----------------------------------------------------------------------------------------------------


class Filling:
    """How far the table of an index is filled: up to a segment, with what the view is made of."""

    def __init__(self, about: Params, sums: Accumulator) -> None:
        self.index = Index(about["id"], about["collection_id"], about["dim"], about["revision"], about["of"])
        self.about, self.sums = about, sums

    @classmethod
    def load(cls, saved: bytes) -> Filling:
        about, sums = pins.unpacked(saved)
        return cls(about, Accumulator.resume(sums))

    def state(self) -> bytes:
        return pins.packed(self.about, self.sums.state())

    @property
    def fraction(self) -> float:
        return FILLING * min(1.0, self.about["images"] / max(self.about["of"], 1))


def _build(node: Node, claim: Claim, lease: Lease) -> None:
    began = time.monotonic()
    saved = node.database.read(checkpoint.kept, claim)
    work = _begun(node, claim) if saved is None else Filling.load(saved)
    view = View.load(node.database.read(indexes.saved, work.index.id)[0])
    while not work.about["filled"]:
        _fill(node, claim, work, view)
        if lease.lost:
            raise errors.LeaseLost
        if not pins.lasts(node, began):
            node.database.write(release, [claim])
            return
    if not node.database.read(indexes.is_built, work.index):
        graph = Graph(node, claim, work)
        if not graph.watch(lease, lambda: not pins.lasts(node, began)):
            graph.stay()
            return
    _conclude(node, claim, work)


def _begun(node: Node, claim: Claim) -> Filling:
    """Create the index's table. Raises JobError if the database cannot have one."""
    if (reason := node.database.write(indexes.why_not)) is not None:
        raise errors.JobError(reason)
    about, view = node.database.read(_looked, claim)
    work = Filling(about, Accumulator(claim.space_id, about["dim"]))
    node.database.write(_begin, claim, work, view.saved())
    return work


def _looked(session: Session, claim: Claim) -> tuple[Params, View]:
    revision, count = reading.head(session, claim.collection_id)
    dim = session.get_one(tables.Space, claim.space_id).dim
    view = index_rows.sampled_view(session, claim.collection_id, claim.space_id, dim, revision)
    about = {"id": claim.job_id, "collection_id": claim.collection_id, "dim": dim, "revision": revision}
    return {**about, "of": count, "images": 0, "after": "", "filled": False}, view


def _begin(session: Session, claim: Claim, work: Filling, view: bytes) -> None:
    checkpoint.keep(session, claim, work.state(), 0.0)
    indexes.begin(session, work.index, view)


def _fill(node: Node, claim: Claim, work: Filling, view: View) -> None:
    """Add the rows of the next segments."""
    rows, last = node.database.read(index_rows.next_rows, claim.collection_id, work.index.revision, work.about["after"])
    if last is None:
        work.about["filled"] = True
    else:
        work.about |= {"after": last, "images": work.about["images"] + len(rows.names)}
    shown = np.empty((0, work.index.dim), np.float32)
    if len(rows.names):
        work.sums.add(rows.stored.astype(np.float32, copy=False))
        shown = rows.shown(view)
    node.database.write(_add, claim, work, rows, shown)


def _add(session: Session, claim: Claim, work: Filling, rows: index_rows.Rows, shown: np.ndarray) -> None:
    checkpoint.keep(session, claim, work.state(), round(work.fraction, 4))
    indexes.add(session, work.index, rows.names, rows.revisions, shown)


class Graph:
    """A graph that PostgreSQL builds on a connection of its own, for as long as the claim is ours.

    It takes longer than a task may: past its turn the claim stays with this process, and a thread waits.
    """

    def __init__(self, node: Node, claim: Claim, work: Filling) -> None:
        self._node, self._claim, self._work = node, claim, work
        self._connection = node.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._driver: Any = self._connection.connection.driver_connection
        # its settings are no other's
        self._connection.detach()
        pool = ThreadPoolExecutor(1, "graph")
        self._built: Future[None] = pool.submit(
            indexes.build, self._connection, work.index, node.settings.index_memory_bytes
        )
        pool.shutdown(wait=False)

    def watch(self, lease: Lease, until: Callable[[], bool]) -> bool:
        """Wait for the graph, and keep its progress; return whether it is built, which it need not be by `until`.

        Raises LeaseLost after it was cancelled, JobError if PostgreSQL refuses.
        """
        try:
            while not wait([self._built], WATCHED_S).done:
                if lease.lost:
                    raise errors.LeaseLost
                done = self._node.database.read(indexes.progress, self._work.index)
                fraction = round(FILLING + (1 - FILLING) * done, 4)
                self._node.database.write(checkpoint.keep, self._claim, self._work.state(), fraction)
                if until():
                    return False
            self._built.result()
        except DBAPIError as error:
            self._cancel()
            if error.connection_invalidated or not _refused(error):
                raise
            raise errors.JobError(f"PostgreSQL could not build the index: {error.orig}") from error
        except BaseException:
            self._cancel()
            raise
        self._connection.close()
        return True

    def stay(self) -> None:
        """Wait in the background, with the claim, and hand it back for the end of the job."""
        threading.Thread(target=self._hold, name="graph-watch", daemon=True).start()

    def _hold(self) -> None:
        node, claim = self._node, self._claim
        try:
            with node.lease([claim]) as lease:
                self.watch(lease, lambda: False)
            node.database.write(release, [claim])
            node.doorbell.ring(node.lane)
        except errors.LeaseLost:
            log.info("index_left", job_id=claim.job_id)
            if node.leaving.is_set():
                node.database.write(release, [claim])
        except errors.JobError as error:
            node.database.write(end.fail, claim.job_id, error.code, error.detail)
        except DBAPIError as error:
            # the lease runs out, and the next claimant builds it
            log.warning("index_left", job_id=claim.job_id, error=str(error.orig))

    def _cancel(self) -> None:
        if not self._built.done():
            self._driver.cancel_safe(timeout=5)
            wait([self._built], 5)
        self._connection.close()


def _refused(error: DBAPIError) -> bool:
    """Return whether it is PostgreSQL's answer to the statement, and not a shutdown or a cancelling."""
    return (getattr(error.orig, "sqlstate", None) or "57")[:2] not in ("57", "08", "40")


def _conclude(node: Node, claim: Claim, work: Filling) -> None:
    """Have searches use the index, and the collection's view, which so far none may have made."""
    view = work.sums.view()
    node.database.write(kept_views.keep, claim.collection_id, view.saved(), None)
    node.database.write(_put_in_place, claim, work)


def _put_in_place(session: Session, claim: Claim, work: Filling) -> None:
    index, images = work.index, work.about["images"]
    summary = {
        "index": IndexMethod.HNSW.value,
        "images": images,
        "nbytes": indexes.size(session, index),
        "revision": index.revision,
        "check": None,
    }
    finish.result(session, claim, summary)
    indexes.put_in_place(session, index, images, work.sums.state())


# --- checking ----------------------------------------------------------------------------------------------------


def _check(node: Node, claim: Claim, lease: Lease, params: Params) -> None:
    """Search for some images by the index and exactly, in turns; the last one writes what they came to."""
    began = time.monotonic()
    state = node.database.read(checkpoint.unpacked, claim) or node.database.read(_drawn, claim, params["queries"])
    ids, told = state["ids"], state["told"]
    _one(node, claim, params, ids[0])
    while len(told) < len(ids):
        told.append(_one(node, claim, params, ids[len(told)])[:3])
        if lease.lost:
            raise errors.LeaseLost
        fraction = round(len(told) / len(ids), 4)
        if not pins.lasts(node, began):
            node.database.write(checkpoint.keep, claim, ledger.pack(state), fraction)
            node.database.write(release, [claim])
            return
    *_, view = _one(node, claim, params, ids[0])
    shares, index_s, exact_s = np.array(told).T
    low, high = folds.wilson(float(shares.sum()), len(shares))
    check = {
        "queries": len(told),
        "top_k": params["top_k"],
        "recall": round(float(shares.mean()), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "ms": round(1000 * float(np.median(index_s)), 2),
        "exact_ms": round(1000 * float(np.median(exact_s)), 2),
        "view": view.described(),
    }
    node.database.write(_write_check, claim, check)


def _drawn(session: Session, claim: Claim, count: int) -> Params:
    index = _index_of(session, claim)
    ids = index_search.sample(session, index, count)
    if not ids:
        raise errors.InvalidRequest("The index has no images to search for.")
    return {"ids": ids, "told": []}


def _index_of(session: Session, claim: Claim) -> Index:
    index = indexes.ready(session, claim.collection_id)
    if index is None:
        raise errors.InvalidRequest("The collection has no index to check; build one first.")
    return index


def _one(node: Node, claim: Claim, params: Params, image_id: str) -> tuple[float, float, float, View]:
    """Return the share of an image's true neighbors that the index finds, both searches' seconds, and the view."""
    query = node.database.read(_vector, claim, image_id)
    if query is None:
        # it was deleted: as good as any that is found
        query = np.zeros((1, node.database.read(_index_of, claim).dim), np.float32)
    asked: Params = {"view": params["view"], "exclude": [image_id]}
    started = time.perf_counter()
    _, [found] = node.searches.search(claim.collection_id, query, params["top_k"], **asked)
    between = time.perf_counter()
    view, [exact] = node.residents.search(claim.collection_id, query, params["top_k"], **asked)
    ended = time.perf_counter()
    least = exact[-1].score if exact else 1.0
    hits = sum(one.score >= least for one in found)
    return hits / len(exact) if exact else 1.0, between - started, ended - between, view


def _vector(session: Session, claim: Claim, image_id: str) -> np.ndarray | None:
    image = session.get(tables.Image, image_id)
    if image is None or image.deleted_at is not None:
        return None
    return segments.vector(session, image)[None]


def _write_check(session: Session, claim: Claim, check: Params) -> None:
    index = _index_of(session, claim)
    summary = {
        "index": IndexMethod.HNSW.value,
        "images": index.images,
        "nbytes": indexes.size(session, index),
        "revision": index.revision,
        "check": check,
    }
    finish.result(session, claim, summary)
