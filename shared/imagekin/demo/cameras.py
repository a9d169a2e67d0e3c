"""The camera: where it stands, what it sees at which pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from imagekin.demo.solids import Array, floats


@dataclass(frozen=True)
class View:
    """Where the camera stands: azimuth from the front towards the right, height angle, share of the frame to fill."""

    azimuth_deg: float = 0.0
    elevation_deg: float = 10.0
    fill: float = 0.75
    field_deg: float = 30.0
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Camera:
    """A pinhole at `eye`; rows of `axes` are right, up and back; `scale` is pixels per unit of slope."""

    eye: Array
    axes: Array
    scale: float
    shape: tuple[int, int]

    def project(self, points: Array) -> tuple[Array, Array]:
        """Turn points (..., 3) into pixels (..., 2) and nearness 1/z (...)."""
        local = (points - self.eye) @ self.axes.T
        near = 1 / np.maximum(-local[..., 2], 0.05)
        x = self.shape[1] / 2 + local[..., 0] * near * self.scale
        y = self.shape[0] / 2 - local[..., 1] * near * self.scale
        return np.stack([x, y], -1), near

    def rays(self, rows: slice) -> Array:
        """Give a direction for each pixel (3, N) of some rows, of length 1 along the view's axis."""
        height, width = self.shape
        x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / self.scale
        y = (height / 2 - np.arange(height, dtype=np.float32)[rows] - 0.5) / self.scale
        right, up, back = self.axes
        across = right[:, None] * x - back[:, None]
        return (across[:, None, :] + (up[:, None] * y)[:, :, None]).reshape(3, -1).astype(np.float32)


def framed(points: Array, view: View, shape: tuple[int, int]) -> Camera:
    """Place the camera so that the points (N, 3) fill a frame of `shape` (height, width) as the view wants."""
    back = direction(view.azimuth_deg, view.elevation_deg)
    axes = facing(back)
    scale = shape[1] / 2 / math.tan(math.radians(view.field_deg / 2))
    target = (points.min(0) + points.max(0)) / 2
    away = 6.0
    frame = floats([shape[1], shape[0]])
    for _ in range(6):
        xy, _near = Camera(target + back * away, axes, scale, shape).project(points)
        low, high = xy.min(0), xy.max(0)
        offset = ((low + high) / 2 - frame / 2) * away / scale
        target = target + axes[0] * offset[0] - axes[1] * offset[1]
        away *= float(((high - low) / frame).max()) / view.fill
    target = target - (axes[0] * view.shift[0] + axes[1] * view.shift[1]) * away * shape[1] / scale
    return Camera(floats(target + back * away), axes, scale, shape)


def direction(azimuth_deg: float, elevation_deg: float) -> Array:
    """Give the unit vector (3,) towards azimuth (0 is the front, 90 the right) and height above the horizon."""
    a, e = math.radians(azimuth_deg), math.radians(elevation_deg)
    return floats([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])


def facing(back: Array) -> Array:
    """Give the axes (3, 3) right, up and back of somebody who looks against `back`."""
    right = np.cross(floats([0, 1, 0]), back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back]).astype(np.float32)
