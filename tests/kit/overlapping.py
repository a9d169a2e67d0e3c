"""Vectors of kinds that overlap, as a network leaves them."""

from __future__ import annotations

import numpy as np


def kinds(
    n: int = 300, dim: int = 40, n_kinds: int = 6, spread: float = 1.2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors (n, dim) float32, never negative, and the kind of each; kinds differ in few dimensions."""
    random = np.random.default_rng(seed)
    centers = np.where(random.random((n_kinds, dim)) < 0.25, random.random((n_kinds, dim)) * 3, 0.4)
    labels = np.arange(n) % n_kinds
    shared = np.abs(random.standard_normal((n, 4))) @ np.abs(random.standard_normal((4, dim)))
    rows = centers[labels] + shared * 0.7 + np.abs(random.standard_normal((n, dim))) * spread
    return np.maximum(rows, 0).astype(np.float32), labels


def some_labelled(labels: np.ndarray, examples: int, seed: int | None = None) -> np.ndarray:
    """Return the labels with all but the first `examples` of each kind, or some by chance, taken away (-1)."""
    random = None if seed is None else np.random.default_rng(seed)
    found = np.full(len(labels), -1, np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members if random is None else random.permutation(members)
        found[members[:examples]] = label
    return found
