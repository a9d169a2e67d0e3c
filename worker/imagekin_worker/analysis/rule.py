"""The rule of near-duplicates: the signs of two images, and the reason that they are for calling one a copy.

A duplicates job applies it to all pairs (see duplicates), a search to the images that it found (see collapse).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from imagekin.enums import DuplicateReason as Reason
from imagekin_worker.analysis import alignment, hashes

# Up to so many images, crops are looked for in pairs further below the line, too; beyond, these would be too many.
ALL_ROWS = 20_000

Thumbnails = Callable[[NDArray[np.int64]], NDArray[np.uint8]]
"""Returns the gray pictures (m, 2304) of images by their indices (see hashes.Print)."""


@dataclass(frozen=True)
class Rules:
    """The thresholds of the signs; bits of 64, correlations of 48 x 48 gray thumbnails, shares of the median distance.

    They were chosen on photographs and their copies (see docs/explanation/quality.md).
    """

    line_share: float = 0.13
    look_share: float = 0.25
    same_bits: int = 4
    same_correlation: float = 0.99
    mirrored_bits: int = 8
    mirrored_correlation: float = 0.98
    look_bits: int = 6
    look_correlation: float = 0.95
    #: a crop below the line: its hash may differ in so many bits, and laid over its place it correlates so well
    cut_out_bits: int = 22
    cut_out_correlation: float = 0.985
    cut_out_share: float = 0.5
    #: images of other content, for the median, are not as near as this by both signs
    copy_bits: int = 18
    copy_cosine: float = 0.8


@dataclass
class Signs:
    """What is known about pairs (m,); correlations are NaN if no rule needs them."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    cosines: NDArray[np.float64]
    correlations: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    mirrored: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    cut_out: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    verdicts: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))


@dataclass(frozen=True)
class Pictures:
    """What is seen of images: their hashes (n,) and their mirrors' (n,), and their gray pictures by index."""

    hashes: NDArray[np.uint64]
    mirrors: NDArray[np.uint64]
    thumbnails: Thumbnails


def median_distance(cosines: np.ndarray, bits: np.ndarray, rules: Rules) -> float:
    """Return the median distance of images to their nearest one of other content, by their nearest ones, best first.

    `cosines` (m, k) with them, and `bits` (m, k) in which hashes differ, or those of mirrors if these are fewer.
    """
    copies = (bits <= rules.copy_bits) & (cosines >= rules.copy_cosine)
    # where all that are near are copies, the last of them is as far as is known
    copies[:, -1] = False
    other = cosines[np.arange(len(cosines)), np.argmin(copies, axis=1)]
    return max(float(np.median(1 - other.astype(np.float64))), 1e-6)


def line(median: float | None, rules: Rules) -> float:
    """Return the cosine from which on two images are near-duplicates, by the median distance to other content."""
    return 1.0 if median is None else 1 - rules.line_share * median


def floor(median: float | None, threshold: float, images: int, rules: Rules) -> float:
    """Return the lowest cosine of a pair that may matter, in a collection of `images`."""
    if median is None:
        return min(threshold, 1.0)
    share = max(rules.cut_out_share, rules.look_share) if images <= ALL_ROWS else rules.look_share
    return min(threshold, 1 - share * median)


def taken(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    cosines: NDArray[np.float64],
    pictures: Pictures,
    threshold: float,
    floor: float,
    rules: Rules,
) -> tuple[NDArray[np.float32], ...]:
    """Return the correlations of pairs (m,): of the pictures, of one with the mirrored other, and of the best crop.

    Those that no rule needs are NaN.
    """
    bits = hashes.distances(pictures.hashes[first], pictures.hashes[second])
    mirror = hashes.distances(pictures.hashes[first], pictures.mirrors[second])
    above = cosines >= threshold

    def correlated(asked: np.ndarray, *, flip: bool = False, cut: bool = False) -> NDArray[np.float32]:
        found = np.full(len(first), np.nan, np.float32)
        if not asked.any():
            return found
        left, right = pictures.thumbnails(first[asked]), pictures.thumbnails(second[asked])
        if flip:
            right = right.reshape(-1, hashes.SIDE, hashes.SIDE)[:, :, ::-1].reshape(len(right), -1)
        found[asked] = alignment.correlations(left, right) if cut else hashes.correlations(left, right)
        return found

    whole = correlated(above | (bits <= rules.look_bits))
    mirrored = correlated(~above & (mirror <= rules.mirrored_bits) & (mirror < bits), flip=True)
    asked = ~above & (bits <= rules.cut_out_bits) & (cosines >= floor)
    asked &= ~((bits <= rules.same_bits) & (whole >= rules.same_correlation))
    return whole, mirrored, correlated(asked, cut=True)


def reasons(
    signs: Signs,
    bits: np.ndarray,
    mirror: np.ndarray,
    identical: np.ndarray,
    threshold: float,
    rules: Rules,
    allowed: np.ndarray,
) -> list[Reason | None]:
    """Return the reason for each pair, the first that holds; None for pairs that are not `allowed` one.

    `bits` (m,), `mirror` (m,): how far their hashes are, and that of the one from the mirrored other. `identical` (m,):
    the same bytes.
    """
    above = signs.cosines >= threshold
    same = (bits <= rules.same_bits) & (signs.correlations >= rules.same_correlation)
    mirrored = (mirror <= rules.mirrored_bits) & (mirror < bits)
    mirrored &= above | (signs.mirrored >= rules.mirrored_correlation)
    edited = above | (signs.cut_out >= rules.cut_out_correlation)
    found: list[Reason | None] = [None] * len(above)
    for reason, holds in (
        (Reason.VERDICT, signs.verdicts),
        (Reason.EDITED, edited),
        (Reason.MIRRORED, mirrored),
        (Reason.SAME, same),
        (Reason.IDENTICAL, identical & (bits == 0)),
    ):
        for pair in np.flatnonzero(holds & allowed).tolist():
            found[pair] = reason
    return found
