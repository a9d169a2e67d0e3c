"""What stands, lies and hangs around furniture: books, vases, plants, lamps, rugs, windows, pictures."""

from __future__ import annotations

import math
from random import Random

from imagekin.demo.solids import Finish, Material, Point, Solids

CLAY = Material("#b5674a", Finish.PAINT)
WHITE = Material("#ece8e0", Finish.GLAZE)
BLACK = Material("#26262a", Finish.METAL)
BRASS = Material("#b08d4a", Finish.METAL)
STEEL = Material("#9a9da1", Finish.METAL)
LEAF = Material("#4f7a45", Finish.PAINT)
GLOW = Material("#fff0cf", Finish.GLOW)
DAYLIGHT = Material("#dfeaf2", Finish.GLOW)
OAK = Material("#c49a66", Finish.WOOD)
PALE = Material("#d9bf95", Finish.WOOD)
WALNUT = Material("#7a5236", Finish.WOOD)
DARK = Material("#4a3226", Finish.WOOD)
LINEN = Material("#d8cfc0", Finish.FABRIC)
SPINES = ("#8c3b3b", "#33506b", "#d9cdb4", "#3f6152", "#c08a3e", "#5a4a66", "#b9b4aa", "#27303a", "#a85f45", "#7d8f96")


def books(rng: Random, width: float, tallest: float = 0.26, depth: float = 0.17) -> Solids:
    """Stand a row of books on y = 0, from x = 0 to about `width`, backs towards z."""
    row, x = Solids(), 0.0
    while x < width:
        thick, tall = rng.uniform(0.018, 0.045), tallest * rng.uniform(0.74, 1.0)
        deep = depth * rng.uniform(0.85, 1.0)
        row.block(
            (x + thick / 2, tall / 2, (deep - depth) / 2), (thick * 0.94, tall, deep), Material(rng.choice(SPINES))
        )
        x += thick
    return row


def stack(rng: Random, count: int = 4, size: float = 0.24) -> Solids:
    """Lay books or magazines on each other."""
    pile, y = Solids(), 0.0
    for _ in range(count):
        thick = rng.uniform(0.015, 0.035)
        turn = rng.uniform(-14, 14)
        pile.block((0, y + thick / 2, 0), (size, thick * 0.95, size * 0.72), Material(rng.choice(SPINES)), turn)
        y += thick
    return pile


def vase(rng: Random, tall: float = 0.25, twigs: bool = False) -> Solids:
    """Turn a vase in one of three shapes, with or without twigs."""
    color = Material(rng.choice(("#e6e0d4", "#5f7f86", "#b5674a", "#3a4048", "#c9a35a", "#8fa08a")), Finish.GLAZE)
    w = tall * rng.uniform(0.28, 0.4)
    shapes = (
        ((0.5, 0), (0.9, 0.2), (1.0, 0.42), (0.75, 0.68), (0.35, 0.84), (0.42, 1.0)),
        ((0.6, 0), (0.62, 0.1), (0.75, 0.55), (0.95, 0.9), (0.9, 1.0)),
        ((0.55, 0), (0.85, 0.14), (0.95, 0.3), (0.8, 0.5), (0.3, 0.62), (0.26, 0.95), (0.34, 1.0)),
    )
    body = Solids().turned((0, 0, 0), [(r * w, y * tall) for r, y in rng.choice(shapes)], color, sides=22)
    if twigs:
        for _ in range(9):
            a, lean = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.4)
            tip = (math.cos(a) * lean * tall, tall * rng.uniform(1.6, 2.2), math.sin(a) * lean * tall)
            body.tube((0, tall * 0.9, 0), tip, 0.004, Material("#6b5a3c"))
            _twig_leaves(body, rng, tip, tall)
    return body


def _twig_leaves(body: Solids, rng: Random, tip: Point, tall: float) -> None:
    green = Material(rng.choice(("#6f8f5a", "#8a9a6a", "#5d7d55", "#b58a4a")))
    for k in range(4):
        share, a = 1 - 0.14 * k, rng.uniform(0, 2 * math.pi)
        root = (tip[0] * share, tall * 0.9 + (tip[1] - tall * 0.9) * share, tip[2] * share)
        end = (root[0] + 0.06 * math.cos(a), root[1] + rng.uniform(0.0, 0.04), root[2] + 0.06 * math.sin(a))
        body.leaf(root, end, 0.03, green)


def plant(rng: Random, tall: float = 0.9, pot: Material = CLAY) -> Solids:
    """Pot a plant with arching leaves; `tall` counts from the ground."""
    high = tall * 0.28
    width = high * 0.55
    body = Solids().turned((0, 0, 0), [(width * 0.72, 0), (width, high), (width * 0.86, high)], pot)
    body.turned((0, high * 0.9, 0), [(width * 0.86, 0), (width * 0.86, 0.005)], Material("#3d2e24"))
    for k in range(26):
        a, lift = k * 2.4 + rng.uniform(-0.3, 0.3), rng.uniform(0.35, 1.0)
        reach = tall * rng.uniform(0.12, 0.3) * (1.25 - 0.6 * lift)
        stem = (math.cos(a) * reach * 0.45, high + (tall - high) * lift * 0.62, math.sin(a) * reach * 0.45)
        tip = (math.cos(a) * reach * 1.5, high + (tall - high) * lift, math.sin(a) * reach * 1.5)
        body.tube((0, high * 0.9, 0), stem, 0.005, LEAF)
        body.leaf(stem, tip, tall * rng.uniform(0.09, 0.14), Material(rng.choice(("#4f7a45", "#41693c", "#628c50"))))
    return body


def small_plant(rng: Random, tall: float = 0.22) -> Solids:
    """Pot a small hanging plant."""
    high = tall * 0.42
    pot = Material(rng.choice(("#ece8e0", "#b5674a", "#3f464d", "#d2b48c")), Finish.GLAZE)
    body = Solids().turned((0, 0, 0), [(high * 0.42, 0), (high * 0.56, high)], pot, sides=20)
    for k in range(22):
        a, up = k * 2.4, rng.uniform(-0.1, 1.0)
        root = (math.cos(a) * high * 0.3, high, math.sin(a) * high * 0.3)
        tip = (math.cos(a) * tall * 0.45, high + (tall - high) * up, math.sin(a) * tall * 0.45)
        body.leaf(root, tip, tall * 0.16, Material(rng.choice(("#4f7a45", "#5f8c4c", "#76995a"))))
    return body


def bowl(radius: float = 0.15, material: Material = WHITE, fruit: bool = False) -> Solids:
    """Turn a bowl, with or without fruit."""
    profile = [(radius * 0.4, 0), (radius * 0.8, radius * 0.2), (radius, radius * 0.5), (radius * 0.94, radius * 0.5)]
    body = Solids().turned((0, 0, 0), profile, material)
    if fruit:
        for k, color in enumerate(("#c0532f", "#d9a03a", "#a8ad3c", "#c4452f", "#d98e2e")):
            a = k * 1.26
            at = (math.cos(a) * radius * 0.5, radius * 0.55, math.sin(a) * radius * 0.5)
            body.turned(at, _ball(radius * 0.3), Material(color, Finish.LEATHER), sides=18)
    return body


def _ball(radius: float) -> list[tuple[float, float]]:
    turns = [math.pi * (k / 8 - 0.5) for k in range(9)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in turns]


def mug(material: Material = WHITE) -> Solids:
    """Turn a cup."""
    return Solids().turned((0, 0, 0), [(0.032, 0), (0.042, 0.02), (0.042, 0.085), (0.036, 0.085)], material, sides=18)


def plate(material: Material = WHITE) -> Solids:
    """Turn a plate."""
    return Solids().turned((0, 0, 0), [(0.08, 0), (0.135, 0.018), (0.125, 0.02), (0.08, 0.008)], material)


def basket(width: float, tall: float, deep: float, color: str = "#b99a6b") -> Solids:
    """Weave a box."""
    weave = Material(color, Finish.FABRIC)
    box = Solids().block((0, tall / 2, 0), (width, tall, deep), weave)
    for k in range(1, 6):
        box.cushion((0, tall * k / 5 - 0.012, 0), (width + 0.012, 0.02, deep + 0.012), weave, 0.009)
    box.block((0, tall, 0), (width - 0.03, 0.004, deep - 0.03), Material("#4a3f33"))
    return box.block((0, tall * 0.7, deep / 2 + 0.004), (width * 0.3, tall * 0.12, 0.008), Material("#4a3f33"))


def picture(rng: Random, width: float, tall: float, frame: Material = BLACK) -> Solids:
    """Frame an abstract picture, its middle at the origin, its face towards z."""
    art = Solids().block((0, 0, 0), (width, tall, 0.025), frame)
    art.block((0, 0, 0.012), (width - 0.04, tall - 0.04, 0.008), Material("#f2efe8"))
    for _ in range(5):
        w, h = width * rng.uniform(0.15, 0.45), tall * rng.uniform(0.1, 0.4)
        x, y = rng.uniform(-0.5, 0.5) * (width * 0.75 - w), rng.uniform(-0.5, 0.5) * (tall * 0.75 - h)
        art.block((x, y, 0.017), (w, h, 0.002 + 0.001 * rng.random()), Material(rng.choice(SPINES)))
    return art


def floor_lamp(tall: float = 1.55, shade: Material = GLOW, metal: Material = BLACK) -> Solids:
    """Build a lamp on a foot."""
    body = Solids().turned((0, 0, 0), [(0.14, 0), (0.14, 0.02)], metal)
    body.tube((0, 0, 0), (0, tall - 0.1, 0), 0.012, metal)
    return body.turned((0, tall - 0.28, 0), [(0.2, 0), (0.14, 0.28)], shade)


def pendant(tall: float, width: float, shade: Material) -> Solids:
    """Hang a lamp: its rim at the origin, its cord `tall` above."""
    profile = [(width, 0), (width * 0.9, width * 0.35), (width * 0.45, width * 0.75), (width * 0.12, width * 0.9)]
    body = Solids().turned((0, 0, 0), profile, shade)
    body.turned((0, -0.004, 0), [(width * 0.92, 0), (width * 0.92, 0.003)], GLOW)
    return body.tube((0, width * 0.9, 0), (0, tall, 0), 0.006, BLACK)


def rug(width: float, deep: float, colors: tuple[str, str], stripes: int = 0) -> Solids:
    """Lay a rug with a border or with stripes."""
    base, mark = (Material(color, Finish.FABRIC) for color in colors)
    cloth = Solids().block((0, 0.006, 0), (width, 0.012, deep), base)
    if not stripes:
        cloth.block((0, 0.0075, 0), (width * 0.9, 0.012, deep * 0.86), mark)
        return cloth.block((0, 0.009, 0), (width * 0.86, 0.012, deep * 0.8), base)
    for k in range(stripes):
        x = (k + 0.5) / stripes - 0.5
        cloth.block((x * width, 0.0075, 0), (width / stripes * 0.45, 0.012, deep * 0.995), mark)
    return cloth


def round_rug(radius: float, color: str, ring: str) -> Solids:
    """Lay a round rug."""
    cloth = Solids()
    for step, (share, shade) in enumerate(((1.0, ring), (0.92, color), (0.6, ring), (0.56, color))):
        high = 0.010 + 0.002 * step
        cloth.turned((0, 0, 0), [(radius * share, 0), (radius * share, high)], Material(shade, Finish.FABRIC), sides=48)
    return cloth


def window(width: float, tall: float, curtain: Material | None = None) -> Solids:
    """Set a window, its middle at the origin, its face towards z, with or without curtains."""
    frame = Material("#f4f2ee")
    pane = Solids().block((0, 0, 0), (width, tall, 0.02), DAYLIGHT)
    pane.block((0, -tall * 0.36, 0.004), (width, tall * 0.26, 0.02), Material("#b9cdb0", Finish.GLOW))
    for x in (-0.5, 0, 0.5):
        pane.block((x * width, 0, 0.01), (0.05, tall + 0.05, 0.05), frame)
    for y in (-0.5, 0.12, 0.5):
        pane.block((0, y * tall, 0.01), (width + 0.05, 0.05, 0.05), frame)
    pane.block((0, -tall / 2 - 0.03, 0.05), (width + 0.16, 0.03, 0.14), frame)
    if curtain:
        pane.tube((-width * 0.8, tall * 0.62, 0.09), (width * 0.8, tall * 0.62, 0.09), 0.012, BLACK)
        for side in (-1, 1):
            for k in range(6):
                x = side * (width * 0.5 + 0.055 * k - 0.04)
                pane.tube((x, -tall * 0.95, 0.09), (x, tall * 0.61, 0.09), 0.036, curtain)
    return pane


def clock(radius: float = 0.16) -> Solids:
    """Hang a clock, its middle at the origin."""
    face = Solids().turned((0, 0, 0), [(radius, 0), (radius, 0.03)], BLACK, sides=36)
    face.turned((0, 0.03, 0), [(radius * 0.92, 0), (radius * 0.92, 0.004)], WHITE, sides=36)
    face.block((0, 0.036, -radius * 0.3), (0.012, 0.004, radius * 0.6), BLACK)
    face.block((radius * 0.22, 0.036, 0), (radius * 0.44, 0.004, 0.014), BLACK)
    return Solids().put(face, tilt_deg=90)
