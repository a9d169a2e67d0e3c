"""A small renderer: solids in a room, seen in perspective, lit by a lamp and the sky."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagekin.demo import cameras, lighting, rasters, textures
from imagekin.demo.cameras import View
from imagekin.demo.lighting import Lamp
from imagekin.demo.rooms import Room
from imagekin.demo.solids import Array, Finish, Solids

WIDTH, HEIGHT = 480, 360
# Drawn larger and averaged down, which smooths the edges.
OVERSAMPLING = 2
_GLOSS = np.float32([0.04, 0.10, 0.0, 0.16, 0.5, 0.4, 0.0])
_WEAVES = (
    (Finish.WOOD, textures.wood, (1.7, 0.55), 0.34),
    (Finish.FABRIC, textures.cloth, (0.5, 0.5), 0.26),
    (Finish.LEATHER, textures.blotches, (0.5, 0.5), 0.55),
)


@dataclass(frozen=True)
class Shot:
    """One picture to take: the furniture it is about, what stands around it, room, camera and light."""

    subject: Solids
    room: Room
    view: View = field(default_factory=View)
    lamp: Lamp = field(default_factory=Lamp)
    around: Solids = field(default_factory=Solids)
    exposure: float = 1.0


@dataclass(frozen=True)
class _Surfaces:
    """What each pixel shows: point, normal and color (3, N), gloss (N,), whether it glows, is room, is nothing."""

    points: Array
    normals: Array
    albedo: Array
    gloss: Array
    glow: NDArray[np.bool_]
    empty: NDArray[np.bool_]
    void: NDArray[np.bool_]
    nearness: Array


def render(shot: Shot, seed: int) -> Image.Image:
    """Take the picture (480 x 360, RGB); `seed` sets the film grain."""
    shape = (HEIGHT * OVERSAMPLING, WIDTH * OVERSAMPLING)
    camera = cameras.framed(shot.subject.corners.reshape(-1, 3), shot.view, shape)
    solids = Solids().put(shot.subject).put(shot.around)
    rays = camera.rays()
    surfaces = _seen(solids, shot.room, camera, rays)
    lit = lighting.lamp_map(solids, shot.room, shot.lamp).light(surfaces.points)
    open_sky = lighting.sky_map(solids, shot.room).light(surfaces.points)
    color = lighting.toned(_lit(shot, surfaces, rays, lit, open_sky) * np.float32(shot.exposure))
    if shot.room.studio:
        shade = 1 - 0.3 * (1 - lit) * min(shot.lamp.strength, 1) - 0.3 * (1 - open_sky)
        shade[surfaces.void] = 1
        backdrop = shot.room.backdrop(*shape).reshape(3, -1) * shade
        np.copyto(color, backdrop, where=surfaces.empty)
    return _developed(color, seed)


def _seen(solids: Solids, room: Room, camera: cameras.Camera, rays: Array) -> _Surfaces:
    distance, surface = room.hit(camera.eye[:, None], rays)
    void = ~np.isfinite(distance)
    buffer = np.where(void, 0, 1 / np.maximum(distance, 1e-3)).astype(np.float32).reshape(camera.shape)
    corners, normals = solids.corners, solids.normals
    front = np.flatnonzero((((camera.eye - corners) * normals).sum(2) > 0).any(1))
    xy, near = camera.project(corners[front])
    seen = rasters.cover(xy, near, buffer)
    shown, pixels = front[seen.triangles], seen.pixels
    pull = seen.weights * near[seen.triangles]
    pull /= pull.sum(1, keepdims=True)

    points = camera.eye[:, None] + rays / np.maximum(buffer.reshape(-1), 1e-3)
    empty = np.ones(len(void), bool)
    empty[pixels] = False
    albedo, ways = room.paint(points, surface, empty)
    gloss = np.where(surface == 0, np.float32(room.shine), np.float32(0))
    finish = solids.finishes[shown]
    facing = np.einsum("nk,nkc->cn", pull, normals[shown])
    ways[:, pixels] = facing / np.maximum(np.sqrt((facing * facing).sum(0)), 1e-6)
    coords = np.einsum("nk,nkc->cn", pull, solids.coords[shown])
    albedo[:, pixels] = solids.colors[shown].T * _grain(finish, coords)
    gloss[pixels] = _GLOSS[finish]
    glow = np.zeros(len(void), bool)
    glow[pixels] = finish == Finish.GLOW
    return _Surfaces(points, ways, albedo, gloss, glow, empty, void, buffer)


def _lit(shot: Shot, surfaces: _Surfaces, rays: Array, lit: Array, open_sky: Array) -> Array:
    """Give the linear light (3, N) that comes from each pixel."""
    normals, lamp = surfaces.normals, shot.lamp
    # Room surfaces far behind an edge are not in its crease.
    crease = np.where(surfaces.empty, np.float32(1), lighting.creases(surfaces.nearness))
    ambient = (0.40 + 0.18 * normals[1]) * (0.42 + 0.58 * open_sky) * crease
    front = np.maximum(cameras.direction(30, 15) @ normals, 0) * 0.2 * (0.6 + 0.4 * open_sky) * crease
    direct = np.maximum(lamp.way @ normals, 0) * lit * np.float32(lamp.strength)
    soft = ambient + front
    halfway = lamp.way[:, None] - rays / np.sqrt((rays * rays).sum(0))
    spark = np.maximum((normals * halfway).sum(0), 0) / np.sqrt((halfway * halfway).sum(0))
    spark = spark**32 * surfaces.gloss * (0.25 + 0.75 * lit)
    color = np.empty_like(surfaces.albedo)
    for channel, (sky, sun) in enumerate(zip((0.97, 0.99, 1.04), lamp.color, strict=True)):
        light = soft * np.float32(sky) + direct * np.float32(sun)
        light[surfaces.glow] = 1.6
        color[channel] = surfaces.albedo[channel] * light + spark
    return color


def _grain(finish: NDArray[np.uint8], coords: Array) -> Array:
    """Give the factor (N,) that a finish puts on its color at texture coordinates (3, N) in metres."""
    factor = np.ones(len(finish), np.float32)
    for kind, weave, span, depth in _WEAVES:
        here = np.flatnonzero(finish == kind)
        u, v = coords[0, here], coords[1, here] + np.float32(0.6) * coords[2, here]
        factor[here] += depth * textures.look_up(weave(), u, v, span)
    return factor


def _developed(color: Array, seed: int) -> Image.Image:
    n = OVERSAMPLING
    parts = color.reshape(3, HEIGHT, n, WIDTH, n)
    small = sum(parts[:, :, i, :, j] for i in range(n) for j in range(n)) / np.float32(n * n)
    small = small + np.random.default_rng(seed).normal(0, 0.006, (HEIGHT, WIDTH)).astype(np.float32)
    return Image.fromarray(np.ascontiguousarray((np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)))
