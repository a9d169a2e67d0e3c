"""Pictures of a set with light copies and strange ones among them, embedded by the default backbone."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from imagekin_worker.analysis import hashes
from imagekin_worker.analysis.duplicates import Duplicates
from imagekin_worker.analysis.findings import Found
from imagekin_worker.analysis.groups import Images
from imagekin_worker.matrix import view
from imagekin_worker.pipeline.lanes import Outcome
from kit import photographs

BUDGET = 1 << 28


class Embedded(NamedTuple):
    """Pictures by name, in order, with their vectors and signs."""

    names: list[str]
    rows: np.ndarray
    images: Images
    grays: np.ndarray

    def duplicates(self, tmp_path: Path, chosen: list[int], between: list[str] | None = None) -> Found:
        columns = vars(self.images).values()
        chosen_of: Any = ([v[i] for i in chosen] if isinstance(v, list) else v[chosen] for v in columns)
        images = Images(*chosen_of)
        rows, index = self.rows[chosen], np.array(chosen)
        search = Duplicates(
            rows,
            view.raw("space", rows.shape[1], len(rows)),
            images,
            thumbnails=lambda at: self.grays[index[at]],
            memory_budget_bytes=BUDGET,
            folder=tmp_path,
            between=between,
        )
        search.advance()
        return search.result()


def encoded(image: Image.Image, quality: int = 85) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=quality)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def smaller(image: Image.Image) -> bytes:
    return encoded(
        image.resize((max(1, image.width * 2 // 3), max(1, image.height * 2 // 3)), Image.Resampling.LANCZOS)
    )


def cropped(image: Image.Image) -> bytes:
    width, height = image.size
    box = (round(width * 0.025), round(height * 0.025), round(width * 0.975), round(height * 0.975))
    return encoded(ImageEnhance.Brightness(image.crop(box)).enhance(1.15))


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "re-encoded": lambda image: encoded(image, 70), "smaller": smaller, "cropped": cropped,
}  # fmt: skip


def strange() -> dict[str, bytes]:
    """Four of each: noise, black frames, text pages."""
    random = np.random.default_rng(0)
    found = {}
    for number in range(4):
        noise = Image.fromarray(random.integers(0, 256, (240, 320, 3), dtype=np.uint8))
        page = Image.new("RGB", (400, 560), "white")
        for line in range(36):
            text = " ".join("".join(random.choice(list("abcdefghiklmnoprstuw"), 6)) for _ in range(8))
            ImageDraw.Draw(page).text((20, 14 + 15 * line), text, "black")
        found |= {
            f"strange/noise {number}": encoded(noise),
            f"strange/black {number}": encoded(Image.new("RGB", (300 + number, 200))),
            f"strange/page {number}": encoded(page),
        }
    return found


def of(outcomes: list[Outcome[str]], sizes: dict[str, int]) -> Embedded:
    n = len(outcomes)
    signs = [hashes.of_thumbnail(outcome.thumbnail or b"") for outcome in outcomes]
    images = Images(
        [outcome.item for outcome in outcomes],
        [outcome.content_hash or "" for outcome in outcomes],
        np.array([sign.hash for sign in signs], np.uint64),
        np.array([sign.mirrored for sign in signs], np.uint64),
        np.array([(outcome.width or 0) * (outcome.height or 0) for outcome in outcomes], np.int64),
        np.zeros(n, np.bool_),
        np.array([sizes[outcome.item] for outcome in outcomes], np.int64),
        np.zeros(n, np.int64),
        np.zeros(n),
    )
    return Embedded(images.keys, photographs.rows(outcomes), images, np.stack([sign.gray for sign in signs]))  # pyright: ignore[reportArgumentType]


def originals(name: str) -> tuple[list[Outcome[str]], dict[str, bytes]]:
    """Return what became of a set's pictures, by their kinds and names, and their bytes."""
    found = photographs.labelled(name).outcomes
    named: Any = [replace(outcome, item=f"{outcome.item.parent.name}/{outcome.item.name}") for outcome in found]  # type: ignore[arg-type]
    return named, {each.item: outcome.item.read_bytes() for each, outcome in zip(named, found, strict=True)}


@cache
def altogether(name: str) -> Embedded:
    """All pictures of a set, copies of every fifth ("#" and how in their names), and strange ones ("strange/")."""
    outcomes, files = originals(name)
    copies = {f"{name}#{kind}": copy(opened(files[name])) for name in list(files)[::5] for kind, copy in COPIES.items()}
    added = copies | strange()
    outcomes += photographs.embedded(added, added.__getitem__)
    sizes = {name: len(data) for name, data in (files | added).items()}
    return of(sorted(outcomes, key=lambda outcome: outcome.item), sizes)


def alone(name: str) -> Embedded:
    """The pictures of a set."""
    outcomes, files = originals(name)
    return of(outcomes, {name: len(data) for name, data in files.items()})
