"""Collections of vectors that tests know."""

from __future__ import annotations

from typing import Any

import numpy as np

from imagekin.store import segments
from kit.hand import DIM, picture, vector

# What the fixture `three` keeps.
KEYS = ["a/ß.jpg", "b.jpg", "a/c😀.jpg"]
METADATA = [{"place": "Köln"}, {}, {"tags": ["x", None]}]
EMBEDDINGS = np.stack([vector(seed, DIM) for seed in (0, 2, 3)])
# What `near` is near to.
CENTERS = np.stack([vector(50, DIM), vector(51, DIM), vector(52, DIM)])


def near(key: str, at: int) -> segments.Item:
    """An image near one of the centers."""
    vectors = CENTERS[at % 3] + 0.1 * vector(at, DIM)
    return segments.Item(key, vector=vectors.astype("<f4"), content_hash=f"near-{key}-{at}")


def image(
    key: str,
    seed: int,
    *,
    like: int | np.ndarray | None = None,
    cosine: float = 1.0,
    looks: int | None = None,
    **about: Any,
) -> segments.Item:
    """An image whose vector is at a cosine to `like` (or its), and whose picture is that of the seed `looks`."""
    row = vector(seed, DIM)
    if like is not None:
        base = vector(like, DIM) if isinstance(like, int) else like
        base = base / np.linalg.norm(base)
        row -= (row @ base) * base
        row = cosine * base + np.sqrt(1 - cosine**2) * row / np.linalg.norm(row)
    seen = picture(seed if looks is None else looks, kind="JPEG")
    given = {"content_hash": f"{seed:064x}", "width": 32, "height": 24, "format": "JPEG", "thumbnail": seen}
    return segments.Item(key, vector=row.astype("<f4"), **(given | about))
