"""Where furniture stands: a studio backdrop, or a room with floor and walls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from imagekin.demo import textures
from imagekin.demo.solids import Array, floats, linear


class Floor(Enum):
    PLANKS = "planks"
    HERRINGBONE = "herringbone"
    TILES = "tiles"
    CARPET = "carpet"
    CONCRETE = "concrete"


class Wall(Enum):
    PAINT = "paint"
    BRICKS = "bricks"
    PANELS = "panels"
    STRIPES = "stripes"
    PLASTER = "plaster"


@dataclass(frozen=True)
class Room:
    """A floor at y = 0, a back wall at z = -depth, side walls at x = -left and x = right; lengths in metres."""

    wall_color: str = "#e8e4dc"
    floor_color: str = "#b08a60"
    wall: Wall = Wall.PAINT
    floor: Floor = Floor.PLANKS
    depth: float = 1.2
    left: float = math.inf
    right: float = math.inf
    shine: float = 0.03
    studio: bool = False

    def hit(self, origin: Array, rays: Array) -> tuple[Array, NDArray[np.uint8]]:
        """Find how far each ray (3, N) goes and what it meets: 0 floor, 1 back wall, 2 left wall, 3 right wall."""
        planes = [(1, 0.0, -1)]
        if not self.studio:
            planes += [(2, -self.depth, -1), (0, -self.left, -1), (0, self.right, 1)]
        best = np.full(rays.shape[1], np.inf, np.float32)
        which = np.zeros(rays.shape[1], np.uint8)
        for number, (axis, place, way) in enumerate(planes):
            if not math.isfinite(place):
                continue
            along = rays[axis]
            ahead = along * way > 1e-6
            reach = (np.float32(place) - origin[axis]) / np.where(ahead, along, np.float32(1))
            nearer = ahead & (reach < best)
            np.copyto(best, reach, where=nearer)
            which[nearer] = number
        return best, which

    def paint(self, points: Array, surface: NDArray[np.uint8], shown: NDArray[np.bool_]) -> tuple[Array, Array]:
        """Give color in linear light and normal, (3, N) each, at points (3, N) of the room that are `shown`."""
        normals = np.zeros_like(points)
        color = np.zeros_like(points)
        for number, (axis, way) in enumerate(((1, 1), (2, 1), (0, 1), (0, -1))):
            here = np.flatnonzero((surface == number) & shown)
            if not len(here):
                continue
            normals[axis, here] = way
            if self.studio:
                continue
            if number == 0:
                color[:, here] = self._floor(points[0, here], points[2, here]).T
            else:
                color[:, here] = self._wall(points[0 if number == 1 else 2, here], points[1, here]).T
        return color, normals

    def backdrop(self, height: int, width: int, rows: slice) -> Array:
        """Give a studio's display values (3, rows, width): wall color above, floor color below, darker corners."""
        top, bottom = (linear(color)[:, None, None] ** (1 / 2.2) for color in (self.wall_color, self.floor_color))
        y = np.linspace(0, 1, height, dtype=np.float32)[rows, None]
        x = np.linspace(-1, 1, width, dtype=np.float32)
        blend = 1 / (1 + np.exp(-(y - 0.62) * 9))
        corner = 1 - 0.05 * (x**2 + (2 * y - 1) ** 2)
        return ((top * (1 - blend) + bottom * blend) * corner).astype(np.float32)

    def _floor(self, x: Array, z: Array) -> Array:
        base = linear(self.floor_color)
        if self.floor is Floor.PLANKS:
            return base * _boards(x, z, 0.14, 1.3)[:, None]
        if self.floor is Floor.HERRINGBONE:
            zig = np.abs(np.mod(x, 0.56) - 0.28)
            return base * _boards(x * 0.0 + np.floor(x / 0.28), z + zig, 0.09, 50)[:, None]
        if self.floor is Floor.TILES:
            joint = (np.mod(x, 0.45) < 0.008) | (np.mod(z, 0.45) < 0.008)
            cloud = 1 + 0.16 * textures.look_up(textures.blotches(), x, z, (1.1, 1.1))
            return base * np.where(joint, 0.62, cloud)[:, None]
        if self.floor is Floor.CARPET:
            return base * (1 + 0.3 * textures.look_up(textures.cloth(), x, z, (0.8, 0.8)))[:, None]
        return base * (1 + 0.4 * textures.look_up(textures.blotches(), x, z, (2.6, 2.6)))[:, None]

    def _wall(self, x: Array, y: Array) -> Array:
        base = linear(self.wall_color)
        board = (y < 0.11) & (self.wall is not Wall.BRICKS)
        if self.wall is Wall.BRICKS:
            factor = _bricks(x, y)
        elif self.wall is Wall.PANELS:
            factor = _panels(x, y)
        elif self.wall is Wall.STRIPES:
            factor = np.where(np.mod(x, 0.24) < 0.12, 1.0, 0.86)
        elif self.wall is Wall.PLASTER:
            factor = 1 + 0.3 * textures.look_up(textures.blotches(), x, y, (1.8, 1.8))
        else:
            factor = 1 + 0.03 * textures.look_up(textures.blotches(), x, y, (0.9, 0.9))
        color = base * factor.astype(np.float32)[:, None]
        lip = np.where(y > 0.1, 0.6, 0.82)[:, None].astype(np.float32)
        return np.where(board[:, None], lip * floats([1, 0.99, 0.97]), color).astype(np.float32)


def _boards(x: Array, z: Array, width: float, length: float) -> Array:
    row = np.floor(z / width)
    start = x + row * 0.77
    piece = np.floor(start / length)
    shade = np.mod(np.sin(row * 12.9898 + piece * 78.233) * 43.7, 1) * 0.24 - 0.12
    joint = (np.mod(z, width) < 0.005) | (np.mod(start, length) < 0.005)
    grain = textures.look_up(textures.wood(), x + row * 0.31, z + piece * 0.2, (2.0, 0.5))
    return np.where(joint, 0.55, 1 + shade + 0.24 * grain).astype(np.float32)


def _bricks(x: Array, y: Array) -> Array:
    row = np.floor(y / 0.078)
    start = x + np.mod(row, 2) * 0.115
    piece = np.floor(start / 0.23)
    shade = np.mod(np.sin(row * 12.9898 + piece * 78.233) * 43.7, 1) * 0.36 - 0.18
    joint = (np.mod(y, 0.078) < 0.01) | (np.mod(start, 0.23) < 0.01)
    rough = 0.4 * textures.look_up(textures.blotches(), x, y, (0.7, 0.7))
    return np.where(joint, 1.25, 0.95 + shade + rough)


def _panels(x: Array, y: Array) -> Array:
    """Give the shade of wainscot: framed fields up to a rail at 0.95 m."""
    across, up = np.mod(x + 0.35, 0.7), y - 0.2
    edge = np.minimum(np.minimum(across - 0.09, 0.61 - across), np.minimum(up, 0.62 - up))
    factor = np.where(np.abs(edge) < 0.012, np.where((across < 0.2) | (up > 0.5), 0.72, 1.12), 1.0)
    factor = np.where((y > 0.93) & (y < 0.97), 1.1, factor)
    return np.where((y > 0.915) & (y <= 0.93), 0.7, factor)
