"""Collections' vectors, caught up with SQL before they answer: in memory, or in a file if memory is too small."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import structlog
import torch
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import DType
from imagekin.settings import Settings
from imagekin.store import reading
from imagekin.store import views as kept_views
from imagekin.telemetry import metrics
from imagekin_worker.matrix import file_cache, lengths, scan
from imagekin_worker.matrix import view as views
from imagekin_worker.matrix.file import Damaged, Label, MatrixFile
from imagekin_worker.matrix.file_cache import MatrixCache
from imagekin_worker.matrix.neighbors import Matrix, Neighbor
from imagekin_worker.matrix.scan import Scanner
from imagekin_worker.matrix.snapshot import Snapshot
from imagekin_worker.matrix.view import Accumulator, View

T = TypeVar("T")

log = structlog.get_logger()

# A file is written anew once so many rows changed since, in all and of all: reading fewer of them from SQL is quick,
# and writing costs as much as the file is large.
FEWEST_CHANGES = 1024
SHARE_OF_CHANGES = 8
# Times that a search begins again because its file turned out damaged, or the past it stood at was forgotten.
ATTEMPTS = 3


@dataclass
class Held:
    """A matrix at `revision`; `kept_edits`: how many of its edits its file has."""

    label: Label
    revision: int
    matrix: Matrix
    kept_edits: int = 0
    keeping: Future[int | None] | None = None
    # the view as SQL has it, and as it was when it was adopted
    view: bytes | None = None
    adopted: bytes | None = None


class Residents:
    """The matrices of collections within a memory budget; the least recently used are dropped first.

    With a `cache` they outlive the process: what was read from SQL is written to a file behind the searches' back, and
    the next process reads that and what changed since. A collection beyond the budget is searched in its file, block by
    block, and only what changed since lies in memory. On a GPU the budget is of its memory.

    Each view of a collection has a matrix of its own, and a file, as soon as it is searched in: raw scores are those of
    the raw numbers, which cannot be recovered from x'. So one matrix is held if all search in one view, as most do; of
    two the one that is asked for less goes first.
    """

    @classmethod
    def of(cls, settings: Settings, database: Database, device: torch.device) -> Residents:
        """Return the matrices of a worker's process."""
        cache = MatrixCache.of(settings) if settings.matrix_cache_bytes else None
        return cls(database, settings.matrix_memory_bytes, cache=cache, scanner=Scanner(device, threads=settings.lanes))

    def __init__(
        self,
        database: Database,
        budget_bytes: int,
        *,
        cache: MatrixCache | None = None,
        scanner: Scanner | None = None,
    ) -> None:
        self._database = database
        self._budget_bytes = budget_bytes
        self._cache = cache
        self._scanner = scanner or scan.default()
        self._held: OrderedDict[tuple[str, str], Held] = OrderedDict()
        self._keeper = ThreadPoolExecutor(1, "keeper")
        self._closed = False

    def search(
        self,
        collection_id: str,
        queries: np.ndarray,
        top_k: int,
        *,
        view: str = views.RAW,
        exclude: Sequence[str | None] | None = None,
        among: Sequence[Collection[str] | None] | None = None,
    ) -> tuple[View, list[list[Neighbor]]]:
        """Search a collection for queries (q, dim), at its current revision or later, as `Matrix.search` does.

        The view is the one that was searched in: `raw` if there are too few images for another one.
        Raises CollectionDeleted, and what `Matrix.search` raises of the query.
        """

        def found(matrix: Matrix) -> list[list[Neighbor]]:
            return matrix.search(queries, top_k, exclude=exclude, among=among, keys=self._keys)

        return self.using(collection_id, view, found)

    def using(self, collection_id: str, view: str, work: Callable[[Matrix], T]) -> tuple[View, T]:
        """Return the view, and what `work` makes of the collection's matrix in it; it may be called several times.

        Raises CollectionDeleted, and what `work` raises except Damaged, after which the matrix is read again.
        """
        for attempt in range(ATTEMPTS):
            key, held = (collection_id, view), None
            try:
                held = self._current(collection_id, view)
                key = held.label.key
                matrix = held.matrix
                return matrix.view or views.raw(held.label.space_id, matrix.dim, len(matrix)), work(matrix)
            except Damaged as damage:
                self._drop(key, damage)
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def get(self, collection_id: str, view: str = views.RAW) -> Matrix:
        """Return the collection's matrix as of its current revision, or a later one. Raises CollectionDeleted."""
        return self._current(collection_id, view).matrix

    def _current(self, collection_id: str, view: str) -> Held:
        """Return what is held, caught up, in the view, or `raw` if there are too few images."""
        likely = views.RAW if self._few(collection_id) else view
        held = self._adopted(self._held.pop((collection_id, likely), None))
        label, count, followed = self._database.read(self._look, collection_id, view, held)
        while held is None or not followed:
            # it cannot go on from where it stands, so it starts from the beginning
            if followed is not None and self._cache is not None:
                self._cache.remove(label)
            held = self._load(label, count)
            followed = self._database.read(_follow, held)
        self._held[held.label.key] = held
        self._see(held)
        self._evict()
        self._keep(held)
        metrics.WORK.matrix_bytes.set(self.nbytes)
        too_few = held.matrix.sums is not None and held.matrix.view is None
        return self._current(collection_id, views.RAW) if too_few else held

    def _few(self, collection_id: str) -> bool:
        """Return whether a collection had too few images for a view of its own when it was looked at last."""
        if (collection_id, views.CALIBRATED) in self._held:
            return False
        held = self._held.get((collection_id, views.RAW))
        return held is not None and len(held.matrix) < views.LEAST_IMAGES

    def _see(self, held: Held) -> None:
        """Have a matrix of the calibrated view adopt the collection's view, which is made again when it is due."""
        matrix, label = held.matrix, held.label
        if matrix.sums is None:
            return
        view = matrix.view if held.view == held.adopted else view_of(held.view, label)
        if view is None or view.renewal_due(len(matrix)):
            made = matrix.sums.view()
            if made.name == views.RAW:
                # too few
                matrix.view, held.adopted = None, None
                return
            held.view = self._database.write(kept_views.keep, label.collection_id, made.saved(), held.view)
            view = view_of(held.view, label) or made
        matrix.adopt(view)
        held.adopted = held.view

    @property
    def nbytes(self) -> int:
        return sum(held.matrix.nbytes for held in self._held.values())

    def settle(self) -> None:
        """Wait until the files in progress are written."""
        for held in self._held.values():
            if held.keeping is not None:
                held.keeping.result()

    def close(self) -> None:
        """Stop writing files; half-written ones are removed."""
        self._closed = True
        self._keeper.shutdown()

    def _keys(self, ids: Sequence[str]) -> dict[str, str]:
        return self._database.read(reading.keys, ids)

    def _evict(self) -> None:
        while len(self._held) > 1 and self.nbytes > self._budget_bytes:
            self._held.popitem(last=False)

    def _drop(self, key: tuple[str, str], damage: Damaged) -> None:
        held = self._held.pop(key, None)
        if held is not None and self._cache is not None:
            self._cache.damaged(held.label, damage)

    def _too_large(self, label: Label, count: int) -> bool:
        return self._cache is not None and count * (label.row_bytes + 4) > self._budget_bytes

    def _look(
        self, session: Session, collection_id: str, view: str, held: Held | None
    ) -> tuple[Label, int, bool | None]:
        """Look at a collection, and bring what is held of it to the current revision in the same transaction.

        Returns what its vectors are, how many, and what `_follow` says; None if nothing is held, it is of another view
        or it outgrew the memory.
        """
        label, count = label_of(session, collection_id, view)
        if held is None or held.label != label or (held.matrix.file is None and self._too_large(label, count)):
            return label, count, None
        return label, count, _follow(session, held)

    def _adopted(self, held: Held | None) -> Held | None:
        """Return the matrix held if it may be updated: not if its changes outgrew the memory, or its file is newer."""
        if held is None:
            return None
        # what changed beside a file is in memory, so it may not grow as it likes
        crowded = held.matrix.file is not None and held.matrix.nbytes > self._budget_bytes
        if held.keeping is not None and (crowded or held.keeping.done()):
            edits = held.keeping.result()
            held.keeping = None
            if edits is not None:
                held.kept_edits = edits
                if held.matrix.file is not None:
                    return None
        return held

    def _load(self, label: Label, count: int) -> Held:
        """Start from the collection's file, or from nothing; a collection beyond the budget gets a file."""
        file = self._cache.open(label) if self._cache is not None else None
        if self._too_large(label, count):
            if file is None or _outgrown(file, count):
                file = self._build(label, count)
            return Held(label, file.revision, self._matrix(label, 0, file))
        if file is not None:
            matrix = self._matrix(label, max(count, len(file)))
            try:
                matrix.load(file)
            except Damaged as damage:
                assert self._cache is not None
                self._cache.damaged(label, damage)
            else:
                return Held(label, file.revision, matrix, matrix.edits)
        return Held(label, 0, self._matrix(label, count))

    def _matrix(self, label: Label, capacity: int, file: MatrixFile | None = None) -> Matrix:
        sums = sums_of(label) if file is None or label.view == views.RAW else Accumulator.resume(file.sums)
        return Matrix(label.dim, capacity, dtype=label.dtype, scanner=self._scanner, file=file, sums=sums)

    def _build(self, label: Label, count: int) -> MatrixFile:
        """Write a collection's file from SQL, a segment in memory at a time. Raises Unavailable if that fails."""
        assert self._cache is not None
        try:
            # somebody may remove it before it is open
            for _ in range(ATTEMPTS):
                with self._cache.turn(label, wait=True):
                    file = self._cache.open(label)
                    # whoever had the turn before may have written it
                    if file is None or _outgrown(file, count):
                        self._database.read(_written, self._cache, label)
                        file = self._cache.open(label)
                if file is not None:
                    return file
        except OSError as error:
            raise errors.Unavailable(f"The file of a collection's vectors cannot be written: {error}") from error
        raise errors.Unavailable(
            "The file of a collection's vectors does not stay as written; check IMAGEKIN_CACHE_DIR."
        )

    def _keep(self, held: Held) -> None:
        """Write the matrix to its file in the background if enough of it has changed."""
        changed = held.matrix.edits - held.kept_edits
        if (
            self._cache is None
            or held.keeping is not None
            or changed < max(FEWEST_CHANGES, len(held.matrix) // SHARE_OF_CHANGES)
        ):
            return
        held.keeping = self._keeper.submit(self._write, held, held.matrix.snapshot(), held.revision)

    def _write(self, held: Held, snapshot: Snapshot, revision: int) -> int | None:
        """Write a snapshot, on the keeper's thread; return its edits, None if it failed."""
        cache, label = self._cache, held.label
        assert cache is not None
        try:
            with cache.turn(label, wait=False) as free:
                if not free:
                    return None
                if cache.revision(label) < revision:
                    with cache.writer(label) as writer:
                        for piece in snapshot.pieces():
                            if self._closed or held.matrix.overwrites != snapshot.overwrites:
                                return None
                            writer.add(*piece)
                        if held.matrix.overwrites != snapshot.overwrites:
                            return None
                        writer.publish(revision, snapshot.sums)
                cache.prune(lambda ids: self._database.read(file_cache.living, ids))
        except (OSError, Damaged, DBAPIError) as error:
            log.warning("matrix_not_kept", collection_id=label.collection_id, reason=str(error))
            return None
        return snapshot.edits


def _outgrown(file: MatrixFile, count: int) -> bool:
    """Return whether the images added since would not fit in memory next to the file."""
    return count > len(file) + max(FEWEST_CHANGES, len(file) // SHARE_OF_CHANGES)


def label_of(session: Session, collection_id: str, view: str) -> tuple[Label, int]:
    """Return what the vectors of a collection's matrix are, and how many."""
    _, count = reading.head(session, collection_id)
    collection = session.get_one(tables.Collection, collection_id)
    dim = session.get_one(tables.Space, collection.space_id).dim
    if view == views.RAW or count < views.LEAST_IMAGES:
        return Label(collection_id, collection.space_id, collection.dtype, dim), count
    return Label(collection_id, collection.space_id, DType.FLOAT32, dim, view), count


def sums_of(label: Label) -> Accumulator | None:
    return None if label.view == views.RAW else Accumulator(label.space_id, label.dim)


def view_of(saved: bytes | None, label: Label) -> View | None:
    """Return a view that was kept; None if it is of another space or version of the formula, and so made again."""
    if saved is None:
        return None
    try:
        view = View.load(saved)
    except errors.JobError:
        return None
    return view if (view.space, view.dim, view.exponent) == (label.space_id, label.dim, views.EXPONENT) else None


def _follow(session: Session, held: Held) -> bool:
    """Bring a matrix to the current revision; return whether that was possible.

    It is not if deletions that it missed are forgotten, or if the first reading broke off and is run again.
    """
    if not held.revision and len(held.matrix):
        return False
    if held.revision and reading.forgotten(session, held.label.collection_id, held.revision):
        return False
    held.view = kept_views.kept(session, held.label.collection_id) if held.matrix.sums is not None else None
    held.revision, _ = catch_up(session, held.label.collection_id, held.revision, held.matrix)
    return True


def _written(session: Session, cache: MatrixCache, label: Label) -> None:
    revision, _ = reading.head(session, label.collection_id)
    sums = sums_of(label)
    with cache.writer(label) as writer:
        for change in reading.changes(session, label.collection_id, 0, revision):
            rows = change.stored
            if sums is not None and len(rows):
                rows = sums.powered(rows)
                sums.count(rows)
            writer.add(change.names, rows, lengths.inverted(rows))
        writer.publish(revision, b"" if sums is None else sums.state())


def catch_up(
    session: Session, collection_id: str, revision: int = 0, matrix: Matrix | None = None, upto: int | None = None
) -> tuple[int, Matrix]:
    """Bring a matrix at `revision` to revision `upto`, or to the current one; return that revision and the matrix.

    Ids and clocks would miss rows that commit late; revisions do not, since they rise under the collection's lock.
    Without a matrix, or if deletions that it missed are forgotten, it is a new float32 one in memory.
    """
    current, count = reading.head(session, collection_id)
    if upto is not None:
        current = upto
    if matrix is None or (revision and reading.forgotten(session, collection_id, revision)):
        revision = 0
        space = session.get_one(tables.Space, session.get_one(tables.Collection, collection_id).space_id)
        matrix = Matrix(space.dim, capacity=count)
    if current > revision:
        if matrix.file is None:
            matrix.reserve(count)
        changes = reading.changes(session, collection_id, revision, current)
        if revision:
            for change in changes:
                if change.deleted:
                    matrix.remove(change.deleted)
                if len(change.names):
                    matrix.upsert(change.ids, change.stored)
        else:
            matrix.fill((change.names, change.stored) for change in changes)
    return current, matrix
