"""Whether one picture is cut out of another: their correlation where they overlap best.

A crop changes every frequency of a hash and lowers the correlation of whole pictures, but at the right place in the
original it is the same picture. That place is found on 24 x 24 pixels, then refined to a quarter of a pixel of 48.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imagekin_worker.analysis.hashes import SIDE

# The least side of a cut-out, of 48: a fifth cut off.
LEAST_SIDE = 37.0
COARSE = SIDE // 2
# Side that windows are compared at: smaller than any, so that none is blurred by enlarging it.
COMPARED = 32
# Steps of the refinement, in pixels of 48, each tried twice.
STEPS = (1.0, 1.0, 0.5, 0.5, 0.25, 0.25)
# How top, left, height and width move: shifts, zooms around the middle, and each edge alone.
MOVES = np.array(
    [
        [1, 0, 0, 0], [0, 1, 0, 0], [-0.5, -0.5, 1, 1], [1, 0, -1, 0], [0, 0, 1, 0], [0, 1, 0, -1], [0, 0, 0, 1],
    ]
)  # fmt: skip
# Pairs at a time: some 20 MB.
PAIRS = 256


def correlations(first: np.ndarray, second: np.ndarray) -> NDArray[np.float32]:
    """Return Pearson's correlation (m,) of gray pictures (m, 2304) at the best crop of one out of the other."""
    found = np.empty(len(first), np.float32)
    for start in range(0, len(first), PAIRS):
        part = slice(start, start + PAIRS)
        left, right = (side[part].reshape(-1, SIDE, SIDE).astype(np.float32) for side in (first, second))
        found[part] = np.maximum(_cut_out(left, right), _cut_out(right, left))
    return found


def _cut_out(whole: np.ndarray, part: np.ndarray) -> NDArray[np.float32]:
    """Return how well the second pictures (m, 48, 48) match crops of the first."""
    windows = _coarse(whole, part)
    part = _standard(_sampled(part, np.tile([0.0, 0.0, SIDE, SIDE], (len(part), 1)), COMPARED))
    best = _scored(whole, part, windows)
    for step in STEPS:
        for move in (*MOVES, *-MOVES):
            tried = windows + step * move
            tried[:, 2:] = np.clip(tried[:, 2:], LEAST_SIDE, SIDE)
            tried[:, :2] = np.clip(tried[:, :2], 0, SIDE - tried[:, 2:])
            score = _scored(whole, part, tried)
            better = score > best
            windows[better], best[better] = tried[better], score[better]
    return best


def _coarse(whole: np.ndarray, part: np.ndarray) -> NDArray[np.float64]:
    """Return the best windows (m, 4): top, left, height and width of 48."""
    halves = whole.reshape(-1, COARSE, 2, COARSE, 2).mean((2, 4))
    best = np.full(len(whole), -np.inf, np.float32)
    windows = np.zeros((len(whole), 4))
    for side in range(COARSE, int(LEAST_SIDE) // 2, -1):
        full = np.tile([0.0, 0.0, SIDE, SIDE], (len(part), 1))
        small = _standard(_sampled(part, full, side))
        for top in range(COARSE - side + 1):
            for left in range(COARSE - side + 1):
                window = _standard(halves[:, top : top + side, left : left + side])
                score = np.einsum("mij,mij->m", window, small)
                better = score > best
                best[better] = score[better]
                windows[better] = 2 * np.array([top, left, side, side])
    return windows


def _scored(whole: np.ndarray, part: np.ndarray, windows: np.ndarray) -> NDArray[np.float32]:
    return np.einsum("mij,mij->m", _standard(_sampled(whole, windows, COMPARED)), part)


def _sampled(pictures: np.ndarray, windows: np.ndarray, side: int) -> NDArray[np.float32]:
    """Return windows of pictures as (m, side, side), interpolated between pixels."""
    rows = _weights(windows[:, 0], windows[:, 2], side)
    columns = _weights(windows[:, 1], windows[:, 3], side)
    return rows @ pictures @ columns.transpose(0, 2, 1)


def _weights(start: np.ndarray, length: np.ndarray, side: int) -> NDArray[np.float32]:
    """Return the weight of each of 48 pixels in each of `side` samples (m, side, 48)."""
    scale = (length / side)[:, None]
    at = np.clip(start[:, None] + (np.arange(side) + 0.5) * scale - 0.5, 0, SIDE - 1)
    reach = np.maximum(scale, 1)[..., None]
    weights = np.maximum(0, 1 - np.abs(at[..., None] - np.arange(SIDE)) / reach)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def _standard(pictures: np.ndarray) -> NDArray[np.float32]:
    """Return pictures less their mean, with length 1; flat ones become nearly zeros."""
    pictures = pictures - pictures.mean((1, 2), keepdims=True)
    return pictures / np.maximum(np.sqrt(np.einsum("mij,mij->m", pictures, pictures)), SIDE)[:, None, None]
