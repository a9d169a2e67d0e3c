"""Ten tables: five to dine at, five for coffee."""

from __future__ import annotations

import math
from random import Random

from imagekin.demo import props
from imagekin.demo.cameras import View
from imagekin.demo.lighting import Lamp
from imagekin.demo.props import BLACK, BRASS, DARK, OAK, PALE, WALNUT
from imagekin.demo.rendering import Shot
from imagekin.demo.rooms import Floor, Room, Wall
from imagekin.demo.solids import Finish, Material, Solids

WHITE_PAINT = Material("#efece6")
MARBLE = Material("#e4e1dd", Finish.GLAZE)
DINING_HEIGHT, COFFEE_HEIGHT = 0.74, 0.40


def dining(number: int, rng: Random) -> Shot:
    """Set up dining table 1 to 5."""
    return (_oak_family, _round_white, _black_trestle, _farmhouse, _walnut_pendants)[number - 1](rng)


def coffee(number: int, rng: Random) -> Shot:
    """Set up coffee table 1 to 5."""
    return (_oak_with_shelf, _round_tripod, _marble_brass, _nest_of_two, _dark_chest)[number - 1](rng)


def _tapered_legs(top: Solids, width: float, deep: float, tall: float, wood: Material, thick: float = 0.034) -> Solids:
    for x in (-1, 1):
        for z in (-1, 1):
            start = (x * (width / 2 - 0.09), tall, z * (deep / 2 - 0.09))
            top.tube(start, (x * (width / 2 - 0.04), 0, z * (deep / 2 - 0.04)), thick, wood, thick * 0.55)
    return top


def _square_legs(top: Solids, width: float, deep: float, tall: float, material: Material, thick: float) -> Solids:
    for x in (-1, 1):
        for z in (-1, 1):
            at = (x * (width - thick) / 2, tall / 2, z * (deep - thick) / 2)
            top.block(at, (thick, tall, thick), material)
    return top


def _wooden_chair(wood: Material, seat: Material | None = None) -> Solids:
    """Build a chair that looks towards -z."""
    chair = Solids().cushion((0, 0.45, 0), (0.43, 0.035, 0.42), seat or wood, 0.02)
    for x in (-0.17, 0.17):
        chair.tube((x, 0.44, -0.17), (x * 1.1, 0, -0.19), 0.018, wood, 0.013)
        chair.tube((x, 0.44, 0.17), (x * 1.1, 0, 0.2), 0.018, wood, 0.013)
        chair.tube((x, 0.44, 0.18), (x, 0.84, 0.25), 0.017, wood)
    for y, z in ((0.80, 0.245), (0.70, 0.228), (0.60, 0.21)):
        chair.block((0, y, z), (0.36, 0.06, 0.018), wood)
    return chair


def _shell_chair(shell: Material, legs: Material) -> Solids:
    """Build a padded chair that looks towards -z."""
    chair = Solids().cushion((0, 0.45, 0), (0.46, 0.07, 0.44), shell, 0.035)
    chair.cushion((0, 0.66, 0.21), (0.44, 0.4, 0.06), shell, 0.03, tilt_deg=10)
    for x in (-0.17, 0.17):
        for z in (-0.15, 0.15):
            chair.tube((x, 0.43, z), (x * 1.3, 0, z * 1.3), 0.014, legs, 0.01)
    return chair


def _place_settings(table: Solids, rng: Random, spots: list[tuple[float, float]], high: float) -> None:
    glaze = Material(rng.choice(("#ece8e0", "#9fb0b4", "#d7c7ae")), Finish.GLAZE)
    for x, z in spots:
        table.put(props.plate(glaze), (x, high, z))
        table.put(props.mug(glaze), (x + 0.17, high, z * 0.6))


def _oak_family(rng: Random) -> Shot:
    high = DINING_HEIGHT
    table = Solids().block((0, high - 0.02, 0), (1.7, 0.04, 0.9), OAK).block((0, high - 0.08, 0), (1.5, 0.08, 0.7), OAK)
    _tapered_legs(table, 1.6, 0.8, high - 0.04, OAK)
    table.put(props.vase(rng, 0.22, twigs=True), (0.05, high, 0))
    _place_settings(table, rng, [(-0.42, 0.26), (0.42, 0.26), (-0.42, -0.26), (0.42, -0.26)], high)
    for x in (-0.42, 0.42):
        table.put(_wooden_chair(OAK), (x, 0, 0.55))
        table.put(_wooden_chair(OAK), (x, 0, -0.55), 180)
    around = Solids().put(props.window(1.3, 1.2, Material("#dcd6c8", Finish.FABRIC)), (-0.9, 1.55, -1.78))
    room = Room("#dfe3df", "#a8835c", floor=Floor.PLANKS, depth=1.8)
    return Shot(table, room, View(28, 17, 0.78), Lamp(-40, 46), around)


def _round_white(rng: Random) -> Shot:
    high = DINING_HEIGHT
    table = Solids().turned((0, high - 0.03, 0), [(0.58, 0), (0.6, 0.03)], WHITE_PAINT, sides=56)
    foot = [(0.3, 0), (0.28, 0.02), (0.07, 0.07), (0.045, 0.3), (0.05, 0.6), (0.16, high - 0.03)]
    table.turned((0, 0, 0), foot, WHITE_PAINT)
    table.put(props.bowl(0.16, Material("#7e9aa0", Finish.GLAZE), fruit=True), (0.05, high, 0))
    shell, legs = Material("#7f8f7a", Finish.FABRIC), PALE
    for turn in (35, 125, 215, 305):
        a = math.radians(turn)
        table.put(_shell_chair(shell, legs), (math.sin(a) * 0.68, 0, math.cos(a) * 0.68), turn)
    room = Room("#f3f2ef", "#dedbd5", studio=True)
    return Shot(table, room, View(8, 24, 0.7), Lamp(-30, 58, 0.9, 0.1))


def _black_trestle(rng: Random) -> Shot:
    high = DINING_HEIGHT
    table = Solids().block((0, high - 0.02, 0), (1.9, 0.04, 0.85), PALE)
    for x in (-0.62, 0.62):
        for z in (-1, 1):
            table.tube((x, high - 0.05, z * 0.08), (x, 0, z * 0.36), 0.024, BLACK)
        table.tube((x, 0.28, -0.25), (x, 0.28, 0.25), 0.018, BLACK)
        table.block((x, high - 0.055, 0), (0.06, 0.03, 0.6), BLACK)
    table.tube((-0.62, 0.28, 0), (0.62, 0.28, 0), 0.016, BLACK)
    table.put(props.vase(rng, 0.26), (-0.3, high, 0.05)).put(props.bowl(0.14), (0.2, high, 0))
    room = Room("#fafaf9", "#efeeec", studio=True)
    return Shot(table, room, View(-32, 14, 0.76), Lamp(25, 60, 0.85, 0.08))


def _farmhouse(rng: Random) -> Shot:
    high = DINING_HEIGHT
    wood = Material("#9c7048", Finish.WOOD)
    table = Solids()
    for k in range(5):
        table.block((0, high - 0.03, -0.38 + 0.19 * k), (2.0, 0.06, 0.186), wood)
    leg = [(0.05, 0), (0.05, 0.04), (0.032, 0.08), (0.055, 0.22), (0.036, 0.4), (0.06, 0.5), (0.06, high - 0.06)]
    for x in (-0.86, 0.86):
        for z in (-0.36, 0.36):
            table.turned((x, 0, z), leg, WHITE_PAINT, sides=18)
    table.block((0, high - 0.1, 0), (1.8, 0.09, 0.78), WHITE_PAINT)
    for z in (-0.72, 0.72):
        table.block((0, 0.44, z), (1.6, 0.05, 0.32), wood)
        for x in (-0.68, 0.68):
            table.block((x, 0.21, z), (0.07, 0.42, 0.24), WHITE_PAINT)
    table.put(props.bowl(0.17, Material("#a07a4e", Finish.WOOD), fruit=True), (0, high, 0))
    _place_settings(table, rng, [(-0.6, 0.27), (0.0, 0.29), (0.6, 0.27), (-0.6, -0.27), (0.6, -0.27)], high)
    around = Solids().put(props.picture(rng, 0.6, 0.45), (0.5, 1.65, -1.58))
    room = Room("#cfc4b2", "#8d8a84", Wall.PANELS, Floor.TILES, depth=1.6)
    return Shot(table, room, View(-22, 24, 0.78), Lamp(40, 52), around)


def _walnut_pendants(rng: Random) -> Shot:
    high = DINING_HEIGHT
    table = Solids().turned((0, high - 0.035, 0), [(0.92, 0), (0.95, 0.035)], WALNUT, sides=56, stretch=(1.0, 0.5))
    for side in (-1, 1):
        table.block((side * 0.5, (high - 0.03) / 2, 0), (0.06, high - 0.03, 0.5), WALNUT)
        table.block((side * 0.5, 0.025, 0), (0.09, 0.05, 0.62), WALNUT)
    table.block((0, 0.3, 0), (1.0, 0.1, 0.03), WALNUT)
    seat = Material("#b7793f", Finish.LEATHER)
    for x in (-0.45, 0.45):
        table.put(_shell_chair(seat, BLACK), (x, 0, 0.62), rng.uniform(-8, 8))
        table.put(_shell_chair(seat, BLACK), (x, 0, -0.62), 180)
    for x in (-1.05, 1.05):
        table.put(_shell_chair(seat, BLACK), (x, 0, 0), 90 if x > 0 else 270)
    table.put(props.vase(rng, 0.2, twigs=True), (0, high, 0))
    around = Solids()
    for x in (-0.42, 0.42):
        around.put(props.pendant(1.0, 0.19, BLACK), (x, 1.42, 0))
    room = Room("#5d6b6a", "#8a6647", floor=Floor.HERRINGBONE, depth=1.7)
    return Shot(table, room, View(3, 11, 0.78, shift=(0, -0.06)), Lamp(-20, 62), around, 1.1)


def _oak_with_shelf(rng: Random) -> Shot:
    high = COFFEE_HEIGHT
    table = Solids().cushion((0, high - 0.015, 0), (1.1, 0.03, 0.6), OAK, 0.012)
    table.block((0, 0.15, 0), (0.98, 0.02, 0.48), OAK)
    _tapered_legs(table, 1.1, 0.6, high - 0.02, OAK, 0.024)
    table.put(props.stack(rng, 4, 0.26), (-0.25, high, 0.03)).put(props.mug(), (0.12, high, 0.14))
    table.put(props.small_plant(rng, 0.2), (0.32, high, -0.06)).put(props.stack(rng, 3, 0.28), (0.15, 0.16, 0))
    around = Solids().put(props.rug(2.1, 1.4, ("#cfc6b8", "#8c8f94")), (0, 0, 0))
    room = Room("#e2ddd3", "#9a7650", depth=1.3)
    return Shot(table, room, View(24, 22, 0.72), Lamp(-45, 48), around)


def _round_tripod(rng: Random) -> Shot:
    high = COFFEE_HEIGHT
    table = Solids().turned((0, high - 0.03, 0), [(0.42, 0), (0.44, 0.015), (0.42, 0.03)], WALNUT, sides=56)
    for turn in (20, 140, 260):
        a = math.radians(turn)
        start = (math.sin(a) * 0.24, high - 0.03, math.cos(a) * 0.24)
        table.tube(start, (math.sin(a) * 0.38, 0, math.cos(a) * 0.38), 0.026, WALNUT, 0.014)
    table.put(props.vase(rng, 0.17, twigs=True), (-0.1, high, -0.08)).put(props.mug(), (0.16, high, 0.1))
    room = Room("#f5f4f2", "#e3e1dd", studio=True)
    return Shot(table, room, View(12, 20, 0.64), Lamp(-30, 58, 0.9, 0.06))


def _marble_brass(rng: Random) -> Shot:
    high = COFFEE_HEIGHT
    table = Solids().block((0, high - 0.0125, 0), (1.15, 0.025, 0.62), MARBLE)
    _square_legs(table, 1.1, 0.57, high - 0.025, BRASS, 0.025)
    for z in (-0.2725, 0.2725):
        table.block((0, 0.0125, z), (1.1, 0.025, 0.025), BRASS)
    for x in (-0.5375, 0.5375):
        table.block((x, 0.0125, 0), (0.025, 0.025, 0.55), BRASS)
    table.put(props.bowl(0.13, BRASS), (0.28, high, 0)).put(props.stack(rng, 3, 0.3), (-0.2, high, 0.02), 12)
    table.put(props.vase(rng, 0.09), (-0.18, high + 0.08, 0))
    around = Solids().put(props.round_rug(1.0, "#c8b9a6", "#a08c78"), (0, 0, 0))
    room = Room("#7f8a8c", "#b7a48c", Wall.PANELS, Floor.CARPET, depth=1.2)
    return Shot(table, room, View(-26, 18, 0.74), Lamp(35, 50), around)


def _nest_of_two(rng: Random) -> Shot:
    table = Solids()
    for x, z, radius, high, top in ((-0.16, -0.05, 0.4, 0.42, PALE), (0.34, 0.2, 0.28, 0.32, WHITE_PAINT)):
        rim = [(radius, 0), (radius, 0.022)]
        table.turned((x, high - 0.022, z), rim, top, sides=48)
        for k in range(4):
            a = math.pi / 4 + k * math.pi / 2
            foot = (x + math.cos(a) * radius * 0.86, 0.0, z + math.sin(a) * radius * 0.86)
            table.tube((foot[0], high - 0.022, foot[2]), foot, 0.011, BLACK)
        for k in range(24):
            a, b = (2 * math.pi * (k + step) / 24 for step in (0, 1))
            start = (x + math.cos(a) * radius * 0.86, 0.012, z + math.sin(a) * radius * 0.86)
            table.tube(start, (x + math.cos(b) * radius * 0.86, 0.012, z + math.sin(b) * radius * 0.86), 0.01, BLACK)
    table.put(props.mug(Material("#5f7f86", Finish.GLAZE)), (0.38, 0.32, 0.22))
    table.put(props.vase(rng, 0.2), (-0.28, 0.42, -0.1)).put(props.stack(rng, 2, 0.22), (-0.02, 0.42, 0.06), 30)
    room = Room("#eceae6", "#d8d4cd", studio=True)
    return Shot(table, room, View(-6, 26, 0.68), Lamp(30, 56, 0.9, 0.08))


def _dark_chest(rng: Random) -> Shot:
    high = COFFEE_HEIGHT
    table = Solids().block((0, high - 0.02, 0), (1.2, 0.04, 0.66), DARK)
    _square_legs(table, 1.16, 0.62, high - 0.04, DARK, 0.06)
    table.block((0, high - 0.11, 0), (1.06, 0.14, 0.54), DARK)
    for x in (-0.27, 0.27):
        table.block((x, high - 0.11, 0.272), (0.5, 0.115, 0.012), Material("#573c2d", Finish.WOOD))
        table.cushion((x, high - 0.11, 0.288), (0.07, 0.016, 0.02), BRASS, 0.008)
    table.put(props.bowl(0.15, props.CLAY, fruit=True), (0.3, high, 0)).put(props.stack(rng, 3), (-0.3, high, 0.06))
    around = Solids().put(props.rug(2.3, 1.5, ("#a9584a", "#d9c7a3"), 0), (0, 0, 0))
    around.put(props.plant(rng, 0.95), (-1.0, 0, -0.75))
    room = Room("#d3cdbf", "#7d5f45", depth=1.2)
    return Shot(table, room, View(4, 16, 0.72), Lamp(-30, 50), around)
