"""The nearest rows of every row, from one pass that serves outliers and near-duplicates.

Outliers are ranked by them. Near-duplicates follow from them, too: a list of a row's nearest has all of its pairs above
a floor unless it ends above the floor itself, and only such rows are compared with all others again. So the lists are
kept, and the second job, or the same again with another threshold, compares nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from imagekin_worker.analysis import pairs, stepper
from imagekin_worker.analysis.blocks import ViewedBlocks
from imagekin_worker.analysis.pairs import Neighbors, Pairs
from imagekin_worker.analysis.stepper import Stepper

# Rows of a list: ten of other content are wanted, and copies stand among them.
LISTED = 16
# Of the work on pairs, what comparing rows with all others is where it must be.
COMPARED_SHARE = 0.9


class Lists(NamedTuple):
    """The indices (n, k) int32 and cosines (n, k) float32 of every row's nearest other rows, best first."""

    places: NDArray[np.int32]
    cosines: NDArray[np.float32]


class Memory(Protocol):
    """Where lists are kept."""

    def known(self, digest: Callable[[], str]) -> Lists | None:
        """Return the lists of the rows with this digest, which is asked for only if lists of any rows are kept."""
        ...

    def keep(self, digest: str, lists: Lists) -> None:
        """Keep the lists of the rows with this digest."""
        ...


def recalled(rows: ViewedBlocks, memory: Memory | None) -> Lists | None:
    """Return the lists that are kept of rows (n, dim), None without them."""
    found = None if memory is None else memory.known(rows.digest)
    return found if found is not None and found.places.shape == (rows.n, max(0, min(LISTED, rows.n - 1))) else None


class Neighborhoods(Stepper):
    """Lists the nearest rows of every row (n, dim) in steps, or takes what is kept of them."""

    def __init__(
        self,
        rows: ViewedBlocks,
        *,
        memory: Memory | None = None,
        memory_budget_bytes: int,
        folder: Path,
        threads: int = 1,
    ) -> None:
        self._rows, self._memory = rows, memory
        self._work = Neighbors(rows, LISTED, memory_budget_bytes=memory_budget_bytes, folder=folder, threads=threads)
        self._asked = False
        self._lists: Lists | None = None

    @classmethod
    def resume(
        cls,
        rows: ViewedBlocks,
        state: bytes,
        *,
        memory: Memory | None = None,
        memory_budget_bytes: int,
        folder: Path,
        threads: int = 1,
    ) -> Neighborhoods:
        """Continue from `state` with the same rows (n, dim); raises JobError if the state is of others."""
        room = {"memory_budget_bytes": memory_budget_bytes, "folder": folder, "threads": threads}
        self = cls(rows, memory=memory, **room)
        self._asked, self._work = True, Neighbors.resume(rows, state, **room)
        return self

    def state(self) -> bytes:
        """Return the progress of the pass: up to 128 bytes a row. Lists that were kept do not count."""
        return self._work.state()

    @property
    def finished(self) -> bool:
        return self._lists is not None or self._work.finished

    @property
    def fraction(self) -> float:
        return 1.0 if self.finished else self._work.fraction

    def result(self) -> Lists:
        """Return the lists."""
        return Lists(*self._work.result()) if self._lists is None else self._lists

    def _step(self) -> None:
        if not self._asked:
            self._asked, self._lists = True, recalled(self._rows, self._memory)
        elif self._work.advance(until=lambda: True) and self._memory is not None:
            self._memory.keep(self._rows.digest(), self.result())


class ListedPairs(Stepper):
    """Finds what Pairs finds, out of the lists of the same rows (n, dim), in steps.

    Rows whose lists are too short are compared with all others. Raises JobError if there are more pairs than
    `memory_budget_bytes` has room for.
    """

    def __init__(
        self,
        rows: ViewedBlocks,
        floor: float,
        lists: Lists,
        *,
        memory_budget_bytes: int,
        folder: Path,
        threads: int = 1,
    ) -> None:
        self._rows, self._floor = rows, floor
        self._room = {"memory_budget_bytes": memory_budget_bytes, "folder": folder, "threads": threads}
        self._most = pairs.most_pairs(memory_budget_bytes)
        close = lists.cosines >= floor - pairs.MARGIN
        first, at = np.nonzero(close)
        self._pairs = self._once(first, lists.places[first, at])
        # as far as they are computed
        self._cosines = np.zeros(0, np.float64)
        short = 0 < close.shape[1] < rows.n - 1
        self._short = np.flatnonzero(close[:, -1]) if short else np.zeros(0, np.int64)
        self._compared: Pairs | None = None

    @classmethod
    def resume(
        cls, rows: ViewedBlocks, state: bytes, *, memory_budget_bytes: int, folder: Path, threads: int = 1
    ) -> ListedPairs:
        """Continue from `state` with the same rows (n, dim); raises JobError if the state is of others."""
        scalars, arrays = stepper.unpacked(state, (rows.n, rows.dim))
        nothing = Lists(np.zeros((rows.n, 0), np.int32), np.zeros((rows.n, 0), np.float32))
        room = {"memory_budget_bytes": memory_budget_bytes, "folder": folder, "threads": threads}
        self = cls(rows, scalars["floor"], nothing, **room)
        self._pairs, self._cosines, self._short = arrays["pairs"], arrays["cosines"], arrays["short"]
        if compared := arrays["compared"].tobytes():
            self._compared = Pairs.resume(self._left(), compared, **self._against(), **room)
        return self

    def state(self) -> bytes:
        """Return all progress: at most 16 bytes a pair, and 8 a row that is compared again."""
        compared = np.frombuffer(b"" if self._compared is None else self._compared.state(), np.uint8)
        arrays = {"pairs": self._pairs, "cosines": self._cosines, "short": self._short, "compared": compared}
        return stepper.packed({"shape": [self._rows.n, self._rows.dim], "floor": self._floor}, arrays)

    @property
    def finished(self) -> bool:
        return not len(self._short) and len(self._cosines) == len(self._pairs)

    @property
    def fraction(self) -> float:
        if len(self._short):
            return COMPARED_SHARE * (0.0 if self._compared is None else self._compared.fraction)
        done = len(self._cosines) / max(1, len(self._pairs)) if not self.finished else 1.0
        return COMPARED_SHARE + (1 - COMPARED_SHARE) * done

    def result(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        """Return both rows (m,), (m,) and the cosine (m,) of every pair, by row, the smaller row of a pair first."""
        there = self._cosines >= self._floor
        first, second = self._pairs[there].T
        return first, second, self._cosines[there]

    def _step(self) -> None:
        if len(self._short):
            self._compare()
            return
        first, second = self._pairs[len(self._cosines) : len(self._cosines) + pairs.CHECKED_PAIRS].T
        self._cosines = np.concatenate([self._cosines, pairs.cosines(self._rows, self._rows, first, second)])
        pairs.check_count(int(np.count_nonzero(self._cosines >= self._floor)), self._most)

    def _compare(self) -> None:
        """Compare the rows whose lists are too short with all others for a step."""
        if self._compared is None:
            self._compared = Pairs(self._left(), self._floor, **self._against(), **self._room)
        if not self._compared.advance(until=lambda: True):
            return
        first, second, _ = self._compared.result()
        if not self._all_compared:
            first = self._short[first]
        known = self._pairs.T
        self._pairs = self._once(np.concatenate([known[0], first]), np.concatenate([known[1], second]))
        self._short, self._compared = np.zeros(0, np.int64), None

    @property
    def _all_compared(self) -> bool:
        """Whether it is cheaper to compare each pair of rows once than these rows with all."""
        return 2 * len(self._short) > self._rows.n

    def _left(self) -> ViewedBlocks:
        return self._rows if self._all_compared else self._rows.among(self._short)

    def _against(self) -> dict:
        return {} if self._all_compared else {"against": self._rows, "own": self._short}

    def _once(self, first: NDArray[np.integer], second: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return pairs (m, 2), each once, in order, the smaller row first."""
        n = max(1, self._rows.n)
        low, high = np.minimum(first, second).astype(np.int64), np.maximum(first, second).astype(np.int64)
        codes = np.unique(low * n + high)
        return np.stack([codes // n, codes % n], 1).astype(np.int32)
