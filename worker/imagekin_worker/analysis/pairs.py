"""All pairs of rows above a cosine, and the nearest rows of every row: exact, in blocks, never n x n.

Pairs above a high cosine need few of the products. Rows are written in the leading principal directions of a sample: by
Cauchy and Schwarz, the rest of a product is at most the product of the rests' lengths, so

    x.y <= p(x).p(y) + |x - p(x)| |y - p(y)|

which is one product of rows of `width` + 1 numbers instead of `dim`. Candidates above the line are computed in full, so
no pair is ever missed. The best number of directions is measured on a sample; if no number pays off, products are
computed in full. The nearest rows of all rows come from the plain pass over half of the products, as each block serves
both its sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from imagekin import errors
from imagekin_worker.analysis import blocks, stepper
from imagekin_worker.analysis.blocks import Blocks, ViewedBlocks
from imagekin_worker.analysis.stepper import Stepper

# Rows of a product on either side: its scores (8 MB) stay in the outer cache.
QUERY_ROWS, ROWS = 1024, 2048
# Floating point operations of one step, some tenths of a second.
STEP_WORK = 2e10
# Rows that directions are found from, and rows that their use is measured on.
SAMPLED_ROWS, MEASURED_ROWS = 4096, 2048
# Fewer rows are quicker compared in full than a basis is found.
LEAST_ROWS = 8192
WIDTHS = (32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024)
# What it costs to look through a score, and to look at a pair in full (some 50 microseconds, as both rows come into the
# view), in products of two numbers.
LOOKED_THROUGH, LOOKED_AT = 24, 5_000_000
# Rounding of a float32 product, and of the square of a rest that is the difference of two.
MARGIN, REST = 1e-5, 4e-6
# Pairs that are looked at in full at a time: 40 MB of rows.
CHECKED_PAIRS = 2048
# Bytes that a pair takes until the result is made, all in all.
PAIR_BYTES = 128
# Scores a row that may be better than its worst before all of its scores are sorted instead.
MANY_PASSED = 32
# Below every cosine.
NONE = -2.0


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Run the block with this number of PyTorch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_count(found: int, most: int) -> None:
    """Raise JobError if more pairs were found than fit into memory."""
    if found > most:
        raise errors.JobError(
            f"More than {most:,} pairs of images are this close: give a higher threshold, or more memory."
        )


def most_pairs(memory_budget_bytes: int) -> int:
    """Return the number of pairs that fit into memory."""
    return max(1000, memory_budget_bytes // PAIR_BYTES)


def cosines(rows: ViewedBlocks, others: ViewedBlocks, first: np.ndarray, second: np.ndarray) -> NDArray[np.float64]:
    """Return the cosines (m,) of pairs of rows, summed in float64, at most 1."""
    found = np.empty(len(first), np.float64)
    for start in range(0, len(first), CHECKED_PAIRS):
        part = slice(start, start + CHECKED_PAIRS)
        left, place = np.unique(first[part], return_inverse=True)
        left = rows.take(left)[place].astype(np.float64)
        right, place = np.unique(second[part], return_inverse=True)
        found[part] = np.vecdot(left, others.take(right)[place])
    return np.minimum(found, 1.0)


def _triangle(n: int, row: int, column: int) -> float:
    """Return the share done of a pass over half of all products, at a row and a column."""
    left = n - row
    after = max(0, left - QUERY_ROWS)
    return 1 - (left**2 - (column - row) / left * (left**2 - after**2)) / n**2


class Reduced(ViewedBlocks):
    """Rows in leading directions, with the length of the rest as the last number: products bound cosines."""

    def __init__(self, rows: ViewedBlocks, basis: NDArray[np.float32]) -> None:
        self._rows, self._basis = rows, basis
        self.n, self.dim = rows.n, basis.shape[1] + 1
        self.spans = rows.spans

    def read(self, span: slice) -> NDArray[np.float32]:
        """Return a block (m, width + 1), reduced."""
        return reduced(self._rows.read(span), self._basis)

    def take(self, index: np.ndarray) -> NDArray[np.float32]:
        """Return the rows at the given indices (m,), reduced: (m, width + 1)."""
        return reduced(self._rows.take(index), self._basis)


def reduced(rows: NDArray[np.float32], basis: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows (n, dim) of length 1 as (n, width + 1); the last number is rounded up."""
    out = np.empty((len(rows), basis.shape[1] + 1), np.float32)
    np.matmul(rows, basis, out=out[:, :-1])
    kept = np.vecdot(out[:, :-1], out[:, :-1])
    out[:, -1] = np.sqrt(np.maximum(np.vecdot(rows, rows) - kept, 0) + REST)
    return out


def basis_of(rows: ViewedBlocks, floor: float) -> NDArray[np.float32] | None:
    """Return the directions (dim, width) with which pairs of `floor` and above are cheapest; None if all are slower."""
    sample = rows.take(np.unique(np.linspace(0, rows.n - 1, SAMPLED_ROWS).astype(np.int64)))
    moments = sample.T @ sample
    basis = np.ascontiguousarray(np.linalg.eigh(moments.astype(np.float64))[1][:, ::-1].astype(np.float32))
    measured = sample[:: max(1, len(sample) // MEASURED_ROWS)]
    costs = {}
    for width in WIDTHS:
        if width < rows.dim:
            bounds = reduced(measured, basis[:, :width])
            passed = (np.count_nonzero(bounds @ bounds.T >= floor - MARGIN) - len(measured)) / len(measured) ** 2
            costs[width] = width + 1 + LOOKED_AT * max(passed, 0)
    best = min(costs, key=costs.__getitem__, default=None)
    return basis[:, :best].copy() if best is not None and costs[best] < rows.dim else None


class _Kept:
    """Rows written in steps to memory, or to a file beyond the budget, and then read without copies."""

    def __init__(self, rows: ViewedBlocks, memory_budget_bytes: int, folder: Path) -> None:
        self.n = rows.n
        self._making = blocks.kept(rows, memory_budget_bytes, folder)
        self._made: Blocks | None = None
        self._array: NDArray[np.float32] | None = None

    def ready(self) -> bool:
        """Return whether all rows are written; if not, write some."""
        if self._made is None:
            self._array = next(self._making)
            if self._array is not None:
                self._made = Blocks(self._array)
        return self._made is not None

    def tensor(self, span: slice) -> torch.Tensor:
        """Return a block without a copy."""
        assert self._array is not None
        # through DLPack because torch.from_numpy warns of read-only memory
        return torch.from_dlpack(np.asarray(self._array[span]))

    def release(self) -> None:
        """Release the pages of a file."""
        assert self._made is not None
        self._made.release()


class Pairs(Stepper):
    """Finds all pairs of rows whose cosine is `floor` or more, in steps; exact.

    `rows` in a view (see blocks.ViewedBlocks). With `against`, a pair is a row and one of the others; `own` (n,) says
    which of the others the rows themselves are, so that each pair comes once. The reduced rows take up to
    `memory_budget_bytes`; beyond that they are in a file in `folder`. Raises JobError if there are more pairs than the
    budget allows.
    """

    def __init__(
        self,
        rows: ViewedBlocks,
        floor: float,
        *,
        against: ViewedBlocks | None = None,
        own: NDArray[np.int64] | None = None,
        memory_budget_bytes: int,
        folder: Path,
        threads: int = 1,
    ) -> None:
        self._rows, self._others = rows, rows if against is None else against
        self._floor, self._alone, self._threads = floor, against is None, threads
        # which of our rows each of the others is; our number of rows for those that are not among them
        self._same: NDArray[np.int64] | None = None
        if own is not None:
            self._same = np.full(self._others.n, rows.n)
            self._same[own] = np.arange(len(own))
        self._budget, self._folder = memory_budget_bytes, folder
        self._at = [0, 0]
        self._first, self._second = np.zeros(0, np.int32), np.zeros(0, np.int32)
        self._cosines = np.zeros(0, np.float64)
        self._kept: tuple[_Kept, _Kept] | None = None

    @classmethod
    def resume(
        cls,
        rows: ViewedBlocks,
        state: bytes,
        *,
        against: ViewedBlocks | None = None,
        own: NDArray[np.int64] | None = None,
        memory_budget_bytes: int,
        folder: Path,
        threads: int = 1,
    ) -> Pairs:
        """Continue from `state` with the same rows (n, dim); raises JobError if the state is of others."""
        scalars, arrays = stepper.unpacked(state, (rows.n, rows.dim))
        self = cls(
            rows,
            scalars["floor"],
            against=against,
            own=own,
            memory_budget_bytes=memory_budget_bytes,
            folder=folder,
            threads=threads,
        )
        self._at = scalars["at"]
        self._first, self._second, self._cosines = arrays["first"], arrays["second"], arrays["cosines"]
        return self

    def state(self) -> bytes:
        """Return all progress: at most 16 bytes a pair."""
        about = {"shape": [self._rows.n, self._rows.dim], "floor": self._floor, "at": self._at}
        return stepper.packed(about, {"first": self._first, "second": self._second, "cosines": self._cosines})

    @property
    def finished(self) -> bool:
        return self._at[0] >= self._rows.n or not self._others.n

    @property
    def fraction(self) -> float:
        if self.finished:
            return 1.0
        if self._alone:
            return _triangle(self._rows.n, *self._at)
        row, column = self._at
        return (row + min(QUERY_ROWS, self._rows.n - row) * column / self._others.n) / self._rows.n

    def result(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        """Return both rows (m,), (m,) and the cosine (m,) of every pair, by row, the smaller row of a pair first."""
        order = np.lexsort((self._second, self._first))
        return self._first[order], self._second[order], self._cosines[order]

    def _ready(self) -> bool:
        if self._kept is None:
            basis = None
            if min(self._rows.n, self._others.n) >= LEAST_ROWS:
                basis = basis_of(self._others, self._floor)
            made = []
            for source in [self._rows] if self._alone else [self._rows, self._others]:
                made.append(_Kept(source if basis is None else Reduced(source, basis), self._budget, self._folder))
            self._width = self._rows.dim if basis is None else basis.shape[1] + 1
            self._kept = made[0], made[-1]
            return False
        return all(part.ready() for part in self._kept)

    def _step(self) -> None:
        with on_threads(self._threads):
            if not self._ready():
                return
            assert self._kept is not None
            left, right = self._kept
            row, column = self._at
            queries = slice(row, min(row + QUERY_ROWS, left.n))
            block = left.tensor(queries)
            work, found = 0.0, []
            while column < right.n and work < STEP_WORK:
                span = slice(column, min(column + ROWS, right.n))
                found.extend(self._hits(block @ right.tensor(span).T, row, column))
                right.release()
                work += 2.0 * len(block) * (span.stop - span.start) * (self._width + LOOKED_THROUGH)
                column = span.stop
        if found:
            self._keep(*(np.concatenate(part) for part in zip(*found, strict=True)))
        if column >= right.n:
            row = queries.stop
            # of the rows among themselves, only columns from the block's own on are left
            column = row if self._alone else 0
        self._at = [row, column]

    def _hits(self, scores: torch.Tensor, row: int, column: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        line = self._floor - MARGIN
        hot = torch.nonzero(scores.amax(1) >= line)[:, 0]
        if len(hot):
            first, second = torch.nonzero(scores[hot] >= line, as_tuple=True)
            left, right = (hot[first] + row).numpy(), (second + column).numpy()
            if self._alone or self._same is not None:
                kept = left < (right if self._same is None else self._same[right])
                left, right = left[kept], right[kept]
            yield left, right

    def _keep(self, first: np.ndarray, second: np.ndarray) -> None:
        """Keep the pairs whose full cosine is high enough."""
        for start in range(0, len(first), CHECKED_PAIRS):
            left, right = first[start : start + CHECKED_PAIRS], second[start : start + CHECKED_PAIRS]
            found = cosines(self._rows, self._others, left, right)
            there = found >= self._floor
            self._first = np.concatenate([self._first, left[there].astype(np.int32)])
            self._second = np.concatenate([self._second, right[there].astype(np.int32)])
            self._cosines = np.concatenate([self._cosines, found[there]])
            check_count(len(self._first), most_pairs(self._budget))


class Neighbors(Stepper):
    """Finds the `count` nearest other rows of every row, in steps; exact except for ties within rounding (1e-6).

    It computes half of all products, as each block serves both its sides. `state` takes up to 8 count bytes a row: save
    it from time to time, not after every step.
    """

    def __init__(
        self,
        rows: ViewedBlocks,
        count: int,
        *,
        memory_budget_bytes: int,
        folder: Path,
        threads: int = 1,
    ) -> None:
        self._rows, self._threads = rows, threads
        self.count = min(count, max(rows.n - 1, 0))
        self._kept = _Kept(rows, memory_budget_bytes, folder)
        self._at = [0, 0]
        self._best = torch.full((rows.n, self.count), NONE)
        self._places = torch.zeros((rows.n, self.count), dtype=torch.int32)

    @classmethod
    def resume(
        cls, rows: ViewedBlocks, state: bytes, *, memory_budget_bytes: int, folder: Path, threads: int = 1
    ) -> Neighbors:
        """Continue from `state` with the same rows (n, dim); raises JobError if the state is of others."""
        scalars, arrays = stepper.unpacked(state, (rows.n, rows.dim))
        self = cls(rows, scalars["count"], memory_budget_bytes=memory_budget_bytes, folder=folder, threads=threads)
        self._at = scalars["at"]
        self._best, self._places = torch.from_numpy(arrays["best"]), torch.from_numpy(arrays["places"])
        return self

    def state(self) -> bytes:
        """Return all progress."""
        about = {"shape": [self._rows.n, self._rows.dim], "count": self.count, "at": self._at}
        return stepper.packed(about, {"best": self._best.numpy(), "places": self._places.numpy()})

    @property
    def finished(self) -> bool:
        return self._at[0] >= self._rows.n or not self.count

    @property
    def fraction(self) -> float:
        if self.finished:
            return 1.0
        return _triangle(self._rows.n, *self._at)

    def result(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the indices and cosines (n, count) of every row's nearest rows, best first."""
        return self._places.numpy(), self._best.clamp(max=1).numpy()

    def _step(self) -> None:
        with on_threads(self._threads):
            if not self._kept.ready():
                return
            row, column = self._at
            queries = slice(row, min(row + QUERY_ROWS, self._rows.n))
            block = self._kept.tensor(queries)
            work = 0.0
            while column < self._rows.n and work < STEP_WORK:
                # the block's own columns stand alone, so that no product counts twice
                stop = queries.stop if column == row else min(column + ROWS, self._rows.n)
                span = slice(column, stop)
                scores = block @ self._kept.tensor(span).T
                if column == row:
                    scores.fill_diagonal_(NONE)
                else:
                    self._offer(span, scores, row, columns=True)
                self._offer(queries, scores, column)
                self._kept.release()
                work += 2.0 * scores.numel() * self._rows.dim
                column = span.stop
            if column >= self._rows.n:
                row = column = queries.stop
        self._at = [row, column]

    def _offer(self, span: slice, scores: torch.Tensor, start: int, *, columns: bool = False) -> None:
        """Take what is better than the worst of a span's rows: from their scores (m, others), or (others, m) by column.

        The scores are read once in the order of memory; what passes is a few per row, except at the beginning.
        """
        worst = self._best[span, -1]
        passed = np.flatnonzero((scores > (worst if columns else worst[:, None])).numpy())
        if not len(passed):
            return
        if len(passed) > MANY_PASSED * len(worst):
            rows = torch.arange(span.start, span.stop)
            by_row = (scores.T if columns else scores).contiguous()
            found, at = by_row.topk(min(self.count, by_row.shape[1]))
        else:
            rows, found, at = _ragged(passed, scores, columns)
            rows += span.start
        best, order = torch.cat([self._best[rows], found], 1).topk(self.count)
        places = torch.cat([self._places[rows], (at + start).to(torch.int32)], 1).gather(1, order)
        self._best[rows], self._places[rows] = best, places


def _ragged(passed: np.ndarray, scores: torch.Tensor, columns: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the rows (m,) that places (p,) of flat scores fall into, their scores and their places, both (m, most).

    Rows with fewer are filled up with a score below every cosine.
    """
    values = scores.numpy().reshape(-1)[passed]
    row, at = np.divmod(passed, scores.shape[1])
    if columns:
        order = np.argsort(at, kind="stable")
        row, at, values = at[order], row[order], values[order]
    rows, first, counts = np.unique(row, return_index=True, return_counts=True)
    inside = np.repeat(np.arange(len(rows)), counts), np.arange(len(row)) - np.repeat(first, counts)
    found = np.full((len(rows), counts.max()), NONE, np.float32)
    places = np.zeros_like(found, np.int64)
    found[inside], places[inside] = values, at
    return torch.from_numpy(rows), torch.from_numpy(found), torch.from_numpy(places)


class Nearest(Stepper):
    """Finds the `count` nearest other rows of some rows (`queries`, their indices), in steps.

    The state is 8 count bytes a query.
    """

    def __init__(self, rows: ViewedBlocks, queries: np.ndarray, count: int, *, threads: int = 1) -> None:
        self._rows, self._queries, self._threads = rows, queries, threads
        self.count = min(count, max(rows.n - 1, 0))
        self._at = [0, 0]
        self._best = torch.full((len(queries), self.count), NONE)
        self._places = torch.zeros((len(queries), self.count), dtype=torch.int32)
        self._block: torch.Tensor | None = None

    @classmethod
    def resume(cls, rows: ViewedBlocks, queries: np.ndarray, state: bytes, *, threads: int = 1) -> Nearest:
        """Continue from `state` with the same rows (n, dim); raises JobError if the state is of others."""
        scalars, arrays = stepper.unpacked(state, (rows.n, rows.dim))
        self = cls(rows, queries, scalars["count"], threads=threads)
        self._at = scalars["at"]
        self._best, self._places = torch.from_numpy(arrays["best"]), torch.from_numpy(arrays["places"])
        return self

    def state(self) -> bytes:
        """Return all progress."""
        about = {"shape": [self._rows.n, self._rows.dim], "count": self.count, "at": self._at}
        return stepper.packed(about, {"best": self._best.numpy(), "places": self._places.numpy()})

    @property
    def finished(self) -> bool:
        return self._at[0] >= len(self._queries) or not self.count

    @property
    def fraction(self) -> float:
        if self.finished:
            return 1.0
        total = len(self._queries)
        size = min(SAMPLED_ROWS, total - self._at[0])
        return (self._at[0] + size * self._at[1] / self._rows.n) / total

    def result(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the indices and cosines (q, count) of every query's nearest rows, best first."""
        return self._places.numpy(), self._best.clamp(max=1).numpy()

    def _step(self) -> None:
        first, row = self._at
        own = self._queries[first : first + SAMPLED_ROWS]
        with on_threads(self._threads):
            if self._block is None:
                self._block = torch.from_numpy(self._rows.take(own))
            span = slice(row, min(row + QUERY_ROWS, self._rows.n))
            block = torch.from_numpy(self._rows.read(span))
            for start in range(0, len(own), ROWS):
                part = slice(start, min(start + ROWS, len(own)))
                scores = self._block[part] @ block.T
                inside = np.flatnonzero((own[part] >= row) & (own[part] < span.stop))
                scores[inside, own[part][inside] - row] = NONE
                self._offer(slice(first + part.start, first + part.stop), scores, row)
        if span.stop < self._rows.n:
            self._at = [first, span.stop]
        else:
            self._at, self._block = [first + len(own), 0], None

    def _offer(self, span: slice, scores: torch.Tensor, start: int) -> None:
        found, at = scores.topk(min(self.count, scores.shape[1]), dim=1)
        best, order = torch.cat([self._best[span], found], 1).topk(self.count, dim=1)
        self._places[span] = torch.cat([self._places[span], (at + start).to(torch.int32)], 1).gather(1, order)
        self._best[span] = best
