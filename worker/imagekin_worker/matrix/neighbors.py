"""Exact nearest neighbors by cosine over the vectors of one collection.

Long because one class holds a matrix, its margins and the exact order of answers, which must agree to the bit.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagekin import errors
from imagekin.enums import DType
from imagekin.store.reading import ID
from imagekin.store.vector_codec import WIRE
from imagekin_worker.matrix import lengths, scan, tensors
from imagekin_worker.matrix.file import CHECKED_ROWS, MatrixFile
from imagekin_worker.matrix.id_index import Names, Roster, encoded
from imagekin_worker.matrix.scan import MARGIN, Asked, Block, Filters, Scanner
from imagekin_worker.matrix.snapshot import Snapshot
from imagekin_worker.matrix.view import Accumulator, View

# Rows that are scored in float64 at a time.
RANKED_ROWS = 2048
# Bytes of rows that a search among a few of them copies at a time.
GATHERED_BYTES = 4 << 20
SCORE_DECIMALS = 6
FIRST_CAPACITY = 1024
# A filter that leaves less than one row in so many is searched alone, over copies of its rows; others share a product.
FEW = 8
# Filters of one product: each takes a byte for every row.
FILTERS_AT_ONCE = 16
# Beyond this reciprocal of a length from the mean, float32 says nothing of a score, and all rows are ranked in float64:
# pictures that are all but one.
NEAREST_MEAN = 1e4


def _themselves(ids: Sequence[str]) -> dict[str, str]:
    return {id: id for id in ids}


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One answer: `rank` from 1, `score` the cosine rounded to 1e-6, higher is better."""

    rank: int
    id: str
    key: str
    score: float


class Matrix:
    """The vectors of one collection by image id: rows in the order added, and the reciprocals of their lengths.

    Rows are held in memory in the collection's own `dtype`, on the scanner's device; those of `file`, if there is one,
    stay on disk and are read block by block in each search, and what changes since lies in memory beside them. A vector
    of zeros scores 0 against everything. Not for several threads at once while one of them changes it.

    With `sums` it is a matrix of the calibrated view: its rows, and those of `file`, are x' in float32 (see
    imagekin_worker.matrix.view), counted into the sums that the view's mean is made of. It is searched in the view that
    it adopted; a new mean costs a pass over the rows, and rows are not loaded again.
    """

    def __init__(
        self,
        dim: int,
        capacity: int = 0,
        *,
        dtype: DType | str = DType.FLOAT32,
        scanner: Scanner | None = None,
        file: MatrixFile | None = None,
        sums: Accumulator | None = None,
    ) -> None:
        self.dim = dim
        self.file = file
        self.sums = sums
        self.view: View | None = None
        # how many rows were changed or removed so far, and how often a row in memory, or the file's, became another
        self.edits = self.overwrites = 0
        self._scanner = scanner or scan.default()
        # of the rows in memory
        self._roster = Roster()
        device = self._scanner.device
        self._rows = tensors.empty((capacity, dim), tensors.DTYPES[DType(dtype)], device)
        self._reciprocals = tensors.empty((capacity,), torch.float32, device)
        self._in_file = 0 if file is None else len(file)
        self._dead: Tensor | None = None
        self._n_dead = 0
        # of the file's rows in the view
        self._filed_reciprocals: Tensor | None = None

    def __len__(self) -> int:
        return len(self._roster) + self._in_file - self._n_dead

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self._place(image_id) >= 0

    @property
    def ids(self) -> list[str]:
        """The ids of the rows in memory."""
        return self._roster.names.astype(str).tolist()

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors' storage in memory, what is reserved included."""
        beside = (self._dead, self._filed_reciprocals)
        return self._rows.nbytes + self._reciprocals.nbytes + sum(each.nbytes for each in beside if each is not None)

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` vectors in memory: once before a load, this avoids copies while it grows."""
        if capacity > len(self._rows):
            self._rows = tensors.grown(self._rows, capacity)
            self._reciprocals = tensors.grown(self._reciprocals, capacity)

    def raw(self) -> np.ndarray:
        """Return the vectors in memory (n, dim), unchanged, in the order of `ids`; a read-only view on a CPU."""
        view = self._rows[: len(self._roster)].cpu().numpy()
        view.flags.writeable = False
        return view

    def vector(self, image_id: str) -> np.ndarray:
        """Return a copy of an image's vector (dim,) float32; raises ImageNotFound."""
        place = self._place(image_id)
        if place < 0:
            raise errors.ImageNotFound
        return self._take(np.array([place]))[0].astype(np.float32)

    def upsert(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        """Add vectors (n, dim) under their ids; a known id gets the new vector, an id given twice the last one.

        Raises InvalidRequest, and changes nothing, if shapes differ or a number is not finite.
        """
        rows, norms = self._kept(vectors)
        last = {id: at for at, id in enumerate(ids)}
        if len(ids) != len(rows):
            raise errors.InvalidRequest(f"{len(rows)} vectors came with {len(ids)} ids.")
        if len(last) < len(rows):
            kept = list(last.values())
            rows, norms = rows[kept], norms[kept]
        names, reciprocals = encoded(last), lengths.reciprocals(norms)
        if self.view is not None:
            reciprocals = self.view.terms(rows).reciprocals.astype(np.float32)
        self._bury(names)
        places = self._roster.find(names)
        known = places >= 0
        if known.any():
            self._uncount(places[known])
            self.overwrites += 1
            self.edits += int(known.sum())
            tensors.put(self._rows, places[known], rows[known])
            tensors.put(self._reciprocals, places[known], reciprocals[known])
            if self.sums is not None:
                self.sums.count(rows[known])
            names, rows, reciprocals = names[~known], rows[~known], reciprocals[~known]
        self._append(names, rows, reciprocals)

    def fill(self, pieces: Iterable[tuple[Names, np.ndarray]]) -> None:
        """Add all images, to an empty matrix, in pieces of names (n,) and vectors (n, dim).

        Raises InvalidRequest as `upsert` does; if that happens or `pieces` breaks off, discard the matrix.
        """
        start = len(self._roster)
        for names, vectors in pieces:
            rows, norms = self._kept(vectors)
            self._append(names, rows, norms)
        # until here they are lengths: for all at once it takes numpy as long as for those of a piece
        added = slice(start, len(self._roster))
        tensors.put(self._reciprocals, added, lengths.reciprocals(self._reciprocals[added].cpu().numpy()))

    def load(self, file: MatrixFile) -> None:
        """Add all of a file, to an empty matrix. Raises matrix_file.Damaged."""
        self.reserve(len(self._roster) + len(file))
        counting, self.sums = self.sums, None
        for start, stop in file.pieces():
            self._append(file.names(start, stop), file.vectors(start, stop), file.reciprocals(start, stop))
            file.release(start, stop)
        self.sums = counting if counting is None else Accumulator.resume(file.sums)

    def adopt(self, view: View) -> None:
        """Search in this view from now on: a pass over the rows. Raises matrix_file.Damaged."""
        if self.view is not None and self.view.id == view.id:
            return
        if self.file is not None:
            filed = np.empty(self._in_file, np.float32)
            for start, stop in self.file.pieces():
                filed[start:stop] = view.terms(self.file.vectors(start, stop)).reciprocals
                self.file.release(start, stop)
            self._filed_reciprocals = torch.from_numpy(filed)
        for start in range(0, len(self._roster), CHECKED_ROWS):
            span = slice(start, min(start + CHECKED_ROWS, len(self._roster)))
            terms = view.terms(self._rows[span].cpu().numpy())
            tensors.put(self._reciprocals, span, terms.reciprocals.astype(np.float32))
        self.view = view

    def _append(self, names: Names, rows: np.ndarray, reciprocals: np.ndarray) -> None:
        old = len(self._roster)
        self.edits += len(names)
        self._make_room(old + len(names))
        self._roster.extend(names)
        tensors.put(self._rows, slice(old, len(self._roster)), rows)
        tensors.put(self._reciprocals, slice(old, len(self._roster)), reciprocals)
        if self.sums is not None:
            self.sums.count(rows)

    def _uncount(self, places: np.ndarray) -> None:
        """Take rows in memory out of the view's sums."""
        if self.sums is not None:
            self.sums.discount(tensors.take(self._rows, places))

    def _make_room(self, count: int) -> None:
        if count > len(self._rows):
            self.reserve(max(count, len(self._rows) * 3 // 2, FIRST_CAPACITY))

    def remove(self, ids: Iterable[str]) -> int:
        """Remove images by id and return how many there were; the last row moves to each free place."""
        names = encoded(set(ids))
        before = len(self)
        self._bury(names)
        places = self._roster.find(names)
        self._uncount(places[places >= 0])
        # from the end, so that the last row is none of those that go
        for row in sorted(places[places >= 0].tolist(), reverse=True):
            self.overwrites += 1
            self._roster.drop(row)
            last = len(self._roster)
            if row != last:
                self._rows[row], self._reciprocals[row] = self._rows[last], self._reciprocals[last]
        removed = before - len(self)
        self.edits += removed
        return removed

    def snapshot(self) -> Snapshot:
        """Return the rows as they are now, without copying them."""
        dead = None if self._dead is None else self._dead.clone()
        names = self._roster.names.copy()
        sums = b"" if self.sums is None else self.sums.state()
        return Snapshot(self.overwrites, self.edits, self.file, dead, names, self._rows, self._reciprocals, sums)

    def search(
        self,
        queries: np.ndarray,
        top_k: int,
        *,
        min_score: float | None = None,
        exclude: Sequence[str | None] | None = None,
        among: Sequence[Collection[str] | None] | None = None,
        keys: Callable[[Sequence[str]], Mapping[str, str]] = _themselves,
    ) -> list[list[Neighbor]]:
        """Return the `top_k` neighbors of each query (q, dim), by descending rounded score, ties by key.

        For each query, `exclude` names an image to leave out (its own), and `among` the only images that may answer it
        (None: all); unknown ids are ignored. `min_score` is compared with the rounded score. `keys` returns the keys of
        images by id, and an image without a key is left out; by default ids are keys. Raises InvalidRequest for other
        dimensions, numbers that are not finite, or top_k below 1, and matrix_file.Damaged if the file is damaged.
        """
        asked, _ = self._checked(queries, torch.float32)
        if top_k < 1:
            raise errors.InvalidRequest("top_k must be at least 1.")
        exclude, among = exclude or [None] * len(asked), among or [None] * len(asked)
        if not len(exclude) == len(among) == len(asked):
            raise errors.InvalidRequest(
                f"{len(asked)} queries came with {len(exclude)} ids to exclude and {len(among)} filters."
            )
        if not len(asked):
            return []
        if self.view is None:
            exact = asked.astype(np.float64)
            exact *= lengths.inverted(exact)[:, None]
        else:
            exact = self.view.exact(asked)
        return self.along(exact, top_k, min_score=min_score, exclude=exclude, among=among, keys=keys)

    def along(
        self,
        directions: NDArray[np.float64],
        top_k: int,
        *,
        min_score: float | None = None,
        exclude: Sequence[str | None],
        among: Sequence[Collection[str] | None],
        keys: Callable[[Sequence[str]], Mapping[str, str]] = _themselves,
    ) -> list[list[Neighbor]]:
        """Return what `search` does for directions (q, dim) of length 1 that are in the matrix's view already."""
        # The excluded row may be among the best: one more, and it can go.
        found = self._candidates(self._asked(directions, top_k + 1), among)
        hidden = [self._place(image_id) if image_id is not None else -1 for image_id in exclude]
        best = [
            self._best(query, rows[rows != row].numpy(), top_k, min_score)
            for query, rows, row in zip(directions, found, hidden, strict=True)
        ]
        if self.file is not None:
            self.file.release()
        ids = list(dict.fromkeys(id for answers in best for _, id in answers))
        key_of = keys(ids)
        return [_ranked(answers, key_of, top_k) for answers in best]

    def directions(self, ids: Sequence[str]) -> NDArray[np.float64]:
        """Return images (n, dim) as directions of length 1 in the matrix's view; raises ImageNotFound."""
        rows = self._places(encoded(ids))
        if (rows < 0).any():
            raise errors.ImageNotFound
        return self._directions(self._take(rows))

    def sample(self, count: int) -> list[str]:
        """Return ids of images drawn by chance; the same images give the same ids in any order.

        Ids end in random digits, and the lowest of these are taken.
        """
        rows = self._alive().numpy()
        names = self._names(rows)
        if len(names) > count:
            tails = np.ascontiguousarray(names.view("S1").reshape(len(names), -1)[:, -8:]).view(">u8")[:, 0]
            names = names[np.argpartition(tails, count)[:count]]
        return np.sort(names).astype(str).tolist()

    def _directions(self, rows: np.ndarray) -> NDArray[np.float64]:
        if self.view is not None:
            return self.view.directions(rows)
        vectors = rows.astype(np.float64)
        vectors *= lengths.inverted(vectors)[:, None]
        return vectors

    def _checked(self, vectors: np.ndarray, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Return vectors (n, dim) and their lengths (n,) as float32.

        Raises InvalidRequest for other shapes or numbers.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise errors.InvalidRequest(f"Expected vectors of {self.dim} dimensions, got an array {vectors.shape}.")
        with np.errstate(over="ignore"):
            rows = vectors.astype(np.float16 if dtype == torch.float16 else np.float32, copy=False)
        norms = lengths.of(rows)
        if not np.isfinite(norms).all():
            raise errors.InvalidRequest("A vector has NaN, infinite or huge numbers.")
        return rows, norms

    def _kept(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return vectors (n, dim) as rows, and the lengths (n,) of these; raise InvalidRequest as `_checked` does."""
        if self.sums is None:
            return self._checked(vectors, self._rows.dtype)
        rows = self.sums.powered(vectors)
        return rows, lengths.of(rows)

    def _asked(self, exact: NDArray[np.float64], count: int) -> Asked:
        if self.view is None:
            return Asked(torch.from_numpy(exact).float(), count)
        asked = self.view.scanned(exact)
        return Asked(
            torch.from_numpy(asked.vectors), count, torch.from_numpy(asked.biases).float(), MARGIN * self._sharpest()
        )

    def _sharpest(self) -> float:
        """Return what the rounding of a product is multiplied by at most in a score: the largest reciprocal."""
        parts = [self._reciprocals[: len(self._roster)], self._filed_reciprocals]
        return max([1.0, *(float(part.max()) for part in parts if part is not None and len(part))])

    def _place(self, image_id: str) -> int:
        """Return a live image's row, -1 for an unknown one; the file's rows come first."""
        [place] = self._places(encoded([image_id])).tolist()
        return place

    def _places(self, names: Names) -> NDArray[np.int64]:
        """Return the rows of live images, -1 for others."""
        rows = self._roster.find(names)
        return np.where(rows >= 0, self._in_file + rows, self._filed(names)) if self.file is not None else rows

    def _filed(self, names: Names) -> NDArray[np.int64]:
        """Return the rows of those that are live in the file, -1 for others."""
        assert self.file is not None
        rows = self.file.find(names)
        if self._dead is not None:
            rows[(rows >= 0) & self._dead[rows].numpy()] = -1
        return rows

    def _bury(self, names: Names) -> None:
        """Stop the file's rows of these images from answering."""
        if self.file is None:
            return
        rows = np.unique(self._filed(names))
        rows = rows[rows >= 0]
        if len(rows):
            if self.sums is not None:
                self.sums.discount(self.file.take(rows))
            if self._dead is None:
                self._dead = torch.zeros(self._in_file, dtype=torch.bool)
            self._dead[rows] = True
            self._n_dead += len(rows)
            self.overwrites += 1

    def _take(self, rows: np.ndarray) -> np.ndarray:
        """Return copies of rows (n, dim), as stored."""
        if self.file is None:
            return tensors.take(self._rows, rows)
        old = rows < self._in_file
        taken = np.empty((len(rows), self.dim), WIRE[DType(self.file.label.dtype)])
        taken[old] = self.file.take(rows[old])
        taken[~old] = tensors.take(self._rows, rows[~old] - self._in_file)
        return taken

    def _candidates(self, asked: Asked, among: Sequence[Collection[str] | None]) -> list[Tensor]:
        """Return the rows that may be among the best of each query: one product for all, except with narrow filters."""
        if asked.margin > MARGIN * NEAREST_MEAN:
            return [self._alive() if allowed is None else self._subset(allowed) for allowed in among]
        found: dict[int, Tensor] = {}
        shared: list[tuple[Tensor | None, list[int]]] = []
        for allowed, mine in _by_filter(among):
            rows = None if allowed is None else self._subset(allowed)
            if rows is not None and len(rows) * FEW < len(self):
                blocks = list(self._gathered(rows, len(mine)))
                found |= zip(mine, self._scanner.best(asked.of(mine), blocks), strict=True)
            else:
                shared.append((rows, mine))
        for start in range(0, len(shared), FILTERS_AT_ONCE):
            some = shared[start : start + FILTERS_AT_ONCE]
            mine = [index for _, indexes in some for index in indexes]
            best = self._scanner.best(asked.of(mine), list(self._blocks(len(mine))), self._filters(some))
            found |= zip(mine, best, strict=True)
        return [found[index] for index in range(len(asked))]

    def _alive(self) -> Tensor:
        rows = torch.arange(self._in_file + len(self._roster))
        return rows if self._dead is None else rows[~torch.nn.functional.pad(self._dead, (0, len(self._roster)))]

    def _subset(self, allowed: Collection[str]) -> Tensor:
        rows = np.unique(self._places(encoded(allowed)))
        return torch.from_numpy(rows[rows >= 0])

    def _filters(self, shared: Sequence[tuple[Tensor | None, list[int]]]) -> Filters | None:
        """Return the filters of grouped queries, None if all rows may answer all of them."""
        if all(rows is None for rows, _ in shared):
            return None
        masks = torch.zeros((len(shared), self._in_file + len(self._roster)), dtype=torch.bool)
        for mask, (rows, _) in zip(masks, shared, strict=True):
            mask[slice(None) if rows is None else rows] = True
        return Filters(masks, torch.tensor([at for at, (_, mine) in enumerate(shared) for _ in mine]))

    def _blocks(self, n_queries: int) -> Iterator[Block]:
        """Yield all rows: those of the file, then those in memory."""
        step = self._scanner.step(n_queries, self.dim, self._rows.dtype)
        if self.file is not None:
            step = -(-step // CHECKED_ROWS) * CHECKED_ROWS
            for start in range(0, self._in_file, step):
                span = slice(start, min(start + step, self._in_file))
                yield Block(
                    span,
                    partial(self._read, self.file, span),
                    None if self._dead is None else self._dead[span],
                    partial(self.file.release, span.start, span.stop),
                )
        for start in range(0, len(self._roster), step):
            span = slice(start, min(start + step, len(self._roster)))
            rows = self._rows[span], self._reciprocals[span]
            yield Block(slice(self._in_file + span.start, self._in_file + span.stop), lambda rows=rows: rows)

    def _read(self, file: MatrixFile, span: slice) -> tuple[Tensor, Tensor]:
        rows = tensors.of(file.vectors(span.start, span.stop))
        if self._filed_reciprocals is not None:
            return rows, self._filed_reciprocals[span]
        return rows, tensors.of(file.reciprocals(span.start, span.stop))

    def _gathered(self, rows: Tensor, n_queries: int) -> Iterator[Block]:
        """Yield some rows, copied when they are needed."""
        step = max(1, GATHERED_BYTES // (4 * max(n_queries, self.dim)))
        for part in rows.split(step):
            if len(part):
                yield Block(part, partial(self._copied, part))

    def _copied(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        taken = self._take(rows.numpy())
        if self.view is not None:
            return tensors.of(taken), tensors.of(self.view.terms(taken).reciprocals.astype(np.float32))
        return tensors.of(taken), tensors.of(lengths.inverted(taken))

    def _best(
        self, query: np.ndarray, rows: np.ndarray, top_k: int, min_score: float | None
    ) -> list[tuple[float, str]]:
        """Return (score, id) of the best `top_k` of some rows, and of those that tie with the last of these."""
        pieces = [self._scores(query, rows[at : at + RANKED_ROWS]) for at in range(0, max(1, len(rows)), RANKED_ROWS)]
        scores = np.concatenate(pieces).round(SCORE_DECIMALS)
        least = -np.inf if min_score is None else min_score
        if len(scores) > top_k:
            least = max(least, np.partition(scores, -top_k)[-top_k])
        kept = scores >= least
        return list(zip(scores[kept].tolist(), self._ids(rows[kept]), strict=True))

    def _ids(self, rows: np.ndarray) -> list[str]:
        return self._names(rows).astype(str).tolist()

    def _names(self, rows: np.ndarray) -> Names:
        names = np.empty(len(rows), ID)
        old = rows < self._in_file
        names[~old] = self._roster.names[rows[~old] - self._in_file]
        if self.file is not None:
            names[old] = self.file.names(0, self._in_file)[rows[old]]
        return names

    def _scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if self.view is not None:
            return np.einsum("nd,d->n", self.view.directions(self._take(rows)), query)
        vectors = self._take(rows).astype(np.float64)
        return np.einsum("nd,d->n", vectors, query) * lengths.inverted(vectors)


def _ranked(answers: Sequence[tuple[float, str]], key_of: Mapping[str, str], top_k: int) -> list[Neighbor]:
    best = heapq.nsmallest(top_k, ((-score, key_of[id], id) for score, id in answers if id in key_of))
    # Not -score, which makes -0.0 of 0.
    return [Neighbor(rank, id, key, 0.0 - score) for rank, (score, key, id) in enumerate(best, start=1)]


def _by_filter(among: Sequence[Collection[str] | None]) -> Iterator[tuple[Collection[str] | None, list[int]]]:
    """Yield each filter with the numbers of its queries."""
    groups: dict[int, list[int]] = {}
    for index, allowed in enumerate(among):
        groups.setdefault(id(allowed), []).append(index)
    for mine in groups.values():
        yield among[mine[0]], mine
