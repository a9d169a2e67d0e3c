"""Light: one lamp with soft shadows, a soft sky, creases, and the film's answer to all of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imagekin.demo import cameras, rasters
from imagekin.demo.rooms import Room
from imagekin.demo.solids import Array, Solids

LAMP_MAP_SIDE, SKY_MAP_SIDE = 448, 160
SKY_SOFTNESS_M = 0.16
_EXPOSURE = 0.78


@dataclass(frozen=True)
class Lamp:
    """Where the light comes from, how strong it is against the sky, and how soft its shadows are."""

    azimuth_deg: float = -35.0
    elevation_deg: float = 50.0
    strength: float = 1.0
    softness_m: float = 0.06
    color: tuple[float, float, float] = (1.0, 0.96, 0.9)

    @property
    def way(self) -> Array:
        return cameras.direction(self.azimuth_deg, self.elevation_deg)


@dataclass(frozen=True)
class ShadowMap:
    """Distances from a far light, blurred with their squares (variance shadow maps, Donnelly and Lauritzen 2006)."""

    center: Array
    axes: Array
    extent: float
    mean: Array
    variance: Array

    def light(self, points: Array) -> Array:
        """Give the share of the light (N,) that reaches each of the points (3, N)."""
        side = len(self.mean)
        local = self.axes @ points - (self.axes @ self.center)[:, None]
        local[:2] *= np.float32(side / 2 / self.extent)
        local[:2] += np.float32(side / 2)
        np.clip(local[:2], 0, side - 1, out=local[:2])
        place = local[1].astype(np.int32) * side + local[0].astype(np.int32)
        behind = np.clip(-local[2] - self.mean.ravel().take(place) - np.float32(0.012), 0, 20)
        variance = self.variance.ravel().take(place)
        lit = variance / (variance + behind * behind)
        return np.clip((lit - np.float32(0.25)) / np.float32(0.75), 0, 1)


def lamp_map(solids: Solids, room: Room, lamp: Lamp) -> ShadowMap:
    """Measure what the lamp reaches."""
    return _shadow_map(solids, room, lamp.way, LAMP_MAP_SIDE, lamp.softness_m)


def sky_map(solids: Solids, room: Room) -> ShadowMap:
    """Measure what the sky reaches: nearly from above, very soft."""
    return _shadow_map(solids, room, cameras.direction(10, 68), SKY_MAP_SIDE, SKY_SOFTNESS_M)


def _shadow_map(solids: Solids, room: Room, way: Array, side: int, softness_m: float) -> ShadowMap:
    corners = solids.corners
    points = corners.reshape(-1, 3)
    center = (points.min(0) + points.max(0)) / 2
    axes = cameras.facing(way)
    local = (corners - center) @ axes.T
    extent = float(np.abs(local[..., :2]).max()) * 1.3 + 3 * softness_m
    steps = ((np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1) * extent
    sideways = axes[0][:, None, None] * steps + axes[1][:, None, None] * steps[:, None]
    origins = (center[:, None, None] + sideways).reshape(3, -1)
    distance, _ = room.hit(origins, np.broadcast_to(-way[:, None], origins.shape))
    buffer = -np.clip(distance, -50, 50).reshape(side, side)
    rasters.cover((local[..., :2] / extent + 1) * (side / 2), local[..., 2], buffer)
    radius = max(1, round(softness_m * side / (2 * extent)))
    mean, square = blurred(-buffer, radius), blurred(buffer**2, radius)
    # Nothing is known beyond the edge, so shadows fade out before it.
    edge = np.clip(np.abs(steps) / extent - 0.8, 0, None) * 80
    fade = np.maximum(edge[:, None], edge[None, :]) ** 4
    return ShadowMap(center, axes, extent, mean, np.maximum(square - mean**2, 3e-4) + fade)


def blurred(image: Array, radius: int) -> Array:
    """Average an image (H, W) over a square window, twice along each axis."""
    for _ in range(4):
        total = np.cumsum(np.pad(image, ((radius + 1, radius), (0, 0)), mode="edge"), axis=0, dtype=np.float64)
        image = ((total[2 * radius + 1 :] - total[: -2 * radius - 1]) / (2 * radius + 1)).astype(np.float32).T
    return np.ascontiguousarray(image)


def creases(nearness: Array) -> Array:
    """Give the share of light (H, W) left where something lies behind its surroundings (Luft et al. 2006)."""
    depth = 1 / np.maximum(nearness, 0.08)
    behind = np.zeros_like(depth)
    for radius in (3, 9):
        behind += np.clip(depth - blurred(depth, radius), 0, 0.1)
    return 1 - np.minimum(behind * 3.2, 0.42)


def toned(light: Array) -> Array:
    """Bend linear light to display values with Narkowicz's fit of the ACES curve (2015) and a gamma of 2.2."""
    x = light * np.float32(_EXPOSURE)
    x = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)
    return np.clip(x, 0, 1) ** np.float32(1 / 2.2)


def untoned(display: Array) -> Array:
    """Find the light that `toned` turns into these display values, which are below 1."""
    y = display ** np.float32(2.2)
    a, b, c = 2.51 - 2.43 * y, 0.03 - 0.59 * y, -0.14 * y
    return (np.sqrt(b * b - 4 * a * c) - b) / (2 * a * np.float32(_EXPOSURE))
