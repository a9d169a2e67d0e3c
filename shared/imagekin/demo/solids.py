"""Solids that furniture is built from: blocks, cushions, turned bodies and tubes, as triangles in metres (y is up)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]
Point = tuple[float, float, float]


class Finish(IntEnum):
    PAINT = 0
    WOOD = 1
    FABRIC = 2
    LEATHER = 3
    METAL = 4
    GLAZE = 5
    GLOW = 6


@dataclass(frozen=True)
class Material:
    """A color as `#rrggbb` and how its surface takes the light."""

    color: str
    finish: Finish = Finish.PAINT

    @property
    def linear(self) -> Array:
        return linear(self.color)


def floats(values: ArrayLike) -> Array:
    """Make an array of single precision."""
    return np.asarray(values, np.float32)


def linear(color: str) -> Array:
    """Turn `#rrggbb` into linear light (3,), after the sRGB transfer curve (IEC 61966-2-1), its exponent alone."""
    return np.array([(int(color[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)], np.float32)


class Solids:
    """A growing heap of triangles: corners, normals and texture coordinates (T, 3, 3), color and finish of each."""

    def __init__(self) -> None:
        self._corners: list[Array] = []
        self._normals: list[Array] = []
        self._coords: list[Array] = []
        self._colors: list[Array] = []
        self._finishes: list[NDArray[np.uint8]] = []

    @property
    def corners(self) -> Array:
        return np.concatenate(self._corners)

    @property
    def normals(self) -> Array:
        return np.concatenate(self._normals)

    @property
    def coords(self) -> Array:
        return np.concatenate(self._coords)

    @property
    def colors(self) -> Array:
        return np.concatenate(self._colors)

    @property
    def finishes(self) -> NDArray[np.uint8]:
        return np.concatenate(self._finishes)

    def __bool__(self) -> bool:
        return bool(self._corners)

    def facing(self, eye: Array) -> Solids:
        """Give the triangles that an eye (3,) may see: those that don't turn their back on it."""
        corners, normals = self.corners, self.normals
        front = (((eye - corners) * normals).sum(2) > 0).any(1)
        seen = Solids()
        seen._corners, seen._normals, seen._coords = [corners[front]], [normals[front]], [self.coords[front]]
        seen._colors, seen._finishes = [self.colors[front]], [self.finishes[front]]
        return seen

    def put(self, other: Solids, at: Point = (0, 0, 0), turn_deg: float = 0.0, tilt_deg: float = 0.0) -> Self:
        """Add a copy of `other`, tilted about x, then turned about y, then moved to `at`."""
        if not other:
            return self
        matrix = (_about_y(turn_deg) @ _about_x(tilt_deg)).T
        self._corners.append(other.corners @ matrix + floats(at))
        self._normals.append(other.normals @ matrix)
        self._coords.append(other.coords)
        self._colors.append(other.colors)
        self._finishes.append(other.finishes)
        return self

    def block(self, center: Point, size: Point, material: Material, turn_deg: float = 0.0) -> Self:
        """Add a box with sharp edges."""
        half = floats(size) / 2
        faces = [_face(half, axis, sign, [floats([-1, 1])] * 3) for axis in range(3) for sign in (-1.0, 1.0)]
        surfaces = []
        for points, axis, sign in faces:
            normals = np.zeros_like(points)
            normals[..., axis] = sign
            surfaces.append((points, normals))
        return self._surfaces(surfaces, center, half, material, turn_deg)

    def cushion(
        self,
        center: Point,
        size: Point,
        material: Material,
        radius: float = 0.05,
        puff: float = 0.0,
        turn_deg: float = 0.0,
        tilt_deg: float = 0.0,
    ) -> Self:
        """Add a box with round edges; `puff` swells its thinnest direction by that share."""
        half = floats(size) / 2
        radius = min(radius, float(half.min()) * 0.98)
        thin = int(half.argmin())
        steps = [_rounding_steps(float(h), radius) for h in half]
        surfaces = []
        for axis in range(3):
            for sign in (-1.0, 1.0):
                points, _, _ = _face(half, axis, sign, steps)
                inner = np.clip(points, radius - half, half - radius)
                outward = points - inner
                normals = outward / np.linalg.norm(outward, axis=-1, keepdims=True)
                surfaces.append(_puffed(inner + radius * normals, normals, half, thin, puff))
        return self._surfaces(surfaces, center, half, material, turn_deg, tilt_deg)

    def turned(
        self,
        center: Point,
        profile: Sequence[tuple[float, float]],
        material: Material,
        sides: int = 28,
        stretch: tuple[float, float] = (1.0, 1.0),
    ) -> Self:
        """Add a body of revolution about y: `profile` is (radius, height) from bottom to top, closed at both ends."""
        rings = [(0.0, profile[0][1]), *profile, (0.0, profile[-1][1])]
        angle = np.linspace(0, 2 * math.pi, sides + 1, dtype=np.float32)
        cos, sin = np.cos(angle) * stretch[0], np.sin(angle) * stretch[1]
        surfaces = []
        for (r0, y0), (r1, y1) in itertools.pairwise(rings):
            points = np.stack([np.stack([r * cos, np.full_like(cos, y), r * sin], -1) for r, y in ((r0, y0), (r1, y1))])
            length = math.hypot(r1 - r0, y1 - y0) or 1.0
            side, up = (y1 - y0) / length, (r0 - r1) / length
            ring = np.stack([side * np.cos(angle), np.full_like(cos, up), side * np.sin(angle)], -1)
            surfaces.append((points, np.stack([ring, ring])))
        return self._surfaces(surfaces, center, floats([1, 1, 1]), material)

    def tube(
        self, start: Point, end: Point, radius: float, material: Material, end_radius: float | None = None
    ) -> Self:
        """Add a round bar from `start` to `end`."""
        a, b = floats(start), floats(end)
        along = (b - a) / np.linalg.norm(b - a)
        aside = np.cross(along, floats([0, 0, 1] if abs(along[2]) < 0.9 else [1, 0, 0]))
        aside /= np.linalg.norm(aside)
        other = np.cross(along, aside)
        angle = np.linspace(0, 2 * math.pi, 13, dtype=np.float32)[:, None]
        ring = np.cos(angle) * aside + np.sin(angle) * other
        last = radius if end_radius is None else end_radius
        side = np.stack([a + radius * ring, b + last * ring]), np.stack([ring, ring])
        caps = []
        for tip, size, way in ((a, radius, -along), (b, last, along)):
            disc = np.stack([np.broadcast_to(tip, ring.shape), tip + size * ring])
            caps.append((disc, np.broadcast_to(way, disc.shape)))
        return self._surfaces([side, *caps], (0, 0, 0), floats([0.2, 1, 0.2]), material)

    def leaf(self, root: Point, tip: Point, width: float, material: Material) -> Self:
        """Add a two-sided pointed leaf."""
        a, b = floats(root), floats(tip)
        across = np.cross(b - a, floats([0, 1, 0.3]))
        across *= width / 2 / (np.linalg.norm(across) or 1)
        middle = a * 0.45 + b * 0.55 + floats([0, width * 0.3, 0])
        points = np.stack([np.stack([a, middle - across]), np.stack([middle + across, b])])
        normal = np.cross(across, b - a)
        normal = np.broadcast_to(normal / np.linalg.norm(normal), points.shape)
        return self._surfaces([(points, normal), (points, -normal)], (0, 0, 0), floats([1, 1, 1]), material)

    def _surfaces(
        self,
        surfaces: Sequence[tuple[Array, Array]],
        center: Point,
        half: Array,
        material: Material,
        turn_deg: float = 0.0,
        tilt_deg: float = 0.0,
    ) -> Self:
        corners = np.concatenate([_triangles(points) for points, _ in surfaces])
        normals = np.concatenate([_triangles(normals) for _, normals in surfaces])
        # The grain runs along the longest side, and each piece is cut from another part of the tree.
        order = np.argsort(-half, kind="stable")
        piece = len(self._corners) + 1
        coords = corners[..., order] + floats([0.371, 0.173, 0.0]) * piece
        matrix = (_about_y(turn_deg) @ _about_x(tilt_deg)).T
        self._corners.append((corners @ matrix + floats(center)).astype(np.float32))
        self._normals.append((normals @ matrix).astype(np.float32))
        self._coords.append(coords.astype(np.float32))
        self._colors.append(np.broadcast_to(material.linear, (len(corners), 3)))
        self._finishes.append(np.full(len(corners), material.finish, np.uint8))
        return self


def _about_y(turn_deg: float) -> Array:
    c, s = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
    return floats([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _about_x(tilt_deg: float) -> Array:
    c, s = math.cos(math.radians(tilt_deg)), math.sin(math.radians(tilt_deg))
    return floats([[1, 0, 0], [0, c, -s], [0, s, c]])


def _rounding_steps(half: float, radius: float) -> Array:
    edge = 1 - radius / half
    rounded = edge + (1 - edge) * np.tan(np.linspace(0, math.pi / 4, 4))
    return np.concatenate([-rounded[::-1], [-edge / 2, 0, edge / 2], rounded]).astype(np.float32)


def _face(half: Array, axis: int, sign: float, steps: Sequence[Array]) -> tuple[Array, int, float]:
    b, c = (axis + 1) % 3, (axis + 2) % 3
    grid_b, grid_c = np.meshgrid(steps[b] * half[b], steps[c] * half[c], indexing="ij")
    points = np.empty((*grid_b.shape, 3), np.float32)
    points[..., axis], points[..., b], points[..., c] = sign * half[axis], grid_b, grid_c
    return points, axis, sign


def _puffed(points: Array, normals: Array, half: Array, thin: int, puff: float) -> tuple[Array, Array]:
    b, c = (thin + 1) % 3, (thin + 2) % 3
    u, v = points[..., b] / half[b], points[..., c] / half[c]
    points, normals = points.copy(), normals.copy()
    slope = 2 * puff * points[..., thin] * normals[..., thin]
    points[..., thin] *= 1 + puff * (1 - u**2) * (1 - v**2)
    normals[..., b] += slope * u * (1 - v**2) / half[b]
    normals[..., c] += slope * v * (1 - u**2) / half[c]
    return points, normals


def _triangles(grid: ArrayLike) -> Array:
    g = np.asarray(grid, np.float32)
    a, b, c, d = g[:-1, :-1], g[1:, :-1], g[1:, 1:], g[:-1, 1:]
    return np.concatenate([np.stack([a, b, c], 2), np.stack([a, c, d], 2)]).reshape(-1, 3, 3)
