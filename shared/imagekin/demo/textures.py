"""Tiles of wood grain, cloth and stone, made once from seeded noise and looked up by coordinates in metres."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from PIL import Image

from imagekin.demo.solids import Array

SIDE = 512


@cache
def noise(rows: int, columns: int, seed: int) -> Array:
    """Make a periodic tile (512, 512) of smooth noise in 0..1 with `rows` x `columns` bumps."""
    grid = np.random.default_rng(seed).random((rows, columns), np.float32)
    wrapped = Image.fromarray(np.pad(grid, 2, mode="wrap"))
    box = (2, 2, columns + 2, rows + 2)
    return np.asarray(wrapped.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box), np.float32)


@cache
def wood() -> Array:
    """Make a tile whose rows run along the grain, around 0."""
    across = np.linspace(0, 1, SIDE, endpoint=False, dtype=np.float32)[None, :]
    rings = np.sin(2 * math.pi * (9 * across + 1.6 * noise(3, 5, 1) + 0.25 * noise(12, 24, 2)))
    streaks = noise(7, 150, 3) + 0.7 * noise(20, 400, 4) - 0.85
    return (0.35 * rings + 0.8 * streaks).astype(np.float32)


@cache
def cloth() -> Array:
    """Make a tile of woven threads, around 0."""
    threads = 0.5 * noise(90, 256, 5) + 0.5 * noise(256, 90, 6)
    return (1.2 * (threads - 0.5) + 0.5 * (noise(14, 14, 7) - 0.5)).astype(np.float32)


@cache
def blotches() -> Array:
    """Make a tile of soft spots in four sizes, around 0: plaster, leather, stone."""
    octaves = [noise(n, n, 20 + n) / 2**i for i, n in enumerate((4, 9, 20, 60))]
    return (np.sum(octaves, axis=0) / 1.875 - 0.5).astype(np.float32)


def look_up(tile: Array, u: Array, v: Array, metres: tuple[float, float]) -> Array:
    """Read a tile at (u, v) in metres, where one tile spans `metres`; the tile repeats."""
    row = (u * (SIDE / metres[0])).astype(np.int32) & (SIDE - 1)
    column = (v * (SIDE / metres[1])).astype(np.int32) & (SIDE - 1)
    return tile[row, column]
