"""Triangles to pixels: which triangle each pixel shows, all rows of all triangles in one sweep of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagekin.demo.solids import Array


@dataclass(frozen=True)
class Coverage:
    """Where triangles show: flat pixel index (N,), triangle (N,), weight of its three corners on screen (N, 3)."""

    pixels: NDArray[np.intp]
    triangles: NDArray[np.intp]
    weights: Array


def cover(xy: Array, nearness: Array, buffer: Array) -> Coverage:
    """Draw triangles into `buffer` (H, W), which holds the nearness of what is there and is updated.

    xy (T, 3, 2) in pixels and nearness (T, 3), linear on the screen: 1/z in perspective, -z in parallel projection.
    """
    height, width = buffer.shape
    a, b, c, area = _edges(xy)
    good = np.flatnonzero(np.abs(area) > 1e-3)
    a, b, c, area = (array[good] / area[good, None] for array in (a, b, c, area[:, None]))
    near = nearness[good]
    slope, lift, base = ((part * near).sum(1) for part in (a, b, c))

    top = np.clip(np.ceil(xy[good, :, 1].min(1) - 0.5), 0, height).astype(np.int32)
    bottom = np.clip(np.floor(xy[good, :, 1].max(1) - 0.5) + 1, 0, height).astype(np.int32)
    owner, step = _runs(np.maximum(bottom - top, 0))
    row = top[owner] + step
    y = row + 0.5
    left, right = _spans(a[owner], b[owner], c[owner], y, width)
    depth_left = (lift[owner] * y + base[owner] + slope[owner] * (left + 0.5)).astype(np.float32)
    run, step = _runs(np.maximum(right - left, 0))
    at = (row * width + left)[run] + step
    depth = depth_left[run] + slope[owner].astype(np.float32)[run] * step

    flat = buffer.reshape(-1)
    ahead = depth > flat[at]
    at, depth, run = at[ahead], depth[ahead].astype(np.float32, copy=False), run[ahead]
    np.maximum.at(flat, at, depth)
    seen = depth == flat[at]
    shown = np.full(flat.shape, -1, np.intp)
    shown[at[seen]] = owner[run[seen]]
    pixels = np.flatnonzero(shown >= 0)
    triangles = shown[pixels]
    x, y = (pixels % width + 0.5)[:, None], (pixels // width + 0.5)[:, None]
    weights = a[triangles] * x + b[triangles] * y + c[triangles]
    return Coverage(pixels, good[triangles], weights.astype(np.float32))


def _edges(xy: Array) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Give a, b, c (T, 3) with a x + b y + c = area x weight of corner k, and area (T,)."""
    one = np.roll(xy, -1, axis=1).astype(np.float64)
    two = np.roll(xy, -2, axis=1).astype(np.float64)
    a = one[..., 1] - two[..., 1]
    b = two[..., 0] - one[..., 0]
    c = one[..., 0] * two[..., 1] - two[..., 0] * one[..., 1]
    return a, b, c, c.sum(1)


def _runs(lengths: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Spell out runs: for each element its run, and its place in that run."""
    ends = np.cumsum(lengths, dtype=np.int32)
    owner = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return owner, np.arange(len(owner), dtype=np.int32) - (ends - lengths)[owner]


def _spans(a: Array, b: Array, c: Array, y: Array, width: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Give the first and one past the last column whose center lies inside all three edges."""
    low, high = np.full(len(y), -np.inf), np.full(len(y), np.inf)
    for k in range(3):
        slope, rest = a[:, k], b[:, k] * y + c[:, k]
        cut = -rest / np.where(slope == 0, 1, slope)
        np.maximum(low, cut, out=low, where=slope > 0)
        np.minimum(high, cut, out=high, where=slope < 0)
        low[(slope == 0) & (rest < 0)] = np.inf
    left = np.ceil(np.clip(low - 0.5, 0, width)).astype(np.int32)
    right = np.floor(np.clip(high - 0.5, -1, width - 1)).astype(np.int32) + 1
    return left, right
