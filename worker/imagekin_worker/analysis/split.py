"""Splits of a collection into shares, such as train, val and test, without leaks.

Near-duplicates stay on one side. Groups are placed first, largest first, each where its classes are missing most (after
Sechidis et al. 2011); single images then fill each class up to its shares. Rounding errors carry over to the next
class, so that the totals are right, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from imagekin import errors
from imagekin.schemas import SHARES_TOLERANCE
from imagekin_worker.kmeans import seeding

DEFAULT_SEED = 100


@dataclass(frozen=True)
class Split:
    """`names` of the shares, the `side` (n,) of each image as an index into them, `counts` (shares, classes).

    `groups`: the images (m,) of each set that stays together, of two or more.
    """

    names: list[str]
    side: np.ndarray
    counts: np.ndarray
    groups: list[np.ndarray]


def split(
    shares: Mapping[str, float],
    n: int,
    *,
    classes: np.ndarray | None = None,
    pairs: np.ndarray | None = None,
    seed: int = DEFAULT_SEED,
) -> Split:
    """Split `n` images by `shares` that add up to 1.

    `classes` (n,): numbers from 0; each class is split by the shares as well as whole groups allow. `pairs` (m, 2):
    images that stay together, and with these what is paired with one of them. The same arguments give the same split,
    also with the shares in another order. Raises InvalidRequest for other shares or arrays.
    """
    # an object of JSON has no order
    names = sorted(shares, key=lambda name: (-shares[name], name))
    wanted = np.array([shares[name] for name in names], np.float64)
    if not names or not (wanted > 0).all() or abs(wanted.sum() - 1) > SHARES_TOLERANCE + 1e-9:
        raise errors.InvalidRequest("Shares must be above 0 and add up to 1.")
    wanted /= wanted.sum()
    classes = np.zeros(n, np.int64) if classes is None else np.asarray(classes, np.int64)
    if len(classes) != n:
        raise errors.InvalidRequest(f"{n} images came with {len(classes)} classes.")
    n_classes = int(classes.max(initial=-1)) + 1
    random = seeding.generator(seed)
    side = np.full(n, -1, np.int64)
    # (shares, classes): what is still to come
    missing = wanted[:, None] * np.bincount(classes, minlength=n_classes)
    groups = [] if pairs is None else joined(pairs, n)
    for members in _by_size(groups, random):
        its_classes = np.bincount(classes[members], minlength=n_classes)
        present = its_classes > 0
        # the share that lacks most of what the group has, then the one that lacks most at all
        lack = (np.minimum(missing, its_classes)[:, present].sum(1), missing[:, present].sum(1), missing.sum(1))
        chosen = np.lexsort([-column.round(9) for column in reversed(lack)])[0]
        side[members] = chosen
        missing[chosen] -= its_classes
    owed = np.zeros(len(names))
    for label in random.permutation(n_classes):
        members = random.permutation(np.flatnonzero((classes == label) & (side < 0)))
        counts = _apportioned(missing[:, label], len(members), owed)
        side[members] = np.repeat(np.arange(len(names)), counts)
    counts = np.zeros((len(names), n_classes), np.int64)
    np.add.at(counts, (side, classes), 1)
    return Split(names, side, counts, groups)


def joined(pairs: np.ndarray, n: int) -> list[np.ndarray]:
    """Return the images (m,) that pairs (p, 2) join, also by others between them, ascending, by first image.

    Raises InvalidRequest for an image that does not exist.
    """
    pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    if len(pairs) and not 0 <= pairs.min() <= pairs.max() < n:
        raise errors.InvalidRequest("A pair names an image that is not there.")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (n, n))
    of = connected_components(graph, directed=False)[1]
    first, sizes = np.unique(of, return_index=True, return_counts=True)[1:]
    # sorted by their group, and within it ascending
    order = np.argsort(first[of], kind="stable")
    many = np.sort(first[sizes > 1])
    starts = np.searchsorted(first[of][order], many)
    return [order[start : start + sizes[of[image]]] for start, image in zip(starts, many, strict=True)]


def _by_size(groups: list[np.ndarray], random: np.random.Generator) -> list[np.ndarray]:
    """Return the groups, largest first, those of one size in random order."""
    order = random.permutation(len(groups))
    return sorted((groups[at] for at in order), key=len, reverse=True)


def _apportioned(missing: np.ndarray, count: int, owed: np.ndarray) -> np.ndarray:
    """Return how many of `count` images each share gets, close to what it is `missing`; `owed` takes the rest."""
    wanted = missing.clip(min=0)
    if wanted.sum() > 0:
        wanted = wanted * (count / wanted.sum())
    # rounding must not take an image from a share that is due a whole number
    found = np.floor(wanted + 1e-9).astype(np.int64)
    owed += wanted - found
    for _ in range(count - int(found.sum())):
        # a share that is due none of this class gets none
        chosen = int(np.where(wanted > 0, owed, -math.inf).argmax())
        found[chosen] += 1
        owed[chosen] -= 1
    return found
