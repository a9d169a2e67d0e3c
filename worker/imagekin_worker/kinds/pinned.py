"""What kinds of jobs share that look at a whole collection as of one revision, in slices."""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import tables
from imagekin.jobs import checkpoint, finish, results
from imagekin.jobs.claim import Claim, release, waiting
from imagekin.settings import Settings
from imagekin.store import filters, images, ledger, reading
from imagekin_worker.analysis.stepper import Stepper
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.matrix import view as views
from imagekin_worker.matrix.view import Accumulator, View

SLICE_S = 4.0
# As many slices as a claim may last, or a third of the task's limit, while nothing else waits: in another process each
# one would read all vectors again.
SLICES = 15
# A slice is at least so many times as long as the progress took to save that the one before it left.
SAVED_SHARE = 8
PARTS_PER_COMMIT = 16
TRANSFORMED_ROWS = 4096

Work = TypeVar("Work", bound=Stepper)


class Pinned:
    """A collection's vectors as of one revision, by key: random choices meet the same images in any order.

    So the same collection and seed give the same answer. `view` is that of the whole collection, where one was asked
    for, also where a filter leaves fewer rows.
    """

    def __init__(
        self, revision: int, ids: list[str], keys: list[str], rows: np.ndarray, view: View | None = None
    ) -> None:
        self.revision = revision
        self.ids, self.keys, self.rows, self.view = ids, keys, rows, view
        self.digest = hashlib.blake2b("\n".join(ids).encode(), digest_size=16).hexdigest()

    @property
    def about(self) -> dict[str, Any]:
        """What progress is kept with, so that it is not gone on with over other images."""
        return {"revision": self.revision, "digest": self.digest}


def pin(
    node: Node,
    claim: Claim,
    revision: int | None = None,
    *,
    view: str | None = None,
    wanted: dict[str, Any] | None = None,
    collection_id: str | None = None,
    transformed: bool = False,
) -> Pinned:
    """Return the vectors as of `revision`, or as they are; beyond the memory budget they are in a mapped file.

    `view` names the view to make of them, in which the rows are if `transformed`; `raw` changes none. `wanted` is a
    filter of metadata. `collection_id`: another collection of the claim's space. Raises CollectionDeleted.
    """
    of = collection_id or claim.collection_id
    pinned = node.database.read(_pinned, of, claim.space_id, revision, node.settings, view, wanted)
    if transformed and pinned.view is not None and pinned.view.name != views.RAW:
        for start in range(0, len(pinned.rows), TRANSFORMED_ROWS):
            block = slice(start, start + TRANSFORMED_ROWS)
            pinned.rows[block] = pinned.view.transform(pinned.rows[block])
    return pinned


def _pinned(
    session: Session,
    collection_id: str,
    space_id: str,
    revision: int | None,
    settings: Settings,
    view: str | None,
    wanted: dict[str, Any] | None,
) -> Pinned:
    current, _ = reading.head(session, collection_id)
    upto = current if revision is None else revision
    ids, keys = reading.names(session, collection_id, upto)
    among = images.matching(session, collection_id, wanted) if wanted else None
    order = sorted((row for row in range(len(keys)) if among is None or ids[row] in among), key=keys.__getitem__)
    # where each row goes; -1: nowhere
    places = np.full(len(keys), -1)
    places[order] = np.arange(len(order))
    shape = (len(order), session.get_one(tables.Space, space_id).dim)
    changes: Iterable[reading.Change] = reading.changes(session, collection_id, 0, upto)
    made = Accumulator(space_id, shape[1]) if view == views.CALIBRATED else None
    if made is not None:
        changes = _counted(changes, made)
    if 4 * math.prod(shape) > settings.cluster_memory_bytes:
        rows = _spooled(changes, places, shape, settings.cache_folder)
    else:
        rows = np.empty(shape, np.float32)
        for at, change in _placed(changes, places):
            rows[at[at >= 0]] = change.stored[at >= 0]
    raw = None if view is None else views.raw(space_id, shape[1], len(keys))
    found = raw if made is None else made.view()
    return Pinned(upto, [ids[row] for row in order], [keys[row] for row in order], rows, found)


def _counted(changes: Iterable[reading.Change], made: Accumulator) -> Iterator[reading.Change]:
    """Yield the changes, each counted into the view that is being made."""
    for change in changes:
        if len(change.names):
            made.add(change.vectors)
        yield change


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
        for all_at, change in _placed(changes, places):
            at = all_at[all_at >= 0]
            if not len(at):
                continue
            found = np.ascontiguousarray(change.vectors[all_at >= 0])
            # the images of a segment mostly follow each other by key, too
            breaks = np.flatnonzero(np.diff(at) != 1) + 1
            for start, run in zip(at[[0, *breaks]], np.split(found, breaks), strict=True):
                file.seek(int(start) * 4 * shape[1])
                file.write(run.data)
        file.flush()
        return np.memmap(file, np.float32, "r+", shape=shape)


def packed(about: dict[str, Any], state: bytes) -> bytes:
    """Return progress with what it is about, as a checkpoint keeps it."""
    head = ledger.pack(about)
    return struct.pack("<I", len(head)) + head + state


def unpacked(saved: bytes) -> tuple[dict[str, Any], bytes]:
    """Return what `packed` was given."""
    (length,) = struct.unpack_from("<I", saved)
    return ledger.unpack(saved[4 : 4 + length]), saved[4 + length :]


def write_rows(node: Node, claim: Claim, rows: Iterable[dict[str, Any]]) -> None:
    """Write a result's rows in parts, some in a transaction. Raises LeaseLost."""
    remaining, first = _parts(rows), 1
    while parts := list(itertools.islice(remaining, PARTS_PER_COMMIT)):
        node.database.write(finish.finalize, claim, first, parts)
        first += len(parts)


def _parts(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield runs of rows; one with members counts as many, so that no run takes more memory than others."""
    part: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        part.append(row)
        size += max(1, len(row.get("members", ())))
        if size >= results.ROWS_PER_PART:
            yield part
            part, size = [], 0
    if part:
        yield part


class Analysis(ABC, Generic[Work]):
    """What a kind of job adds to `run`: how its work begins, continues and ends."""

    #: A field of the metadata that images must have to take part.
    having: str | None = None

    def about(self) -> dict[str, Any]:
        """Return what its progress depends on besides the pinned rows; where it changed, work starts over."""
        return {}

    @abstractmethod
    def begin(self, pinned: Pinned, view: View) -> Work:
        """Start over the rows."""

    @abstractmethod
    def resume(self, pinned: Pinned, view: View, state: bytes) -> Work:
        """Continue from `state` with the same rows."""

    @abstractmethod
    def conclude(self, pinned: Pinned, work: Work) -> tuple[dict[str, Any], Iterable[dict[str, Any]]]:
        """Return the result's summary and its rows."""


@dataclass
class Slice(Generic[Work]):
    """What a process keeps of a job between two slices; `saved` is the state that it left in SQL, in `saving_s`."""

    pinned: Pinned
    view: View
    work: Work
    saved: bytes = b""
    saving_s: float = 0.0


def run(node: Node, claim: Claim, lease: Lease, params: dict[str, Any], analysis: Analysis[Work]) -> None:
    """Work for a turn over the view and the filter, if there is one, of `params`; the last one writes the result.

    Raises InvalidRequest if no image is left by the filter, CollectionDeleted, LeaseLost.
    """
    part = worked(node, claim, lease, params, analysis)
    if part is None:
        return
    summary, rows = analysis.conclude(part.pinned, part.work)
    write_rows(node, claim, rows)
    summary |= {"view": part.view.described(), "revision": part.pinned.revision}
    node.database.write(finish.result, claim, summary)


def worked(
    node: Node, claim: Claim, lease: Lease, params: dict[str, Any], analysis: Analysis[Work], share: float = 1.0
) -> Slice[Work] | None:
    """Work in slices while the turn lasts; return what is finished, None if it was let go for the next claim.

    `share`: what the analysis is of the whole job.
    """
    part = _resumed(node, claim, params, analysis)
    began = time.monotonic()
    while not part.work.advance(until=_over(node, lease, part)):
        started = time.monotonic()
        part.saved = packed(_about(part.pinned, part.view, analysis), part.work.state())
        node.database.write(checkpoint.keep, claim, part.saved, round(share * part.work.fraction, 4))
        part.saving_s = time.monotonic() - started
        if not lasts(node, began):
            node.slices[claim.job_id] = part
            node.database.write(release, [claim])
            return None
    return part


def _over(node: Node, lease: Lease, part: Slice[Any]) -> Callable[[], bool]:
    """Return what tells that a slice, which begins now, is over."""
    deadline = time.monotonic() + max(SLICE_S, min(SAVED_SHARE * part.saving_s, node.settings.soft_time_limit_s / 3))
    # rows in the view are made anew in each process: a slice that ended with that alone would never come further
    before = -1.0 if part.saved else part.work.fraction
    return lambda: lease.lost or (time.monotonic() > deadline and part.work.fraction > before)


def lasts(node: Node, began: float) -> bool:
    """Return whether a turn lasts beyond a slice: it is not long, and nothing else waits for a worker."""
    longest = min(SLICES * SLICE_S, node.settings.soft_time_limit_s / 3)
    return time.monotonic() - began < longest and not node.database.read(waiting, node.lane, node.settings)


def _about(pinned: Pinned, view: View, analysis: Analysis[Any]) -> dict[str, Any]:
    return {**pinned.about, "view": view.id, **analysis.about()}


def _resumed(node: Node, claim: Claim, params: dict[str, Any], analysis: Analysis[Work]) -> Slice[Work]:
    """Continue where the last slice ended: from memory if that was here, else from SQL, else from the start."""
    kept: Slice[Work] | None = node.slices.pop(claim.job_id, None)
    node.slices.clear()
    saved = node.database.read(checkpoint.kept, claim)
    about, state = ({}, b"") if saved is None else unpacked(saved)
    if kept is not None and kept.saved == saved and _about(kept.pinned, kept.view, analysis) == about:
        return kept
    if saved is not None:
        earlier, view = _viewed(node, claim, about["revision"], params, analysis.having)
        # images that were replaced or deleted since are gone from the pinned revision: then it starts over
        if _about(earlier, view, analysis) == about:
            return Slice(earlier, view, analysis.resume(earlier, view, state))
    pinned, view = _viewed(node, claim, None, params, analysis.having)
    return Slice(pinned, view, analysis.begin(pinned, view))


def _viewed(
    node: Node, claim: Claim, revision: int | None, params: dict[str, Any], having: str | None
) -> tuple[Pinned, View]:
    wanted = params.get("filter")
    if having is not None:
        wanted = filters.having(wanted or {}, having)
    pinned = pin(node, claim, revision, view=params["view"], wanted=wanted)
    if not pinned.ids or pinned.view is None:
        named = "" if having is None else f" and has {having!r} in its metadata"
        raise errors.InvalidRequest(f"No image of the collection passes the filter{named}.")
    return pinned, pinned.view
