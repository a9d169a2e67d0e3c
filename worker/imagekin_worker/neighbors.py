"""Exact nearest neighbors by cosine over the vectors of one collection, in memory."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from imagekin import errors

# Rows of one product and bytes of its scores: small enough to stay in cache until the best are picked, which measured
# faster than one product of all rows.
BLOCK_ROWS = 16384
BLOCK_BYTES = 4 << 20
# Candidates beyond those asked for that a block offers before ties make it be looked through from end to end.
SLACK = 16
# Rows whose float32 score comes within this of the last place are ranked again in float64. It covers half a unit of the
# rounded score on either side (1e-6) and the rounding of a float32 product of a few thousand dimensions.
MARGIN = 1e-5
# Rows that are scored in float64 at a time.
RANKED_ROWS = 2048
SCORE_DECIMALS = 6
# A vector shorter than this has no direction: its square is 0 in float32.
SHORTEST = 1e-18
FIRST_CAPACITY = 1024


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One answer: `rank` from 1, `score` the cosine rounded to 1e-6, higher is better."""

    rank: int
    id: str
    key: str
    score: float


class Matrix:
    """The vectors of one collection by image id: float32 rows as they came, and the reciprocals of their lengths.

    The raw rows serve euclidean clustering without a copy; cosine multiplies by the reciprocals after the product. A
    vector of zeros scores 0 against everything. Not for several threads at once while one of them changes it.
    """

    def __init__(self, dim: int, capacity: int = 0) -> None:
        self.dim = dim
        self.ids: list[str] = []
        self.keys: list[str] = []
        self._row_of: dict[str, int] = {}
        self._rows = torch.empty((capacity, dim), dtype=torch.float32)
        self._reciprocals = torch.empty(capacity, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._row_of

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors' storage, what is reserved included."""
        return self._rows.nbytes + self._reciprocals.nbytes

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` vectors in all: once before a load spares the copies of growing."""
        if capacity > len(self._rows):
            self._rows = _grown(self._rows, capacity)
            self._reciprocals = _grown(self._reciprocals, capacity)

    def raw(self) -> np.ndarray:
        """Return the vectors (n, dim) as they came, in the order of `ids`; a read-only view until the next change."""
        view = self._rows[: len(self)].numpy()
        view.flags.writeable = False
        return view

    def vector(self, image_id: str) -> np.ndarray:
        """Return a copy of an image's vector (dim,); raises ImageNotFound."""
        if image_id not in self._row_of:
            raise errors.ImageNotFound
        return self._rows[self._row_of[image_id]].numpy().copy()

    def upsert(self, ids: Sequence[str], keys: Sequence[str], vectors: np.ndarray) -> None:
        """Add vectors (n, dim) under their ids; a known id gets the new vector and key, an id given twice the last one.

        Raises InvalidRequest, and changes nothing, where shapes differ or a number is not finite.
        """
        rows, norms = self._checked(vectors)
        if not len(ids) == len(keys) == len(rows):
            raise errors.InvalidRequest(f"{len(rows)} vectors came with {len(ids)} ids and {len(keys)} keys.")
        old, new = len(self), len(set(ids) - self._row_of.keys())
        if old + new > len(self._rows):
            self.reserve(max(old + new, len(self._rows) * 3 // 2, FIRST_CAPACITY))
        source_of: dict[int, int] = {}
        for index, (image_id, key) in enumerate(zip(ids, keys, strict=True)):
            row = self._row_of.setdefault(image_id, len(self.ids))
            if row == len(self.ids):
                self.ids.append(image_id)
                self.keys.append(key)
            self.keys[row] = key
            source_of[row] = index
        reciprocals = _reciprocal(norms)
        if new == len(ids):
            self._rows[old : old + new], self._reciprocals[old : old + new] = rows, reciprocals
        else:
            places, sources = torch.tensor(list(source_of), dtype=torch.int64), list(source_of.values())
            self._rows[places], self._reciprocals[places] = rows[sources], reciprocals[sources]

    def remove(self, ids: Iterable[str]) -> int:
        """Remove images by id and return how many there were; the last row moves to each free place."""
        before = len(self)
        for image_id in ids:
            row = self._row_of.pop(image_id, None)
            if row is None:
                continue
            last_id, last_key = self.ids.pop(), self.keys.pop()
            last = len(self.ids)
            if row != last:
                self.ids[row], self.keys[row], self._row_of[last_id] = last_id, last_key, row
                self._rows[row], self._reciprocals[row] = self._rows[last], self._reciprocals[last]
        return before - len(self)

    def search(
        self,
        queries: np.ndarray,
        top_k: int,
        *,
        min_score: float | None = None,
        exclude: Sequence[str | None] | None = None,
        among: Collection[str] | None = None,
    ) -> list[list[Neighbor]]:
        """Return the `top_k` neighbors of each query (q, dim), by descending rounded score, equal ones by key.

        `exclude` names an image for each query that is not to answer it (its own); `among` the images that may answer
        at all; ids that are not here are no error. `min_score` is held against the rounded score.
        Raises InvalidRequest for other dimensions, numbers that are not finite, or top_k below 1.
        """
        asked, _ = self._checked(queries)
        if top_k < 1:
            raise errors.InvalidRequest("top_k must be at least 1.")
        if exclude is None:
            exclude = [None] * len(asked)
        if len(exclude) != len(asked):
            raise errors.InvalidRequest(f"{len(asked)} queries came with {len(exclude)} ids to exclude.")
        if not len(asked):
            return []
        asked = asked.double()
        asked *= _reciprocal(torch.linalg.vector_norm(asked, dim=1, keepdim=True))
        # The excluded row may be among the best: one more, and it can go.
        found = self._candidates(asked.float(), top_k + 1, self._subset(among))
        hidden = [self._row_of.get(image_id, -1) if image_id is not None else -1 for image_id in exclude]
        return [
            self._ranked(query, rows[rows != row], top_k, min_score)
            for query, rows, row in zip(asked, found, hidden, strict=True)
        ]

    def _checked(self, vectors: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors (n, dim) and their lengths (n,); raise InvalidRequest where they are not such."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise errors.InvalidRequest(f"Expected vectors of {self.dim} dimensions, got an array {vectors.shape}.")
        rows = torch.from_dlpack(np.ascontiguousarray(vectors, dtype=np.float32))
        norms = torch.linalg.vector_norm(rows, dim=1)
        if not torch.isfinite(norms).all():
            raise errors.InvalidRequest("A vector has NaN, infinite or huge numbers.")
        return rows, norms

    def _subset(self, among: Collection[str] | None) -> torch.Tensor | None:
        if among is None:
            return None
        known = self._row_of.keys() & set(among)
        return torch.tensor(sorted(self._row_of[image_id] for image_id in known), dtype=torch.int64)

    def _blocks(self, n_queries: int, subset: torch.Tensor | None) -> Iterator[torch.Tensor | slice]:
        """Yield parts of the rows: slices of all, or indices of a subset, whose rows are copied and so bounded too."""
        if subset is None:
            step = max(1, min(BLOCK_ROWS, BLOCK_BYTES // (4 * n_queries)))
            yield from (slice(start, min(start + step, len(self))) for start in range(0, len(self), step))
        else:
            step = max(1, BLOCK_BYTES // (4 * max(n_queries, self.dim)))
            yield from (subset[start : start + step] for start in range(0, len(subset), step))

    def _candidates(self, queries: torch.Tensor, count: int, subset: torch.Tensor | None) -> list[torch.Tensor]:
        """Return, for each query, the rows that may be among its best `count`: one matrix product a block for all."""
        best = queries.new_empty((len(queries), 0))
        floor = queries.new_full((len(queries), 1), -math.inf)
        parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for block in self._blocks(len(queries), subset):
            scores = (queries @ self._rows[block].T).mul_(self._reciprocals[block])
            values, columns = scores.topk(min(count + SLACK, scores.shape[1]))
            best = torch.cat([best, values[:, :count]], dim=1)
            if best.shape[1] >= count:
                best = best.topk(count).values
                floor = best[:, -1:] - MARGIN
            near = values >= floor
            # More ties than slack: these queries are looked through from end to end.
            crowded = near[:, -1].clone() if values.shape[1] < scores.shape[1] else near.new_zeros(len(near))
            near[crowded] = False
            query, place = torch.nonzero(near, as_tuple=True)
            found = [(query, columns[query, place], values[query, place])]
            for index in torch.nonzero(crowded)[:, 0].tolist():
                column = torch.nonzero(scores[index] >= floor[index])[:, 0]
                found.append((torch.full_like(column, index), column, scores[index, column]))
            parts += [(query, _rows_at(block, column), score) for query, column, score in found]
        if not parts:
            return [torch.empty(0, dtype=torch.int64)] * len(queries)
        query, row, score = (torch.cat(part) for part in zip(*parts, strict=True))
        kept = score >= floor[query, 0]
        query, row = query[kept], row[kept]
        order = torch.argsort(query, stable=True)
        return list(row[order].split(torch.bincount(query, minlength=len(queries)).tolist()))

    def _ranked(self, query: torch.Tensor, rows: torch.Tensor, top_k: int, min_score: float | None) -> list[Neighbor]:
        pieces = [self._scores(query, piece) for piece in rows.split(RANKED_ROWS)]
        scores = torch.cat(pieces).numpy().round(SCORE_DECIMALS).tolist()
        answers = (
            (-score, self.keys[row], self.ids[row])
            for score, row in zip(scores, rows.tolist(), strict=True)
            if min_score is None or score >= min_score
        )
        best = heapq.nsmallest(top_k, answers)
        # Not -score, which makes -0.0 of 0.
        return [Neighbor(rank, image_id, key, 0.0 - score) for rank, (score, key, image_id) in enumerate(best, start=1)]

    def _scores(self, query: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        vectors = self._rows[rows].double()
        return vectors @ query * _reciprocal(torch.linalg.vector_norm(vectors, dim=1))


def _grown(storage: torch.Tensor, capacity: int) -> torch.Tensor:
    grown = torch.empty((capacity, *storage.shape[1:]), dtype=storage.dtype)
    grown[: len(storage)] = storage
    return grown


def _rows_at(block: torch.Tensor | slice, columns: torch.Tensor) -> torch.Tensor:
    return block.start + columns if isinstance(block, slice) else block[columns]


def _reciprocal(norms: torch.Tensor) -> torch.Tensor:
    return torch.where(norms < SHORTEST, 0, 1 / norms)
