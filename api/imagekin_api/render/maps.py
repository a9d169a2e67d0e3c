"""The picture of a map: thumbnails where they have room, dots for the other images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from PIL import Image, ImageDraw

from imagekin_api.render import sheets

SIDE = 1600
# A thumbnail's longer side. The least one bounds how many there can be, and with that time and memory.
LEAST_SIZE, MOST_SIZE = 40, 120
DOT = 3
# Thumbnails that are read at a time.
BATCH = 64

Rows = Callable[[], Iterable[dict[str, Any]]]
Pictures = Callable[[list[str]], dict[str, bytes]]


def picture(heading: str, rows: Rows, count: int, pictures: Pictures) -> bytes:
    """Draw `count` rows with `id`, `x` and `y` (0..1) as a PNG of some 1,700 pixels.

    `pictures` returns thumbnails by image id; it is asked for those that are drawn only.
    """
    size = int(min(MOST_SIZE, max(LEAST_SIZE, SIDE / (2.5 * math.sqrt(max(1, count))))))
    pad = sheets.MARGIN + size // 2
    width = SIDE + 2 * pad
    sheet = Image.new("RGB", (width, width + sheets.HEADING_HEIGHT), sheets.PAPER)
    draw = ImageDraw.Draw(sheet)
    title = sheets.shortened(heading, width - 2 * sheets.MARGIN, 22)
    draw.text((sheets.MARGIN, sheets.MARGIN - 4), title, sheets.INK, sheets.font(22))
    top = pad + sheets.HEADING_HEIGHT
    shown: dict[tuple[int, int], tuple[str, int, int]] = {}
    for row in rows():
        x, y = round(row["x"] * SIDE), round(row["y"] * SIDE)
        draw.ellipse((pad + x - DOT, top + y - DOT, pad + x + DOT, top + y + DOT), sheets.ACCENT)
        if all(max(abs(x - other), abs(y - another)) >= size for _, other, another in _around(shown, x, y, size)):
            shown[x // size, y // size] = (row["id"], x, y)
    chosen = list(shown.values())
    for start in range(0, len(chosen), BATCH):
        some = chosen[start : start + BATCH]
        found = pictures([id for id, _, _ in some])
        for id, x, y in some:
            small = sheets.opened(found.get(id), size - 4, size - 4)
            if small is not None:
                left, upper = pad + x - small.width // 2, top + y - small.height // 2
                draw.rectangle((left - 1, upper - 1, left + small.width, upper + small.height), sheets.CARD)
                sheet.paste(small, (left, upper))
    return sheets.png(sheet)


def _around(
    shown: dict[tuple[int, int], tuple[str, int, int]], x: int, y: int, size: int
) -> Iterator[tuple[str, int, int]]:
    """Yield what is shown in the cell of a place and in those beside it; a cell has one at most."""
    for column in range(x // size - 1, x // size + 2):
        for line in range(y // size - 1, y // size + 2):
            if (column, line) in shown:
                yield shown[column, line]
