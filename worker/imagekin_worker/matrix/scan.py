"""The scan: queries against all rows, block by block on every core, keeping the candidates for the best of each."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from imagekin_worker.network.devices import cores

# Rows of one product and bytes of its scores: small enough to stay in cache until the best are picked, and enough
# blocks for the cores to end together.
BLOCK_ROWS = 4096
BLOCK_BYTES = 2 << 20
# Halves are made float32 first: a block of these stays in a core's cache.
HALF_BYTES = 2 << 20
CUDA_BYTES = 256 << 20
# Candidates beyond those asked for that a block offers before ties make it be looked through from end to end.
SLACK = 16
# Rows whose float32 score comes within this of the last place are ranked again in float64. It covers half a unit of the
# rounded score on either side (1e-6) and the rounding of a float32 product of a few thousand dimensions, whose factors
# have length 1; it is more if a score is many times such a product.
MARGIN = 1e-5
# Below every cosine, above what is not to answer.
LEAST = -2.0


@dataclass(frozen=True)
class Block:
    """Rows of a product: `load` returns their vectors (n, dim) and the reciprocals of their lengths (n,) when needed.

    `places` are their numbers; `dead` (n,) marks those that may not answer; `done` releases what `load` returned.
    """

    places: slice | Tensor
    load: Callable[[], tuple[Tensor, Tensor]]
    dead: Tensor | None = None
    done: Callable[[], None] | None = None


@dataclass(frozen=True)
class Filters:
    """Which rows may answer which query: `masks` (f, rows), and the mask (q,) of each query."""

    masks: Tensor
    of_query: Tensor

    def at(self, places: slice | Tensor) -> Tensor:
        """Return (q, n), which of some rows may answer each query."""
        return self.masks[:, places][self.of_query]


@dataclass(frozen=True)
class Asked:
    """What is asked of rows: the `count` best by (row . vector - bias) * reciprocal, for each vector (q, dim).

    `biases` (q,), None for 0. What comes within `margin` of the last place is near enough to be ranked again.
    """

    vectors: Tensor
    count: int
    biases: Tensor | None = None
    margin: float = MARGIN

    def __len__(self) -> int:
        return len(self.vectors)

    def to(self, device: torch.device) -> Asked:
        """Return the same on a device."""
        biases = None if self.biases is None else self.biases.to(device)
        return replace(self, vectors=self.vectors.to(device), biases=biases)

    def of(self, queries: Sequence[int]) -> Asked:
        """Return some of the queries."""
        biases = None if self.biases is None else self.biases[queries]
        return replace(self, vectors=self.vectors[queries], biases=biases)

    def scores(self, rows: Tensor, reciprocals: Tensor) -> Tensor:
        """Return the scores (q, n) of rows (n, dim)."""
        products = self.vectors @ rows.float().T
        if self.biases is not None:
            products.sub_(self.biases[:, None])
        return products.mul_(reciprocals)


class Scanner:
    """The cores that scan together.

    Every thread takes the next block, so that one on a busy core does not delay the others. That is faster than one
    product on all of OpenMP's threads, which wait for each other in every operation, and does not depend on the number
    of OpenMP threads of the caller. On a GPU there is one thread.
    """

    def __init__(self, device: str | torch.device = "cpu", threads: int = 0) -> None:
        self.device = torch.device(device)
        self.threads = 1 if self.device.type != "cpu" else threads or cores()
        self._pool: ThreadPoolExecutor | None = None

    def step(self, n_queries: int, dim: int, dtype: torch.dtype) -> int:
        """Return the number of rows that a block should have."""
        if self.device.type != "cpu":
            return max(1, CUDA_BYTES // (4 * max(n_queries, dim)))
        rows = min(BLOCK_ROWS, BLOCK_BYTES // (4 * n_queries))
        if dtype != torch.float32:
            rows = min(rows, HALF_BYTES // (4 * dim))
        return max(1, rows)

    def best(self, asked: Asked, blocks: Sequence[Block], filters: Filters | None = None) -> list[Tensor]:
        """Return for each query (q, dim) the rows that may be among its best; raises what `load` raises."""
        asked = asked.to(self.device)
        if filters is not None:
            filters = Filters(filters.masks.to(self.device), filters.of_query.to(self.device))
        coming = _Coming(blocks)
        threads = min(self.threads, len(blocks))
        if threads <= 1:
            with _one_thread():
                return _merged([_scanned(asked, coming, filters)], asked)
        pool = self._crew()
        working = [pool.submit(_scanned, asked, coming, filters) for _ in range(threads)]
        try:
            found = [one.result() for one in working]
        except BaseException:
            coming.stop()
            raise
        return _merged(found, asked)

    def _crew(self) -> ThreadPoolExecutor:
        if self._pool is None:
            barrier = threading.Barrier(self.threads)

            def start() -> None:
                torch.set_num_threads(1)
                barrier.wait()

            self._pool = ThreadPoolExecutor(self.threads, "scan")
            # the number is a thread's own, but what new threads start with is the process's
            with _one_thread():
                for one in [self._pool.submit(start) for _ in range(self.threads)]:
                    one.result()
        return self._pool


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def default() -> Scanner:
    """Return the scanner of this process's cores."""
    return Scanner()


class _Coming:
    """The blocks that are not taken yet."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._blocks = iter(blocks)
        self._lock = threading.Lock()
        self._stopped = False

    def __iter__(self) -> Iterator[Block]:
        while True:
            with self._lock:
                block = None if self._stopped else next(self._blocks, None)
            if block is None:
                return
            yield block

    def stop(self) -> None:
        self._stopped = True


class _Best:
    """What one thread has found: for each query its best scores so far, and the rows close to them."""

    def __init__(self, asked: Asked) -> None:
        self.count, self.margin = asked.count, asked.margin
        self.values = asked.vectors.new_full((len(asked), asked.count), -math.inf)
        self.floor = asked.vectors.new_full((len(asked), 1), LEAST)
        self.near: list[tuple[Tensor, Tensor, Tensor]] = []

    def offer(self, scores: Tensor, places: slice | Tensor) -> None:
        """Keep the scores of a block (q, n) that are close to the best."""
        hot = torch.nonzero(scores.amax(dim=1) >= self.floor[:, 0])[:, 0]
        if not len(hot):
            return
        if len(hot) < len(scores):
            scores = scores[hot]
        values, columns = scores.topk(min(self.count + SLACK, scores.shape[1]))
        best = torch.cat([self.values[hot], values[:, : self.count]], dim=1).topk(self.count).values
        floor = (best[:, -1:] - self.margin).clamp_(min=LEAST)
        self.values[hot], self.floor[hot] = best, floor
        near = values >= floor
        # more ties than slack: these queries are looked through from end to end
        crowded = near[:, -1].clone() if values.shape[1] < scores.shape[1] else near.new_zeros(len(near))
        near[crowded] = False
        query, place = torch.nonzero(near, as_tuple=True)
        self._note(hot[query], places, columns[query, place], values[query, place])
        for index in torch.nonzero(crowded)[:, 0].tolist():
            column = torch.nonzero(scores[index] >= floor[index])[:, 0]
            self._note(hot[index].expand(len(column)), places, column, scores[index, column])

    def _note(self, query: Tensor, places: slice | Tensor, column: Tensor, score: Tensor) -> None:
        row = places.start + column if isinstance(places, slice) else places.to(column.device)[column]
        self.near.append((query, row, score))


def _scanned(asked: Asked, blocks: Iterable[Block], filters: Filters | None) -> _Best:
    found, device = _Best(asked), asked.vectors.device
    for block in blocks:
        rows, reciprocals = block.load()
        rows, reciprocals = rows.to(device), reciprocals.to(device)
        scores = asked.scores(rows, reciprocals)
        if block.dead is not None:
            scores.masked_fill_(block.dead.to(device), -math.inf)
        if filters is not None:
            scores.masked_fill_(~filters.at(block.places), -math.inf)
        found.offer(scores, block.places)
        if block.done is not None:
            del rows, reciprocals
            block.done()
    return found


def _merged(found: Sequence[_Best], asked: Asked) -> list[Tensor]:
    """Return each query's rows, of all threads, that come near its best."""
    near = [part for one in found for part in one.near]
    if not near:
        return [torch.empty(0, dtype=torch.int64)] * len(asked)
    best = torch.cat([one.values for one in found], dim=1).topk(asked.count).values
    floor = (best[:, -1] - asked.margin).clamp_(min=LEAST)
    query, row, score = (torch.cat(part) for part in zip(*near, strict=True))
    kept = score >= floor[query]
    query, row = query[kept].cpu(), row[kept].cpu()
    order = torch.argsort(query, stable=True)
    return list(row[order].split(torch.bincount(query, minlength=len(asked)).tolist()))
