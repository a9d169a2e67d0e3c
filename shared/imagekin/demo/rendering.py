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
from imagekin.demo.solids import Array, Finish, Solids, floats

WIDTH, HEIGHT = 480, 360
# Drawn larger and averaged down, which smooths the edges.
OVERSAMPLING = 2
# The tone curve makes colors stronger than paint is; this share of gray takes it back.
_FADING = 0.2
# Rows of the picture shaded at once: few enough to stay in the processor's cache.
_BAND_ROWS = 20
_GLOSS = floats([0.04, 0.10, 0.0, 0.16, 0.5, 0.4, 0.0])
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


def render(shot: Shot, seed: int) -> Image.Image:
    """Take the picture (480 x 360, RGB); `seed` sets the film grain."""
    scene = _scene(shot)
    light = np.empty((3, HEIGHT, WIDTH), np.float32)
    for top in range(0, HEIGHT, _BAND_ROWS):
        rows = slice(top * OVERSAMPLING, (top + _BAND_ROWS) * OVERSAMPLING)
        light[:, top : top + _BAND_ROWS] = _averaged(_band_light(scene, rows))
    return _developed(light, seed)


@dataclass(frozen=True)
class _Scene:
    """What all bands of a picture share: the solids, what shows where, what the lights reach."""

    shot: Shot
    solids: Solids
    camera: cameras.Camera
    seen: rasters.Coverage
    near: Array  # (T, 3), of the triangles in `seen`
    nearness: Array  # (H, W), as are distance and surface, which are the bare room's
    distance: Array
    surface: NDArray[np.uint8]
    crease: Array  # (H / 2, W / 2)
    lamp: lighting.ShadowMap
    sky: lighting.ShadowMap


@dataclass(frozen=True)
class _Surfaces:
    """What each pixel of a band shows: point, normal and color (3, N), gloss, whether it glows, is bare room (N,)."""

    points: Array
    normals: Array
    albedo: Array
    gloss: Array
    glow: NDArray[np.bool_]
    empty: NDArray[np.bool_]


def _scene(shot: Shot) -> _Scene:
    shape = (HEIGHT * OVERSAMPLING, WIDTH * OVERSAMPLING)
    camera = cameras.framed(shot.subject.corners.reshape(-1, 3), shot.view, shape)
    solids = Solids().put(shot.subject).put(shot.around)
    distance, surface = np.empty(shape, np.float32), np.empty(shape, np.uint8)
    for top in range(0, shape[0], _BAND_ROWS):
        rows = slice(top, top + _BAND_ROWS)
        reach, which = shot.room.hit(camera.eye[:, None], camera.rays(rows))
        distance[rows], surface[rows] = reach.reshape(-1, shape[1]), which.reshape(-1, shape[1])
    nearness = 1 / np.maximum(distance, 1e-3)
    front = solids.facing(camera.eye)
    xy, near = camera.project(front.corners)
    seen = rasters.cover(xy, near, nearness)
    crease = lighting.creases(nearness[::2, ::2])
    lamp, sky = lighting.lamp_map(solids, shot.room, shot.lamp), lighting.sky_map(solids, shot.room)
    return _Scene(shot, front, camera, seen, near, nearness, distance, surface, crease, lamp, sky)


def _band_light(scene: _Scene, rows: slice) -> Array:
    """Give the linear light (3, rows, W) that comes from some rows."""
    room, rays = scene.shot.room, scene.camera.rays(rows)
    surfaces = _band_surfaces(scene, rows, rays)
    lit, open_sky = scene.lamp.light(surfaces.points), scene.sky.light(surfaces.points)
    crease = np.repeat(np.repeat(scene.crease[rows.start // 2 : rows.stop // 2], 2, 0), 2, 1).ravel()
    # Bare room far behind an edge is not in its crease.
    crease[surfaces.empty] = 1
    light = _lit(scene.shot, surfaces, rays, lit, open_sky, crease)
    if room.studio:
        shade = 1 - 0.3 * (1 - lit) * min(scene.shot.lamp.strength, 1) - 0.3 * (1 - open_sky)
        shade[np.isinf(scene.distance[rows]).ravel()] = 1
        here = np.flatnonzero(surfaces.empty)
        backdrop = room.backdrop(*scene.camera.shape, rows).reshape(3, -1)[:, here]
        light[:, here] = lighting.untoned(backdrop * shade[here])
    return light.reshape(3, -1, scene.camera.shape[1])


def _band_surfaces(scene: _Scene, rows: slice, rays: Array) -> _Surfaces:
    width = scene.camera.shape[1]
    points = scene.camera.eye[:, None] + rays / np.maximum(scene.nearness[rows].ravel(), 1e-3)
    seen, first = scene.seen, rows.start * width
    part = slice(*np.searchsorted(seen.pixels, (first, rows.stop * width)))
    pixels, shown = seen.pixels[part] - first, seen.triangles[part]
    empty = np.ones(points.shape[1], bool)
    empty[pixels] = False
    surface = scene.surface[rows].ravel()
    albedo, normals = scene.shot.room.paint(points, surface, empty)
    gloss = np.where(surface == 0, np.float32(scene.shot.room.shine), np.float32(0))
    pull = seen.weights[part] * scene.near[shown]
    pull /= pull.sum(1, keepdims=True)
    facing = np.einsum("nk,nkc->cn", pull, scene.solids.normals[shown])
    normals[:, pixels] = facing / np.maximum(np.sqrt((facing * facing).sum(0)), 1e-6)
    finish = scene.solids.finishes[shown]
    coords = np.einsum("nk,nkc->cn", pull, scene.solids.coords[shown])
    albedo[:, pixels] = scene.solids.colors[shown].T * _grain(finish, coords)
    gloss[pixels] = _GLOSS[finish]
    glow = np.zeros(len(empty), bool)
    glow[pixels] = finish == Finish.GLOW
    return _Surfaces(points, normals, albedo, gloss, glow, empty)


def _lit(shot: Shot, surfaces: _Surfaces, rays: Array, lit: Array, open_sky: Array, crease: Array) -> Array:
    """Give the linear light (3, N) that comes from surfaces."""
    normals, lamp = surfaces.normals, shot.lamp
    ambient = (0.40 + 0.18 * normals[1]) * (0.42 + 0.58 * open_sky) * crease
    front = np.maximum(cameras.direction(30, 15) @ normals, 0) * 0.2 * (0.6 + 0.4 * open_sky) * crease
    direct = np.maximum(lamp.way @ normals, 0) * lit * np.float32(lamp.strength)
    soft = ambient + front
    halfway = lamp.way[:, None] - rays / np.sqrt((rays * rays).sum(0))
    spark = np.maximum((normals * halfway).sum(0), 0) / np.sqrt((halfway * halfway).sum(0))
    for _ in range(5):  # to the 32nd power
        spark *= spark
    spark *= surfaces.gloss * (0.25 + 0.75 * lit)
    color = np.empty_like(surfaces.albedo)
    for channel, (sky, sun) in enumerate(zip((0.97, 0.99, 1.04), lamp.color, strict=True)):
        light = soft * np.float32(sky) + direct * np.float32(sun)
        light[surfaces.glow] = 1.6
        color[channel] = surfaces.albedo[channel] * light + spark
    return color * np.float32(shot.exposure)


def _grain(finish: NDArray[np.uint8], coords: Array) -> Array:
    """Give the factor (N,) that a finish puts on its color at texture coordinates (3, N) in metres."""
    factor = np.ones(len(finish), np.float32)
    for kind, weave, span, depth in _WEAVES:
        here = np.flatnonzero(finish == kind)
        u, v = coords[0, here], coords[1, here] + np.float32(0.6) * coords[2, here]
        factor[here] += depth * textures.look_up(weave(), u, v, span)
    return factor


def _averaged(light: Array) -> Array:
    """Average each pixel's samples: (3, h, w) to (3, h / n, w / n)."""
    n = OVERSAMPLING
    light = np.minimum(light, 4)
    small = np.zeros((3, light.shape[1] // n, light.shape[2] // n), np.float32)
    for i in range(n):
        for j in range(n):
            small += light[:, i::n, j::n]
    return small / np.float32(n * n)


def _developed(light: Array, seed: int) -> Image.Image:
    gray = np.tensordot(floats([0.21, 0.72, 0.07]), light, 1)
    color = lighting.toned(light + (gray - light) * np.float32(_FADING))
    color += np.random.default_rng(seed).normal(0, 0.006, (HEIGHT, WIDTH)).astype(np.float32)
    return Image.fromarray(np.ascontiguousarray((np.clip(color, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)))
