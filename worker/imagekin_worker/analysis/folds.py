"""Cross-validation: which labelled rows are held out when, and how certain a share or a gain is."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from imagekin_worker.kmeans import seeding

# The two-sided 95 % point of the normal distribution.
Z = 1.959963984540054
RESAMPLES = 2000


def stratified(labels: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Return the fold (m,) of each row; the rows of a class are spread evenly, and classes begin at different folds."""
    random = seeding.generator(seed)
    found = np.empty(len(labels), np.int64)
    start = 0
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        found[members] = (start + np.arange(len(members))) % n_folds
        start += len(members)
    return found


def wilson(hits: float, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927); it also holds for small and extreme counts."""
    if not total:
        return 0.0, 1.0
    share, square = hits / total, Z * Z
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = Z / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def corrected(differences: np.ndarray, tested: np.ndarray, trained: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of `differences` (j,), each of one part of repeated cross-validation.

    `tested` (j,) and `trained` (j,): how many rows were in the part and outside. Parts share most of what they learn
    from, so their variance is corrected (Nadeau and Bengio 2003). None for fewer than three parts.
    """
    count = len(differences)
    if count < 3:
        return None
    mean = float(differences.mean())
    variance = (1 / count + float((tested / trained).mean())) * float(differences.var(ddof=1))
    half = float(special.stdtrit(count - 1, 0.975)) * math.sqrt(variance)
    return mean - half, mean + half


def bootstrap(differences: np.ndarray, groups: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean of `differences` (m,), by drawing whole groups of rows again and again.

    Rows of one group, such as one image in several repetitions, are not independent and must not count as several.
    """
    names, group = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(group, differences), np.bincount(group)
    random = seeding.generator(seed)
    means = np.empty(RESAMPLES)
    for turn in range(RESAMPLES):
        drawn = random.integers(len(names), size=len(names))
        means[turn] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
