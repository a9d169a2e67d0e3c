"""Ten shelves: five on a wall, five that stand on their own."""

from __future__ import annotations

from random import Random

from imagekin.demo import props
from imagekin.demo.cameras import View
from imagekin.demo.lighting import Lamp
from imagekin.demo.props import BLACK, BRASS, OAK, PALE, WALNUT
from imagekin.demo.rendering import Shot
from imagekin.demo.rooms import Floor, Room, Wall
from imagekin.demo.solids import Material, Solids

WHITE_PAINT = Material("#efede8")


def wall_mounted(number: int, rng: Random) -> Shot:
    """Set up the shelf on a wall, 1 to 5."""
    return (_three_boards, _bracket_pair, _cubes, _staircase, _rail_system)[number - 1](rng)


def free_standing(number: int, rng: Random) -> Shot:
    """Set up the shelf on its own feet, 1 to 5."""
    return (_bookcase, _cube_grid, _metal_frame, _ladder, _narrow_walnut)[number - 1](rng)


def _fill(shelf: Solids, rng: Random, left: float, right: float, y: float, room: float, z: float = 0.0) -> None:
    """Put things on a board from `left` to `right`, at most `room` high, with air between them."""
    x = left + rng.uniform(0.02, 0.08)
    while right - x > 0.12:
        wide = min(rng.uniform(0.16, 0.34), right - x - 0.02)
        kind = rng.choice(("books", "books", "books", "vase", "plant", "stack", "bowl", "box"))
        if kind == "books":
            shelf.put(props.books(rng, wide - 0.03, min(0.27, room * 0.88)), (x, y, z))
        elif kind == "vase":
            tall = min(0.26, room * rng.uniform(0.55, 0.85))
            shelf.put(props.vase(rng, tall), (x + tall * 0.4, y, z))
            wide = tall * 0.85
        elif kind == "plant":
            tall = min(0.24, room * 0.8)
            shelf.put(props.small_plant(rng, tall), (x + tall * 0.45, y, z))
            wide = tall * 0.95
        elif kind == "stack":
            wide = min(0.22, wide)
            shelf.put(props.stack(rng, rng.randint(2, 4), wide), (x + wide / 2, y, z))
        elif kind == "bowl":
            wide = min(0.2, wide)
            shelf.put(props.bowl(wide / 2), (x + wide / 2, y, z))
        else:
            wide = min(0.24, wide)
            color = rng.choice(("#b99a6b", "#8d8f8c", "#d6cbb8", "#5f6c74"))
            shelf.put(props.basket(wide * 0.95, min(0.2, room * 0.65), 0.2, color), (x + wide / 2, y, z))
        x += wide + rng.uniform(0.02, 0.12)


def _three_boards(rng: Random) -> Shot:
    shelf = Solids()
    for k in range(3):
        y = 1.0 + 0.38 * k
        shelf.block((0, y, 0), (1.2, 0.035, 0.24), OAK)
        _fill(shelf, rng, -0.58, 0.58, y + 0.018, 0.3)
    room = Room("#e7e5e0", depth=0.12)
    return Shot(shelf, room, View(-18, 4, 0.68), Lamp(35, 48, softness_m=0.04))


def _bracket_pair(rng: Random) -> Shot:
    shelf = Solids()
    for y in (1.1, 1.52):
        shelf.block((0, y, 0), (1.35, 0.04, 0.25), WALNUT)
        for x in (-0.5, 0.5):
            shelf.block((x, y - 0.12, -0.115), (0.03, 0.22, 0.012), BLACK)
            shelf.block((x, y - 0.026, 0), (0.03, 0.012, 0.23), BLACK)
            shelf.tube((x, y - 0.2, -0.11), (x, y - 0.03, 0.08), 0.009, BLACK)
        _fill(shelf, rng, -0.65, 0.65, y + 0.02, 0.34)
    room = Room("#a65f4a", wall=Wall.BRICKS, depth=0.125)
    return Shot(shelf, room, View(22, 3, 0.74), Lamp(-40, 52, softness_m=0.04), exposure=1.1)


def _cubes(rng: Random) -> Shot:
    shelf = Solids()
    for x, y, paint in (
        (-0.48, 1.3, "#efede8"),
        (0.0, 1.55, "#d9a441"),
        (0.46, 1.22, "#6f8a8f"),
        (-0.05, 1.02, "#efede8"),
    ):
        _box(shelf, x, y, 0.4, 0.4, 0.26, Material(paint), back=True)
        _fill(shelf, rng, x - 0.17, x + 0.17, y - 0.182, 0.34, -0.02)
    room = Room("#c9d2d3", depth=0.13)
    return Shot(shelf, room, View(12, 2, 0.74), Lamp(-35, 50, softness_m=0.05))


def _box(shelf: Solids, x: float, y: float, wide: float, tall: float, deep: float, paint: Material, back: bool) -> None:
    thick = 0.022
    for side in (-1, 1):
        shelf.block((x + side * (wide - thick) / 2, y, 0), (thick, tall, deep), paint)
        shelf.block((x, y + side * (tall - thick) / 2, 0), (wide - 2 * thick, thick, deep), paint)
    if back:
        shelf.block((x, y, -deep / 2 + 0.006), (wide - thick, tall - thick, 0.01), paint)


def _staircase(rng: Random) -> Shot:
    shelf = Solids()
    for k, (x, wide) in enumerate(((-0.35, 0.75), (0.1, 0.8), (0.5, 0.7), (0.85, 0.5))):
        y = 0.95 + 0.3 * k
        shelf.block((x, y, 0), (wide, 0.045, 0.22), WHITE_PAINT)
        _fill(shelf, rng, x - wide / 2 + 0.02, x + wide / 2 - (0.28 if k < 3 else 0.02), y + 0.022, 0.26)
    room = Room("#4c6270", depth=0.11)
    return Shot(shelf, room, View(-10, 1, 0.74), Lamp(30, 50, softness_m=0.04), exposure=1.1)


def _rail_system(rng: Random) -> Shot:
    shelf = Solids()
    for x in (-0.55, 0.05, 0.65):
        shelf.block((x, 1.35, -0.12), (0.025, 1.15, 0.02), BRASS)
    for left, y, wide in ((-0.6, 0.95, 1.3), (-0.6, 1.28, 0.7), (0.02, 1.45, 0.68), (-0.6, 1.68, 1.3)):
        shelf.block((left + wide / 2, y, 0), (wide, 0.025, 0.24), PALE)
        _fill(shelf, rng, left + 0.02, left + wide - 0.03, y + 0.013, 0.25)
    room = Room("#d8cfc2", wall=Wall.PLASTER, depth=0.13)
    return Shot(shelf, room, View(26, 5, 0.8), Lamp(-42, 48, softness_m=0.05))


def _bookcase(rng: Random) -> Shot:
    shelf, wide, tall, deep = Solids(), 0.85, 1.9, 0.3
    _box(shelf, 0, tall / 2 + 0.06, wide, tall, deep, OAK, back=True)
    shelf.block((0, 0.03, -0.01), (wide, 0.06, deep - 0.04), OAK)
    for k in range(5):
        y = 0.082 + k * 0.373
        if k:
            shelf.block((0, y - 0.011, 0), (wide - 0.044, 0.022, deep - 0.02), OAK)
        _fill(shelf, rng, -wide / 2 + 0.03, wide / 2 - 0.03, y, 0.34)
    around = Solids().put(props.plant(rng, 0.9), (0.85, 0, 0.05))
    room = Room("#e3ded5", "#a07c56", depth=0.16)
    return Shot(shelf, room, View(-24, 7, 0.84), Lamp(35, 46), around)


def _cube_grid(rng: Random) -> Shot:
    shelf, cell = Solids(), 0.37
    for row in range(3):
        for column in range(4):
            x, y = (column - 1.5) * cell, (row + 0.5) * cell + 0.03
            _box(shelf, x, y, cell + 0.012, cell + 0.012, 0.36, WHITE_PAINT, back=(row + column) % 3 == 0)
            if (row * 4 + column) % 5 == 2:
                color = rng.choice(("#b99a6b", "#7d8a90", "#c9b79a"))
                shelf.put(props.basket(0.31, 0.27, 0.32, color), (x, y - 0.17, 0))
            else:
                _fill(shelf, rng, x - 0.16, x + 0.16, y - 0.17, 0.31)
    shelf.put(props.vase(rng, 0.28, twigs=True), (-0.5, 3 * cell + 0.04, 0))
    room = Room("#f4f3f1", "#e2dfda", studio=True)
    return Shot(shelf, room, View(20, 12, 0.8), Lamp(-30, 56, 0.9, 0.06))


def _metal_frame(rng: Random) -> Shot:
    shelf, wide, deep, tall = Solids(), 1.1, 0.34, 1.65
    for x in (-wide / 2, wide / 2):
        for z in (-deep / 2, deep / 2):
            shelf.block((x, tall / 2, z), (0.028, tall, 0.028), BLACK)
        for y in (0.2, 0.66, 1.12, 1.58):
            shelf.block((x, y - 0.025, 0), (0.022, 0.022, deep), BLACK)
    shelf.tube((-wide / 2, 0.2, -deep / 2), (wide / 2, 1.58, -deep / 2), 0.008, BLACK)
    shelf.tube((wide / 2, 0.2, -deep / 2), (-wide / 2, 1.58, -deep / 2), 0.008, BLACK)
    for k in range(4):
        y = 0.2 + 0.46 * k
        shelf.block((0, y, 0), (wide - 0.02, 0.03, deep), WALNUT)
        _fill(shelf, rng, -wide / 2 + 0.04, wide / 2 - 0.04, y + 0.016, 0.36)
    room = Room("#b4b1ab", "#8b8883", Wall.PLASTER, Floor.CONCRETE, depth=0.3)
    return Shot(shelf, room, View(28, 9, 0.86), Lamp(-38, 50))


def _ladder(rng: Random) -> Shot:
    shelf = Solids()
    for x in (-0.36, 0.36):
        shelf.tube((x, 0, 0.26), (x, 1.85, -0.17), 0.02, PALE)
        shelf.tube((x, 0, -0.16), (x, 1.85, -0.17), 0.014, PALE)
    for k, deep in enumerate((0.40, 0.32, 0.24, 0.16)):
        y = 0.3 + 0.42 * k
        shelf.block((0, y, -0.17 + deep / 2), (0.7, 0.022, deep), PALE)
        _fill(shelf, rng, -0.32, 0.32, y + 0.012, 0.3, -0.17 + deep / 2)
    around = Solids().put(props.rug(1.6, 1.0, ("#d3c9b8", "#9aa39b"), 6), (0.1, 0, 0.75))
    room = Room("#8fa096", "#b08f68", depth=0.2)
    return Shot(shelf, room, View(-30, 8, 0.84), Lamp(32, 48), around)


def _narrow_walnut(rng: Random) -> Shot:
    shelf, wide, tall, deep = Solids(), 0.6, 1.7, 0.3
    _box(shelf, 0, tall / 2 + 0.14, wide, tall, deep, WALNUT, back=False)
    for x in (-0.24, 0.24):
        for z in (-0.11, 0.11):
            shelf.tube((x, 0.15, z), (x * 1.1, 0, z * 1.1), 0.02, WALNUT, 0.013)
    for k in range(5):
        y = 0.165 + k * 0.335
        if k:
            shelf.block((0, y - 0.011, 0), (wide - 0.044, 0.022, deep), WALNUT)
        _fill(shelf, rng, -wide / 2 + 0.03, wide / 2 - 0.03, y, 0.3)
    room = Room("#f7f6f4", "#e6e3df", studio=True)
    return Shot(shelf, room, View(-14, 10, 0.86), Lamp(30, 55, 0.9, 0.06))
