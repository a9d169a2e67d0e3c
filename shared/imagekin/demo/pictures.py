"""Thirty furniture pictures, drawn in code: three classes, two themes each, five pictures a theme."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from random import Random

from imagekin.demo import rendering, shelves, sofas, tables
from imagekin.demo.rendering import Shot

PICTURES_PER_THEME = 5

_SETS: dict[tuple[str, str], Callable[[int, Random], Shot]] = {
    ("table", "dining"): tables.dining,
    ("table", "coffee"): tables.coffee,
    ("sofa", "alone"): sofas.alone,
    ("sofa", "room"): sofas.in_room,
    ("shelf", "wall"): shelves.wall_mounted,
    ("shelf", "standing"): shelves.free_standing,
}

THEMES: tuple[tuple[str, str], ...] = tuple(_SETS)
"""The (class, theme) pairs, in the order in which they are drawn."""


def draw(folder: Path) -> list[Path]:
    """Draw the pictures (480 x 360 JPEG) into `folder`, which is made where missing, and name the files.

    The same Pillow and numpy draw the same bytes each time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = [f"{kind}-{theme}-{n}.jpg" for kind, theme in THEMES for n in range(1, PICTURES_PER_THEME + 1)]
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as threads:
        return list(threads.map(lambda key: draw_one(folder / key), keys))


def label(key: str) -> tuple[str, str]:
    """Read class and theme out of a picture's key, such as `table-dining-1.jpg`."""
    kind, theme, _number = PurePosixPath(key).stem.split("-")
    return kind, theme


def draw_one(path: Path) -> Path:
    """Draw the picture that the name of the file says."""
    number = int(path.stem.rsplit("-", 1)[1])
    shot = _SETS[label(path.name)](number, Random(path.stem))
    rendering.render(shot, zlib.crc32(path.stem.encode())).save(path, quality=90)
    return path
