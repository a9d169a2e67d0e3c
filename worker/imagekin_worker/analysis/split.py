"""Splits of a collection into shares, such as train, val and test, without leaks.

Near-duplicates stay on one side. Groups are placed first, largest first, each where its classes are missing most (after
Sechidis et al. 2011); single images then fill each class up to its shares. Rounding errors carry over to the next
class, so that the totals are right, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imagekin import errors
from imagekin_worker.kmeans import seeding

DEFAULT_SEED = 100
# How far shares may be from 1 together.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Split:
    """`names` of the shares, the `side` (n,) of each image as an index into them, `counts` (shares, classes)."""

    names: list[str]
    side: np.ndarray
    counts: np.ndarray


def split(
    shares: Mapping[str, float],
    n: int,
    *,
    classes: np.ndarray | None = None,
    groups: Sequence[np.ndarray] = (),
    seed: int = DEFAULT_SEED,
) -> Split:
    """Split `n` images by `shares` that add up to 1.

    `classes` (n,): numbers from 0; each class is split by the shares as well as whole groups allow. `groups`: arrays of
    images that stay together; an image in two of them joins these. The same arguments give the same split. Raises
    InvalidRequest for other shares or arrays.
    """
    names, wanted = list(shares), np.array(list(shares.values()), np.float64)
    if not names or not (wanted > 0).all() or abs(wanted.sum() - 1) > TOLERANCE:
        raise errors.InvalidRequest("Shares must be above 0 and add up to 1.")
    classes = np.zeros(n, np.int64) if classes is None else np.asarray(classes, np.int64)
    if len(classes) != n:
        raise errors.InvalidRequest(f"{n} images came with {len(classes)} classes.")
    n_classes = int(classes.max(initial=-1)) + 1
    random = seeding.generator(seed)
    side = np.full(n, -1, np.int64)
    # (shares, classes): what is still to come
    missing = wanted[:, None] * np.bincount(classes, minlength=n_classes)
    for members in _by_size(joined(groups, n), random):
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
    return Split(names, side, counts)


def joined(groups: Sequence[np.ndarray], n: int) -> list[np.ndarray]:
    """Return groups (m,) of two images or more, ascending, by first image; those with a common image are joined.

    Raises InvalidRequest for an image that does not exist.
    """
    parent: dict[int, int] = {}

    def root(image: int) -> int:
        while (above := parent.setdefault(image, image)) != image:
            parent[image] = parent[above]
            image = parent[image]
        return image

    for group in groups:
        members = [int(image) for image in group]
        if members and (min(members) < 0 or max(members) >= n):
            raise errors.InvalidRequest("A group names an image that is not there.")
        for image in members[1:]:
            low, high = sorted((root(members[0]), root(image)))
            parent[high] = low
    found: dict[int, list[int]] = {}
    for image in sorted(parent):
        found.setdefault(root(image), []).append(image)
    return [np.array(members) for members in found.values() if len(members) > 1]


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
