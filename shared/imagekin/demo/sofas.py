"""Ten sofas: five alone on a plain background, five in a room."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from imagekin.demo import props
from imagekin.demo.cameras import View
from imagekin.demo.lighting import Lamp
from imagekin.demo.props import BLACK, BRASS, DARK, OAK, PALE, WALNUT
from imagekin.demo.rendering import Shot
from imagekin.demo.rooms import Floor, Room, Wall
from imagekin.demo.solids import Finish, Material, Solids


@dataclass(frozen=True)
class Sofa:
    """How a sofa is built, in metres; `arm` is square, rolled, slim or none, `chaise` left, right or none."""

    cover: Material
    width: float = 2.0
    seats: int = 3
    arm: str = "square"
    legs: Material = OAK
    leg_height: float = 0.13
    back_height: float = 0.80
    chaise: str = "none"
    tufted: bool = False
    pillows: tuple[str, ...] = ()

    def build(self, rng: Random) -> Solids:
        """Put it together, its middle at the origin, its face towards z."""
        sofa, deep, base = Solids(), 0.88, self.leg_height
        arm = {"square": 0.18, "rolled": 0.22, "slim": 0.09, "none": 0.0}[self.arm]
        inner = self.width - 2 * arm
        sofa.cushion((0, base + 0.1, 0), (self.width, 0.2, deep), self.cover, 0.03)
        sofa.cushion((0, (base + self.back_height) / 2, -deep / 2 + 0.09), self._back_size(), self.cover, 0.06)
        seat_width = inner / self.seats
        for k in range(self.seats):
            x = -inner / 2 + seat_width * (k + 0.5)
            sofa.cushion((x, base + 0.27, 0.07), (seat_width * 0.985, 0.17, deep - 0.16), self.cover, 0.055, 0.14)
            self._back_cushion(sofa, x, seat_width, rng)
        if self.chaise != "none":
            x = (1 if self.chaise == "right" else -1) * (inner / 2 - seat_width / 2)
            sofa.cushion((x, base + 0.1, 0.72), (seat_width, 0.2, 0.7), self.cover, 0.03)
            sofa.cushion((x, base + 0.27, 0.74), (seat_width * 0.985, 0.17, 0.7), self.cover, 0.055, 0.14)
        for side in (-1, 1):
            self._arm(sofa, side * (self.width - arm) / 2, arm, deep)
        self._legs(sofa, deep)
        self._pillows(sofa, inner, rng)
        return sofa

    def _back_size(self) -> tuple[float, float, float]:
        return self.width, self.back_height - self.leg_height, 0.18

    def _back_cushion(self, sofa: Solids, x: float, width: float, rng: Random) -> None:
        tall = self.back_height - self.leg_height - 0.27
        y, z = self.leg_height + 0.36 + tall / 2, -0.2
        sofa.cushion((x, y, z), (width * 0.97, tall, 0.2), self.cover, 0.07, 0.25, tilt_deg=-9)
        if self.tufted:
            for row in range(2):
                for column in range(3):
                    at = (x + (column - 1) * width * 0.29, y - 0.1 + 0.17 * row, z + 0.115)
                    sofa.tube(at, (at[0], at[1], at[2] + 0.012), 0.016, _darker(self.cover), 0.008)

    def _arm(self, sofa: Solids, x: float, arm: float, deep: float) -> None:
        base = self.leg_height
        if self.arm == "rolled":
            sofa.cushion((x, base + 0.22, 0.0), (arm * 0.85, 0.44, deep), self.cover, 0.04)
            sofa.tube((x, base + 0.47, -deep / 2 + 0.02), (x, base + 0.47, deep / 2 + 0.01), 0.125, self.cover)
            sofa.tube((x, base + 0.47, deep / 2), (x, base + 0.47, deep / 2 + 0.02), 0.085, _darker(self.cover))
        elif arm:
            high = 0.46 if self.arm == "square" else 0.52
            sofa.cushion((x, base + high / 2, 0), (arm, high, deep), self.cover, min(0.05, arm * 0.45))

    def _legs(self, sofa: Solids, deep: float) -> None:
        for x in (-self.width / 2 + 0.12, self.width / 2 - 0.12):
            for z in (-deep / 2 + 0.1, deep / 2 - 0.1):
                sofa.tube((x, self.leg_height + 0.02, z), (x * 1.02, 0, z * 1.06), 0.028, self.legs, 0.016)
        if self.chaise != "none":
            side = 1 if self.chaise == "right" else -1
            for x in (self.width / 2 - 0.3, self.width / 2 - 0.75):
                sofa.tube((side * x, self.leg_height + 0.02, 1.0), (side * x, 0, 1.02), 0.028, self.legs, 0.016)

    def _pillows(self, sofa: Solids, inner: float, rng: Random) -> None:
        for k, color in enumerate(self.pillows):
            side = -1 if k % 2 else 1
            x = side * (inner / 2 - 0.22 - 0.26 * (k // 2))
            y, z = self.leg_height + 0.55, 0.0 + 0.05 * (k // 2)
            pillow = Solids().cushion((0, 0, 0), (0.42, 0.42, 0.13), Material(color, Finish.FABRIC), 0.06, 0.5)
            sofa.put(pillow, (x, y, z), -side * rng.uniform(8, 22), -18)


def alone(number: int, rng: Random) -> Shot:
    """Set up the sofa alone, 1 to 5."""
    sofas = (
        Sofa(Material("#8b9197", Finish.FABRIC), 2.1, 3, "square", OAK),
        Sofa(Material("#2f6f73", Finish.FABRIC), 1.7, 2, "slim", BRASS, 0.17, pillows=("#d9b25a",)),
        Sofa(Material("#8a5330", Finish.LEATHER), 2.1, 3, "rolled", DARK, 0.09, 0.78, tufted=True),
        Sofa(Material("#cfc6b6", Finish.FABRIC), 2.5, 3, "square", PALE, 0.09, chaise="right", pillows=("#8d6b58",)),
        Sofa(Material("#c58a2e", Finish.FABRIC), 1.6, 2, "slim", WALNUT, 0.19, 0.84, tufted=True),
    )
    studios = (("#f6f5f3", "#e6e4e1"), ("#fafaf9", "#eeedeb"), ("#efece7", "#dcd7cf"), ("#f7f7f6", "#e3e2e0"))
    views = (View(-24, 12, 0.8), View(3, 9, 0.74), View(20, 15, 0.8), View(-14, 24, 0.78), View(32, 13, 0.72))
    lamps = (Lamp(-40, 55, 0.9, 0.08), Lamp(15, 60, 0.8, 0.1), Lamp(-25, 50, 1.0, 0.07), Lamp(30, 58, 0.9, 0.1))
    wall, floor = (*studios, ("#e9ebec", "#d3d6d8"))[number - 1]
    lamp = (*lamps, Lamp(-35, 62, 0.9, 0.08))[number - 1]
    return Shot(sofas[number - 1].build(rng), Room(wall, floor, studio=True), views[number - 1], lamp)


def in_room(number: int, rng: Random) -> Shot:
    """Set up the sofa in a room, 1 to 5."""
    return (_gray_living, _green_wall, _loft, _bright_corner, _evening)[number - 1](rng)


def _gray_living(rng: Random) -> Shot:
    cover = Material("#a7a39b", Finish.FABRIC)
    sofa = Sofa(cover, 2.1, 3, "square", OAK, pillows=("#c9694b", "#e2d9c8", "#55707a")).build(rng)
    around = Solids().put(props.rug(2.9, 1.7, ("#d5cdbd", "#7f8a93"), 9), (0, 0, 0.75))
    around.put(props.floor_lamp(), (1.42, 0, -0.25)).put(props.plant(rng, 1.15), (-1.45, 0, -0.3))
    around.put(props.picture(rng, 0.75, 0.55), (-0.42, 1.5, -0.68)).put(
        props.picture(rng, 0.45, 0.55), (0.42, 1.5, -0.68)
    )
    return Shot(sofa, Room("#dcd9d2", "#a5805a", depth=0.7), View(-8, 11, 0.6, shift=(0, -0.03)), Lamp(35, 48), around)


def _green_wall(rng: Random) -> Shot:
    sofa = Sofa(Material("#b87a6e", Finish.FABRIC), 1.8, 2, "slim", BRASS, 0.17, pillows=("#e6d6c4", "#7b4a44")).build(
        rng
    )
    around = Solids().put(props.round_rug(1.25, "#d8cdb9", "#b39b7c"), (0.1, 0, 0.7))
    around.put(props.clock(0.2), (0.75, 1.55, -0.73)).put(props.plant(rng, 0.85, props.WHITE), (1.3, 0, -0.2))
    side = Solids().turned((0, 0.5, 0), [(0.22, 0), (0.22, 0.02)], BRASS).tube((0, 0, 0), (0, 0.5, 0), 0.012, BRASS)
    side.turned((0, 0, 0), [(0.16, 0), (0.16, 0.012)], BRASS).put(props.vase(rng, 0.2), (0, 0.52, 0))
    around.put(side, (-1.25, 0, 0.0))
    room = Room("#54695c", "#9b7450", Wall.PANELS, Floor.HERRINGBONE, depth=0.75)
    return Shot(sofa, room, View(14, 12, 0.56, shift=(0, -0.03)), Lamp(-38, 46), around, 1.1)


def _loft(rng: Random) -> Shot:
    sofa = Sofa(
        Material("#6d3f27", Finish.LEATHER), 2.2, 3, "rolled", DARK, 0.1, tufted=True, pillows=("#cbbca3",)
    ).build(rng)
    around = Solids().put(props.rug(2.8, 1.6, ("#7c4038", "#c9b08a")), (0, 0, 0.8))
    around.put(props.floor_lamp(1.7, Material("#2b2b2e", Finish.METAL)), (-1.5, 0, -0.2))
    around.put(props.picture(rng, 1.3, 0.7), (0.1, 1.5, -0.73))
    around.put(props.plant(rng, 1.3, Material("#55585c")), (1.6, 0, -0.25))
    room = Room("#a2604a", "#8f8c88", Wall.BRICKS, Floor.CONCRETE, depth=0.75)
    return Shot(sofa, room, View(22, 12, 0.62, shift=(0, -0.03)), Lamp(-40, 50), around, 1.08)


def _bright_corner(rng: Random) -> Shot:
    cover = Material("#e0dacd", Finish.FABRIC)
    sofa = Sofa(cover, 2.5, 3, "square", PALE, 0.09, chaise="left", pillows=("#8fa3a8", "#c9b18a", "#5e7480")).build(
        rng
    )
    around = Solids().put(props.window(1.5, 1.1, Material("#efebe2", Finish.FABRIC)), (-0.1, 1.5, -0.83))
    around.put(props.rug(2.6, 1.8, ("#b9c0bd", "#8c9a9a")), (0.3, 0, 0.9)).put(props.plant(rng, 1.2), (1.55, 0, -0.45))
    room = Room("#eae6dd", "#c3a47c", depth=0.85, right=2.2)
    return Shot(sofa, room, View(-20, 19, 0.66, shift=(0, -0.02)), Lamp(30, 52), around)


def _evening(rng: Random) -> Shot:
    sofa = Sofa(
        Material("#2f4468", Finish.FABRIC), 2.0, 2, "square", BLACK, 0.12, pillows=("#d6a24a", "#c7ccd4")
    ).build(rng)
    around = Solids().put(props.rug(2.6, 1.5, ("#bfb6a6", "#566173"), 7), (0, 0, 0.8))
    around.put(props.floor_lamp(1.6, props.GLOW, BRASS), (1.35, 0, -0.2))
    for k in range(3):
        around.put(props.picture(rng, 0.4, 0.52, WALNUT), (-0.6 + 0.6 * k, 1.48, -0.68))
    table = Solids().block((0, 0.5, 0), (0.45, 0.03, 0.45), WALNUT).put(props.small_plant(rng), (0, 0.515, 0))
    for x in (-0.2, 0.2):
        for z in (-0.2, 0.2):
            table.tube((x, 0.5, z), (x, 0, z), 0.014, WALNUT)
    around.put(table, (-1.35, 0, -0.1))
    room = Room("#b6a89a", "#5f4735", Wall.STRIPES, Floor.PLANKS, depth=0.7)
    return Shot(sofa, room, View(2, 9, 0.58, shift=(0, -0.04)), Lamp(45, 40, 0.9), around)


def _darker(material: Material) -> Material:
    shade = "".join(f"{int(int(material.color[i : i + 2], 16) * 0.78):02x}" for i in (1, 3, 5))
    return Material(f"#{shade}", material.finish)
