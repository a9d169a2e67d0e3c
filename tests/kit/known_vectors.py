"""Collections of vectors that tests know."""

from __future__ import annotations

import numpy as np

from imagekin.store import segments
from kit.hand import DIM, vector

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
