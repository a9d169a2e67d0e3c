"""Searches of collections that have an index in PostgreSQL: its candidates, ranked by their exact vectors.

The index says which images may be near; how near they are, in the view that is searched in, is computed from the
vectors that are stored. What came or changed after the index's revision lies in a small matrix beside it, which follows
the collection as resident matrices do, so that a search sees all that was committed before it began.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from imagekin import catalog, errors
from imagekin.database.engine import Database
from imagekin.settings import Settings
from imagekin.store import images, index_search, indexes, reading
from imagekin.store import views as kept_views
from imagekin.store.index_search import Candidate, Found
from imagekin.store.indexes import Index
from imagekin_worker.matrix import lengths, loaded
from imagekin_worker.matrix import view as views
from imagekin_worker.matrix.file import Label
from imagekin_worker.matrix.loaded import Residents
from imagekin_worker.matrix.neighbors import SCORE_DECIMALS, Matrix, Neighbor
from imagekin_worker.matrix.view import Accumulator, View

T = TypeVar("T")

# Candidates for so many neighbors, and at least; signs alone order vectors less well than numbers do.
CANDIDATES, LEAST_CANDIDATES = 4, 100
SIGNS_FACTOR = 4
MOST_CANDIDATES = 4000
# The index of the calibrated view knows less of what is near in the raw one.
RAW_FACTOR = 2
# Candidates whose vectors are read first, beyond the neighbors; the others by how far off the index was with these.
FIRST_READ, OFF_FACTOR, LEAST_OFF = 10, 2.0, 1e-3
# What came since the index takes at most this share of the memory for matrices; beyond, searches are exact.
SHARE_OF_MEMORY = 4
MOST_HELD = 16


class Matching(Collection[str]):
    """The images of a collection that pass a filter, which are asked for when they are looked at.

    An index needs the filter alone.
    """

    def __init__(self, database: Database, collection_id: str, wanted: dict[str, Any]) -> None:
        self.wanted = wanted
        self._ask = lambda: database.read(images.matching, collection_id, wanted)
        self._known: set[str] | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._ids

    @property
    def _ids(self) -> set[str]:
        if self._known is None:
            self._known = self._ask()
        return self._known


class Indexed:
    """What a `Matrix` of a collection is to a search, by its index and the images that came since.

    It works within `session`, at one moment of the database.
    """

    def __init__(self, index: Index, label: Label, indexed_view: View) -> None:
        self.label, self.indexed_view = label, indexed_view
        self.dim = label.dim
        self.view = views.raw(label.space_id, label.dim, 0)
        self.session: Session | None = None
        self.edits = 0
        self._count = 0
        self.stand_on(index)

    def stand_on(self, index: Index) -> None:
        """Look for what came after this index's revision, which may be a later one than before."""
        self.index, self.revision = index, index.revision
        self._later = Matrix(self.dim, dtype=self.label.dtype, sums=loaded.sums_of(self.label))

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of what came since the index, in memory."""
        return self._later.nbytes

    def follow(self, session: Session) -> None:
        """Bring it to the collection's current revision, in which it is used until the session ends."""
        self.session = session
        collection_id = self.label.collection_id
        upto, self._count = reading.head(session, collection_id)
        if upto == self.revision:
            return
        if reading.forgotten(session, collection_id, self.revision):
            # it may have missed deletions; the index need not know them
            self.stand_on(self.index)
        for change in reading.changes(session, collection_id, self.revision, upto):
            self._later.remove(change.deleted)
            if len(change.names):
                self._later.upsert(change.ids, change.stored)
        self.revision = self.edits = upto

    def see(self, view: View) -> None:
        """Search in this view from now on."""
        self.view = view
        if self._later.sums is not None:
            self._later.adopt(view)

    def sums(self) -> Accumulator:
        """Return what the collection's view is made of; it may still count images that were deleted or replaced."""
        assert self._later.sums is not None
        _, saved = indexes.saved(self._in, self.index.id)
        made = Accumulator.resume(saved)
        made.merge(self._later.sums)
        return made

    @property
    def _in(self) -> Session:
        assert self.session is not None
        return self.session

    def search(
        self,
        queries: np.ndarray,
        top_k: int,
        *,
        exclude: Sequence[str | None] | None = None,
        among: Sequence[Collection[str] | None] | None = None,
        keys: Callable[[Sequence[str]], Mapping[str, str]] | None = None,
    ) -> list[list[Neighbor]]:
        """Return the `top_k` neighbors of each query (q, dim), as `Matrix.search` does, nearly all of the best.

        Raises InvalidRequest for other dimensions and numbers that are not finite.
        """
        count = len(queries)
        if not np.isfinite(lengths.of(queries)).all():
            raise errors.InvalidRequest("A vector has NaN, infinite or huge numbers.")
        directions = self.view.exact(queries.astype(np.float32))
        return self.along(directions, top_k, exclude=exclude or [None] * count, among=among or [None] * count)

    def along(
        self,
        directions: NDArray[np.float64],
        top_k: int,
        *,
        exclude: Sequence[str | None],
        among: Sequence[Collection[str] | None],
        keys: Callable[[Sequence[str]], Mapping[str, str]] | None = None,
    ) -> list[list[Neighbor]]:
        """Return what `search` does for directions (q, dim) of length 1 that are in its view already."""
        later = self._tail(directions, top_k, exclude, among)
        return [
            self._best(direction, top_k, excluded, allowed, beside)
            for direction, excluded, allowed, beside in zip(directions, exclude, among, later, strict=True)
        ]

    def _tail(
        self,
        directions: NDArray[np.float64],
        top_k: int,
        exclude: Sequence[str | None],
        among: Sequence[Collection[str] | None],
    ) -> list[list[Neighbor]]:
        """Return the neighbors of each direction among the images that came since."""
        if not len(self._later):
            return [[] for _ in directions]
        passed: dict[int, Collection[str]] = {}
        for allowed in among:
            if isinstance(allowed, Matching) and id(allowed) not in passed:
                passed[id(allowed)] = set(index_search.later(self._in, self.index, allowed.wanted))
        return self._later.along(
            directions,
            top_k,
            exclude=exclude,
            among=[passed.get(id(allowed), allowed) for allowed in among],
            keys=lambda ids: reading.keys(self._in, ids),
        )

    def _best(
        self,
        direction: NDArray[np.float64],
        top_k: int,
        excluded: str | None,
        among: Collection[str] | None,
        later: Sequence[Neighbor],
    ) -> list[Neighbor]:
        found = [(-one.score, one.key, one.id) for one in later]
        for some in self._read(direction, top_k + 1, among):
            found += [
                (0.0 - score, key, id)
                for score, key, id in zip(self._scores(some, direction).tolist(), some.keys, some.ids, strict=True)
                if id != excluded and id not in self._later
            ]
        best = heapq.nsmallest(top_k, found)
        return [Neighbor(rank, id, key, 0.0 - score) for rank, (score, key, id) in enumerate(best, 1)]

    def _scores(self, some: Found, direction: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.einsum("nd,d->n", self.view.exact(some.vectors), direction).round(SCORE_DECIMALS)

    def _read(self, direction: NDArray[np.float64], top_k: int, among: Collection[str] | None) -> Iterator[Found]:
        """Yield the images with their vectors among which the best are."""
        more = max(LEAST_CANDIDATES, CANDIDATES * top_k)
        query, comparable = direction, not self.index.signs
        if self.index.signs:
            more *= SIGNS_FACTOR
        if (self.view.mean is None) != (self.indexed_view.mean is None):
            more *= RAW_FACTOR
            query, comparable = self.indexed_view.exact(direction[None])[0], False
        count = max(top_k, min(more, MOST_CANDIDATES))
        wanted = among.wanted if isinstance(among, Matching) else None
        ids = list(among) if among is not None and wanted is None else None
        if wanted is not None:
            ids = index_search.passing(self._in, self.index, wanted, count)
        if ids is None:
            near = index_search.nearest(self._in, self.index, query, count, wanted)
            if wanted is None or len(near) >= count:
                yield from self._promising(near, direction, top_k) if comparable else self._all(near)
                return
            ids = index_search.passing(self._in, self.index, wanted, None)
        yield from index_search.pieces_of(self._in, self.index, ids or [])

    def _all(self, near: Sequence[Candidate]) -> Iterator[Found]:
        return index_search.pieces_of(self._in, self.index, [one.id for one in near])

    def _promising(self, near: list[Candidate], direction: NDArray[np.float64], top_k: int) -> Iterator[Found]:
        """Yield those of the candidates that may be among the best, by how far off the index was with the first ones.

        It has halves of the numbers, and another mean: what that does to scores is nearly the same for all.
        """
        near.sort(key=lambda one: -one.closeness)
        first, rest = near[: top_k + FIRST_READ], near[top_k + FIRST_READ :]
        found = index_search.read(self._in, self.index, [one.id for one in first])
        yield found
        if not rest or len(found.ids) < top_k:
            return
        scores = self._scores(found, direction)
        said = {one.id: one.closeness for one in first}
        off = scores - np.array([said[id] for id in found.ids])
        margin = OFF_FACTOR * float(np.ptp(off)) + LEAST_OFF
        least = float(np.partition(scores, -top_k)[-top_k]) - float(off.mean()) - margin
        yield from self._all([one for one in rest if one.closeness >= least])

    def directions(self, ids: Sequence[str]) -> NDArray[np.float64]:
        """Return images (n, dim) as directions of length 1 in the view; raises ImageNotFound."""
        found = index_search.read(self._in, self.index, ids)
        places = {id: at for at, id in enumerate(found.ids)}
        if len(places) < len(set(ids)):
            raise errors.ImageNotFound
        return self.view.exact(found.vectors)[[places[id] for id in ids]]

    def sample(self, count: int) -> list[str]:
        """Return ids of images drawn by chance; those that came since the index are not among them."""
        return index_search.sample(self._in, self.index, count) or self._later.sample(count)


@dataclass
class Searches:
    """Searches of all collections: by their index where they have one, else by their resident matrix."""

    database: Database
    residents: Residents
    most_bytes: int

    def __post_init__(self) -> None:
        self._held: OrderedDict[tuple[str, str], Indexed] = OrderedDict()

    @classmethod
    def of(cls, settings: Settings, database: Database, residents: Residents) -> Searches:
        """Return the searches of a worker's process."""
        return cls(database, residents, settings.matrix_memory_bytes // SHARE_OF_MEMORY)

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
        """Search a collection for queries (q, dim), at its current revision or later, as `Residents.search` does."""
        found = self._indexed(
            collection_id, view, lambda indexed: indexed.search(queries, top_k, exclude=exclude, among=among)
        )
        return found or self.residents.search(collection_id, queries, top_k, view=view, exclude=exclude, among=among)

    def using(self, collection_id: str, view: str, work: Callable[[Matrix | Indexed], T]) -> tuple[View, T]:
        """Return the view, and what `work` makes of the collection in it, as `Residents.using` does."""
        return self._indexed(collection_id, view, work) or self.residents.using(collection_id, view, work)

    def _indexed(self, collection_id: str, view: str, work: Callable[[Indexed], T]) -> tuple[View, T] | None:
        if self.database.is_sqlite:
            return None
        return self.database.read(self._worked, collection_id, view, work)

    def _worked(
        self, session: Session, collection_id: str, view: str, work: Callable[[Indexed], T]
    ) -> tuple[View, T] | None:
        """Return the view and what `work` makes of the indexed collection; None for an exact search."""
        index = indexes.ready(session, collection_id)
        if index is None:
            return None
        indexed = self._current(session, index, view)
        if indexed is None:
            return None
        try:
            return indexed.view, work(indexed)
        finally:
            indexed.session = None

    def _current(self, session: Session, index: Index, view: str) -> Indexed | None:
        label, count = loaded.label_of(session, index.collection_id, view)
        held = self._held.pop(label.key, None)
        if held is None or held.label != label or held.index != index:
            most = self.most_bytes // label.row_bytes
            if indexes.behind(session, index, most + 1) > most:
                return None
        elif held.nbytes > self.most_bytes:
            return None
        if held is None or held.label != label or held.index.id != index.id:
            held = Indexed(index, label, View.load(indexes.saved(session, index.id)[0]))
        elif held.index != index:
            held.stand_on(index)
        held.follow(session)
        held.see(self._view(session, held, count))
        self._held[label.key] = held
        while len(self._held) > MOST_HELD:
            self._held.popitem(last=False)
        return held

    def _view(self, session: Session, held: Indexed, count: int) -> View:
        """Return the view to search in: the one that all workers have, made again when it is due."""
        label = held.label
        if label.view == views.RAW or catalog.is_adapted(label.space_id):
            return views.raw(label.space_id, label.dim, count)
        saved = kept_views.kept(session, label.collection_id)
        view = loaded.view_of(saved, label)
        if view is None or view.renewal_due(count):
            made = replace(held.sums().view(), images=count)
            saved = self.database.write(kept_views.keep, label.collection_id, made.saved(), saved)
            view = loaded.view_of(saved, label) or made
        return view
