"""Search by several images: from good and bad examples to one direction in the view.

`rocchio` (Rocchio 1971): the mean of the positives minus half of the mean of the negatives. `logistic`: the direction
that separates the positives from the negatives and from random images, which count little. Both are searched like a
single query: by the cosine with the direction.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagekin import errors
from imagekin_worker.kmeans import seeding

ROCCHIO, LOGISTIC = "rocchio", "logistic"
DEFAULT_SEED = 100
NEGATIVE_SHARE = 0.5
# Images drawn by chance, and what all of them together weigh beside the positives.
WEAK_NEGATIVES = 200
WEAK_WEIGHT = 1.0
# Inverse strength of the regularisation, for vectors of length 1.
LOGISTIC_C = 3.0
LOGISTIC_ITERATIONS = 200
# Images that are asked about, and the share of the candidates nearest to the boundary that they are drawn from.
MOST_ASKED = 12
ASKED_AMONG = 5


def drawn(n: int, seed: int = DEFAULT_SEED) -> NDArray[np.int64]:
    """Return random rows (m,) of a collection of `n` images, ascending, as weak negatives."""
    return np.sort(seeding.generator(seed).choice(n, min(n, WEAK_NEGATIVES), replace=False))


def rocchio(positives: np.ndarray, negatives: np.ndarray) -> NDArray[np.float64]:
    """Return the direction (dim,) float64 of length 1 in the view for raw vectors (p, dim) and (m, dim), m from 0."""
    _check(positives)
    direction = positives.mean(0)
    if len(negatives):
        direction -= NEGATIVE_SHARE * negatives.mean(0)
    return _unit(direction)


def logistic(positives: np.ndarray, negatives: np.ndarray, others: np.ndarray) -> NDArray[np.float64]:
    """Return the direction (dim,) float64 of length 1 in the view; `others` (w, dim): `drawn` images.

    The caller must leave out those that are among the positives.
    """
    weights, _ = _separated(positives, negatives, others)
    return _unit(weights)


def ask(positives: np.ndarray, negatives: np.ndarray, others: np.ndarray, candidates: np.ndarray) -> NDArray[np.int64]:
    """Return at most 12 of the `candidates` (c, dim) whose verdict would teach most, best first.

    They are nearest to the boundary between positives and negatives ("uncertainty sampling", Lewis and Gale 1994) and
    differ from each other. Candidates are the best few hundred results of the search that were not judged yet.
    """
    if not len(candidates):
        return np.empty(0, np.int64)
    weights, offset = _separated(positives, negatives, others)
    rows = candidates
    doubt = np.abs(rows @ weights + offset)
    near = np.argsort(doubt, kind="stable")[: ASKED_AMONG * MOST_ASKED]
    chosen = [0]
    nearest = rows[near] @ rows[near[0]]
    while len(chosen) < min(MOST_ASKED, len(near)):
        nearest[chosen] = np.inf
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, rows[near] @ rows[near[chosen[-1]]])
    return near[chosen]


def _separated(positives: np.ndarray, negatives: np.ndarray, others: np.ndarray) -> tuple[NDArray[np.float64], float]:
    """Return weights (dim,) and offset of the logistic regression; 0 is the boundary.

    All positives together weigh as much as negatives and random images together.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    _check(positives)
    parts = [part for part in (positives, negatives, others) if len(part)]
    if len(parts) == 1:
        raise errors.InvalidRequest("A logistic refinement needs images besides the positives.")
    sizes = [len(part) for part in (positives, negatives, others)]
    weights = np.repeat([1.0, 1.0, WEAK_WEIGHT * sizes[0] / max(1, sizes[2])], sizes)
    meant = np.repeat([1, 0, 0], sizes)
    found: Any = LogisticRegression(C=LOGISTIC_C, max_iter=LOGISTIC_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found.fit(np.concatenate(parts), meant, sample_weight=weights)
    return found.coef_[0], float(found.intercept_[0])


def _check(positives: np.ndarray) -> None:
    if not len(positives):
        raise errors.InvalidRequest("At least one positive image is needed.")


def _unit(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    return direction / max(float(np.linalg.norm(direction)), 1e-18)
