"""First centers for k-means: k-means++ over a bounded sample of the rows."""

from __future__ import annotations

import math

import numpy as np
import torch

# Seeds come from a sample, or choosing them would cost more than iterating: each one is a pass over the sample.
SAMPLE_ROWS = 4096
SAMPLE_ROWS_PER_CLUSTER = 10
# Squared distances below this share of the rows' own size are rounding: the rows are alike.
ROUNDING = 1e-6

# All distances within a sample at once take as long as one step for every so many of its rows: a product of a handful
# of rows with all waits for memory, a large one does not.
ROWS_PER_STEP = 6

_WORD = (1 << 64) - 1


def generator(*words: int) -> np.random.Generator:
    """Return a random generator seeded by `words`, so that nothing must be saved to draw the same numbers again."""
    return np.random.default_rng([word & _WORD for word in words])


def sample_rows(n: int, n_clusters: int, key: tuple[int, ...]) -> np.ndarray:
    """Return the ascending indices (m,) of the rows to draw seeds from: all of few rows, a random part of many."""
    size = min(n, max(SAMPLE_ROWS, SAMPLE_ROWS_PER_CLUSTER * n_clusters))
    if size == n:
        return np.arange(n)
    return np.sort(generator(*key, 0).choice(n, size, replace=False, shuffle=False))


def distances_pay(sample_rows: int, steps: int) -> bool:
    """Return whether all `distances` of a sample at once are less work than those of each step; memory is bounded."""
    return sample_rows <= SAMPLE_ROWS and sample_rows < ROWS_PER_STEP * steps


def distances(sample: torch.Tensor) -> torch.Tensor:
    """Return the squared distances (m, m) within a sample, 0 between equal rows."""
    return _distances(sample, (sample**2).sum(1), torch.arange(len(sample), device=sample.device))


def _distances(sample: torch.Tensor, squares: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the squared distances (index, m) of some rows of the sample to every row."""
    sizes = squares[index][:, None] + squares
    found = torch.addmm(sizes, sample[index], sample.T, alpha=-2)
    found[found < ROUNDING * sizes] = 0
    found[torch.arange(len(index), device=index.device), index] = 0
    return found


class Seeding:
    """Chooses rows of a sample (m, dim) one by one, far ones more likely: k-means++ (Arthur and Vassilvitskii 2007).

    Each step draws 2 + ln(k) candidates and keeps the one that leaves the least inertia, as scikit-learn does. `chosen`
    (indices into the sample) and `closest` (m,), the squared distance to the nearest chosen row, are its whole state.
    The `distances` (m, m) within the sample, if given, save each step its matrix product.
    """

    def __init__(
        self,
        sample: torch.Tensor,
        n_clusters: int,
        key: tuple[int, ...],
        *,
        chosen: torch.Tensor | None = None,
        closest: torch.Tensor | None = None,
        distances: torch.Tensor | None = None,
    ) -> None:
        self._sample = sample
        self._squares = (sample**2).sum(1)
        self._known = distances
        self._key = key
        self._candidates = 2 + int(math.log(n_clusters))
        self.chosen = torch.empty(0, dtype=torch.int64, device=sample.device) if chosen is None else chosen
        self.closest = torch.full_like(self._squares, math.inf) if closest is None else closest

    def step(self) -> None:
        """Choose one more row; one that equals a chosen one only when no other is left."""
        candidates = torch.from_numpy(self._draw()).to(self._sample.device)
        known = self._known
        away = _distances(self._sample, self._squares, candidates) if known is None else known[candidates]
        left = torch.minimum(self.closest, away)
        best = int(left.sum(1, dtype=torch.float64).argmin())
        self.chosen = torch.cat([self.chosen, candidates[best : best + 1]])
        self.closest = left[best]

    def _draw(self) -> np.ndarray:
        random = generator(*self._key, 1 + len(self.chosen))
        if not len(self.chosen):
            return random.integers(len(self._sample), size=1)
        cumulative = np.cumsum(self.closest.cpu().numpy(), dtype=np.float64)
        if cumulative[-1] <= 0:
            rest = np.setdiff1d(np.arange(len(self._sample)), self.chosen.cpu().numpy())
            return random.choice(rest, size=1)
        points = random.random(self._candidates) * cumulative[-1]
        return np.searchsorted(cumulative, points, side="right").clip(max=len(cumulative) - 1)
