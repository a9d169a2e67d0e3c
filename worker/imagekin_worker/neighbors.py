"""Exact nearest neighbors by cosine over the vectors of one collection."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from imagekin import errors
from imagekin.types import DType
from imagekin.vectors import WIRE
from imagekin_worker import lengths, scan
from imagekin_worker.matrix_file import CHECKED_ROWS, MatrixFile
from imagekin_worker.scan import Block, Filters, Scanner
from imagekin_worker.snapshot import Snapshot

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
TORCH = {DType.FLOAT32: torch.float32, DType.FLOAT16: torch.float16}


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One answer: `rank` from 1, `score` the cosine rounded to 1e-6, higher is better."""

    rank: int
    id: str
    key: str
    score: float


class Matrix:
    """The vectors of one collection by image id: rows as they came, and the reciprocals of their lengths.

    Rows are held in memory in the collection's own `dtype`, on the scanner's device; those of `file`, if there is one,
    stay on disk and are read block by block in each search, and what changes since lies in memory beside them. A vector
    of zeros scores 0 against everything. Not for several threads at once while one of them changes it.
    """

    def __init__(
        self,
        dim: int,
        capacity: int = 0,
        *,
        dtype: DType | str = DType.FLOAT32,
        scanner: Scanner | None = None,
        file: MatrixFile | None = None,
    ) -> None:
        self.dim = dim
        # of the rows in memory
        self.ids: list[str] = []
        self.keys: list[str] = []
        self.file = file
        # how many rows were changed or removed so far, and how often a row in memory, or the file's, became another
        self.edits = self.overwrites = 0
        self._scanner = scanner or scan.default()
        self._row_of: dict[str, int] = {}
        device = self._scanner.device
        self._rows = torch.empty((capacity, dim), dtype=TORCH[DType(dtype)], device=device)
        self._reciprocals = torch.empty(capacity, dtype=torch.float32, device=device)
        # numpy reads and writes the rows: no thread of torch, which wait for each other even over a few rows
        self._by_numpy = device.type == "cpu"
        self._in_file = 0 if file is None else len(file)
        self._dead: Tensor | None = None
        self._n_dead = 0

    def __len__(self) -> int:
        return len(self.ids) + self._in_file - self._n_dead

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self._place(image_id) >= 0

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors' storage in memory, what is reserved included."""
        return self._rows.nbytes + self._reciprocals.nbytes + (0 if self._dead is None else self._dead.nbytes)

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` vectors in memory: once before a load spares the copies of growing."""
        if capacity > len(self._rows):
            self._rows = _grown(self._rows, capacity)
            self._reciprocals = _grown(self._reciprocals, capacity)

    def raw(self) -> np.ndarray:
        """Return the vectors in memory (n, dim) as they came, in the order of `ids`; a read-only view on a CPU."""
        view = self._rows[: len(self.ids)].cpu().numpy()
        view.flags.writeable = False
        return view

    def vector(self, image_id: str) -> np.ndarray:
        """Return a copy of an image's vector (dim,) float32; raises ImageNotFound."""
        place = self._place(image_id)
        if place < 0:
            raise errors.ImageNotFound
        return self._take(np.array([place]))[0].astype(np.float32)

    def upsert(self, ids: Sequence[str], keys: Sequence[str], vectors: np.ndarray) -> None:
        """Add vectors (n, dim) under their ids; a known id gets the new vector and key, an id given twice the last one.

        Raises InvalidRequest, and changes nothing, where shapes differ or a number is not finite.
        """
        rows, norms = self._checked(vectors, self._rows.dtype)
        if not len(ids) == len(keys) == len(rows):
            raise errors.InvalidRequest(f"{len(rows)} vectors came with {len(ids)} ids and {len(keys)} keys.")
        self._bury(ids)
        self._put(ids, keys, rows, lengths.reciprocals(norms))

    def load(self, file: MatrixFile) -> None:
        """Add all of a file, of which nothing is here yet. Raises matrix_file.Damaged."""
        self.reserve(len(self.ids) + len(file))
        for start, stop in file.pieces():
            ids, keys = file.names(start, stop)
            self._put(ids, keys, file.vectors(start, stop), file.reciprocals(start, stop))
            file.release(start, stop)

    def _put(self, ids: Sequence[str], keys: Sequence[str], rows: np.ndarray, reciprocals: np.ndarray) -> None:
        old = len(self.ids)
        fresh = dict(zip(ids, range(old, old + len(ids)), strict=True))
        self.edits += len(ids)
        if len(fresh) == len(ids) and self._row_of.keys().isdisjoint(fresh):
            self._make_room(old + len(ids))
            self.ids += ids
            self.keys += keys
            self._row_of |= fresh
            self._set(slice(old, old + len(ids)), rows, reciprocals)
            return
        source_of: dict[int, int] = {}
        for index, (image_id, key) in enumerate(zip(ids, keys, strict=True)):
            row = self._row_of.setdefault(image_id, len(self.ids))
            if row == len(self.ids):
                self.ids.append(image_id)
                self.keys.append(key)
            self.keys[row] = key
            source_of[row] = index
        self.overwrites += 1
        self._make_room(len(self.ids))
        places, sources = np.array(list(source_of), np.int64), np.array(list(source_of.values()), np.int64)
        self._set(places, rows[sources], reciprocals[sources])

    def _set(self, places: slice | np.ndarray, rows: np.ndarray, reciprocals: np.ndarray) -> None:
        if self._by_numpy:
            self._rows.numpy()[places], self._reciprocals.numpy()[places] = rows, reciprocals
        else:
            device = self._rows.device
            there = places if isinstance(places, slice) else torch.from_numpy(places).to(device)
            self._rows[there] = _tensor(rows).to(self._rows)
            self._reciprocals[there] = _tensor(reciprocals).to(device)

    def _make_room(self, count: int) -> None:
        if count > len(self._rows):
            self.reserve(max(count, len(self._rows) * 3 // 2, FIRST_CAPACITY))

    def remove(self, ids: Iterable[str]) -> int:
        """Remove images by id and return how many there were; the last row moves to each free place."""
        ids = list(ids)
        before = len(self)
        self._bury(ids)
        for image_id in ids:
            row = self._row_of.pop(image_id, None)
            if row is None:
                continue
            self.overwrites += 1
            last_id, last_key = self.ids.pop(), self.keys.pop()
            last = len(self.ids)
            if row != last:
                self.ids[row], self.keys[row], self._row_of[last_id] = last_id, last_key, row
                self._rows[row], self._reciprocals[row] = self._rows[last], self._reciprocals[last]
        removed = before - len(self)
        self.edits += removed
        return removed

    def snapshot(self) -> Snapshot:
        """Return the rows as they are now, without a copy of them."""
        dead = None if self._dead is None else self._dead.clone()
        ids, keys = list(self.ids), list(self.keys)
        return Snapshot(self.overwrites, self.edits, self.file, dead, ids, keys, self._rows, self._reciprocals)

    def search(
        self,
        queries: np.ndarray,
        top_k: int,
        *,
        min_score: float | None = None,
        exclude: Sequence[str | None] | None = None,
        among: Sequence[Collection[str] | None] | None = None,
    ) -> list[list[Neighbor]]:
        """Return the `top_k` neighbors of each query (q, dim), by descending rounded score, equal ones by key.

        For each query, `exclude` names an image that is not to answer it (its own), and `among` the images that may
        answer it at all (None: all); ids that are not here are no error. `min_score` is held against the rounded
        score. Raises InvalidRequest for other dimensions, numbers that are not finite, or top_k below 1, and
        matrix_file.Damaged where the file turns out to be.
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
        exact = asked.astype(np.float64)
        exact *= lengths.inverted(exact)[:, None]
        # The excluded row may be among the best: one more, and it can go.
        found = self._candidates(torch.from_numpy(exact).float(), top_k + 1, among)
        hidden = [self._place(image_id) if image_id is not None else -1 for image_id in exclude]
        answers = [
            self._ranked(query, rows[rows != row].numpy(), top_k, min_score)
            for query, rows, row in zip(exact, found, hidden, strict=True)
        ]
        if self.file is not None:
            self.file.release()
        return answers

    def _checked(self, vectors: np.ndarray, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Return vectors (n, dim) and their lengths (n,) float32; raise InvalidRequest where they are not such."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise errors.InvalidRequest(f"Expected vectors of {self.dim} dimensions, got an array {vectors.shape}.")
        with np.errstate(over="ignore"):
            rows = vectors.astype(np.float16 if dtype == torch.float16 else np.float32, copy=False)
        norms = lengths.of(rows)
        if not np.isfinite(norms).all():
            raise errors.InvalidRequest("A vector has NaN, infinite or huge numbers.")
        return rows, norms

    def _place(self, image_id: str) -> int:
        """Return a live image's row, -1 where there is none: those of the file come first."""
        if image_id in self._row_of:
            return self._in_file + self._row_of[image_id]
        return self._places([image_id])[0] if self.file is not None else -1

    def _places(self, ids: Sequence[str]) -> list[int]:
        """Return the rows of those that are in the file and alive, -1 for others."""
        if self.file is None:
            return [-1] * len(ids)
        rows = self.file.find(ids)
        if self._dead is not None:
            rows[(rows >= 0) & self._dead[rows].numpy()] = -1
        return rows.tolist()

    def _bury(self, ids: Sequence[str]) -> None:
        """Have the file's rows of these images answer no more."""
        if self.file is None:
            return
        rows = sorted({row for row in self._places(ids) if row >= 0})
        if rows:
            if self._dead is None:
                self._dead = torch.zeros(self._in_file, dtype=torch.bool)
            self._dead[rows] = True
            self._n_dead += len(rows)
            self.overwrites += 1

    def _take(self, rows: np.ndarray) -> np.ndarray:
        """Return copies of rows (n, dim), as they are stored."""
        if self.file is None:
            return self._held(rows)
        old = rows < self._in_file
        taken = np.empty((len(rows), self.dim), WIRE[DType(self.file.label.dtype)])
        taken[old] = self.file.take(rows[old])
        taken[~old] = self._held(rows[~old] - self._in_file)
        return taken

    def _held(self, rows: np.ndarray) -> np.ndarray:
        if self._by_numpy:
            return self._rows.numpy()[rows]
        return self._rows[torch.from_numpy(rows).to(self._rows.device)].cpu().numpy()

    def _candidates(self, queries: Tensor, count: int, among: Sequence[Collection[str] | None]) -> list[Tensor]:
        """Return the rows that may be among the best of each query: one product for all, but for narrow filters."""
        found: dict[int, Tensor] = {}
        shared: list[tuple[Tensor | None, list[int]]] = []
        for allowed, mine in _by_filter(among):
            rows = None if allowed is None else self._subset(allowed)
            if rows is not None and len(rows) * FEW < len(self):
                blocks = list(self._gathered(rows, len(mine)))
                found |= zip(mine, self._scanner.best(queries[mine], count, blocks), strict=True)
            else:
                shared.append((rows, mine))
        for start in range(0, len(shared), FILTERS_AT_ONCE):
            some = shared[start : start + FILTERS_AT_ONCE]
            mine = [index for _, indexes in some for index in indexes]
            best = self._scanner.best(queries[mine], count, list(self._blocks(len(mine))), self._filters(some))
            found |= zip(mine, best, strict=True)
        return [found[index] for index in range(len(queries))]

    def _subset(self, allowed: Collection[str]) -> Tensor:
        rows = [self._in_file + self._row_of[image_id] for image_id in self._row_of.keys() & set(allowed)]
        if self.file is not None:
            rows += [row for row in self._places(list(allowed)) if row >= 0]
        return torch.tensor(sorted(rows), dtype=torch.int64)

    def _filters(self, shared: Sequence[tuple[Tensor | None, list[int]]]) -> Filters | None:
        """Return the filters of queries that come in groups, None if all of them may have all rows."""
        if all(rows is None for rows, _ in shared):
            return None
        masks = torch.zeros((len(shared), self._in_file + len(self.ids)), dtype=torch.bool)
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
        for start in range(0, len(self.ids), step):
            span = slice(start, min(start + step, len(self.ids)))
            rows = self._rows[span], self._reciprocals[span]
            yield Block(slice(self._in_file + span.start, self._in_file + span.stop), partial(_same, rows))

    def _read(self, file: MatrixFile, span: slice) -> tuple[Tensor, Tensor]:
        rows, reciprocals = file.vectors(span.start, span.stop), file.reciprocals(span.start, span.stop)
        return _tensor(rows), _tensor(reciprocals)

    def _gathered(self, rows: Tensor, n_queries: int) -> Iterator[Block]:
        """Yield some rows, copied when it is their turn."""
        step = max(1, GATHERED_BYTES // (4 * max(n_queries, self.dim)))
        for part in rows.split(step):
            if len(part):
                yield Block(part, partial(self._copied, part))

    def _copied(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        taken = self._take(rows.numpy())
        return _tensor(taken), _tensor(lengths.inverted(taken))

    def _ranked(self, query: np.ndarray, rows: np.ndarray, top_k: int, min_score: float | None) -> list[Neighbor]:
        pieces = [self._scores(query, rows[at : at + RANKED_ROWS]) for at in range(0, max(1, len(rows)), RANKED_ROWS)]
        scores = np.concatenate(pieces).round(SCORE_DECIMALS).tolist()
        answers = (
            (-score, key, image_id)
            for score, (image_id, key) in zip(scores, map(self._name, rows.tolist()), strict=True)
            if min_score is None or score >= min_score
        )
        best = heapq.nsmallest(top_k, answers)
        # Not -score, which makes -0.0 of 0.
        return [Neighbor(rank, image_id, key, 0.0 - score) for rank, (score, key, image_id) in enumerate(best, start=1)]

    def _name(self, row: int) -> tuple[str, str]:
        if row < self._in_file:
            assert self.file is not None
            return self.file.name(row)
        return self.ids[row - self._in_file], self.keys[row - self._in_file]

    def _scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        vectors = self._take(rows).astype(np.float64)
        return np.einsum("nd,d->n", vectors, query) * lengths.inverted(vectors)


def _grown(storage: Tensor, capacity: int) -> Tensor:
    grown = storage.new_empty((capacity, *storage.shape[1:]))
    grown[: len(storage)] = storage
    return grown


def _by_filter(among: Sequence[Collection[str] | None]) -> Iterator[tuple[Collection[str] | None, list[int]]]:
    """Yield each filter with the numbers of its queries."""
    groups: dict[int, list[int]] = {}
    for index, allowed in enumerate(among):
        groups.setdefault(id(allowed), []).append(index)
    for mine in groups.values():
        yield among[mine[0]], mine


def _same(rows: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return rows


def _tensor(array: np.ndarray) -> Tensor:
    # through DLPack because torch.from_numpy warns of read-only memory
    return torch.from_dlpack(array)
