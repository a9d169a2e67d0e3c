"""Lengths of vectors, by NumPy if possible: torch's threads wait for each other even over a few rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# A vector shorter than this has no direction: its square is 0 in float32.
SHORTEST = 1e-18


def of(vectors: np.ndarray) -> np.ndarray:
    """Return the lengths (n,) of vectors (n, dim), in their own precision but at least float32; inf on overflow."""
    if vectors.dtype == np.float16:
        vectors = vectors.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.sqrt(np.vecdot(vectors, vectors))


def reciprocals(norms: np.ndarray) -> np.ndarray:
    """Return 1 / length for each length (n,), 0 for a vector without direction."""
    return np.where(norms < SHORTEST, 0, 1 / np.maximum(norms, SHORTEST))


def tensor_reciprocals(norms: torch.Tensor) -> torch.Tensor:
    """Return what `reciprocals` does for a tensor of lengths, (n,) or (n, 1), in its precision and on its device."""
    # a worker's parent, which has vectors to look after, must not have torch
    import torch

    return torch.where(norms < SHORTEST, 0, 1 / norms)


def inverted(vectors: np.ndarray) -> np.ndarray:
    """Return the reciprocals (n,) of the lengths of vectors (n, dim)."""
    return reciprocals(of(vectors))
