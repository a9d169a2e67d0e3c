"""Collections of vectors that tests know."""

from __future__ import annotations

from typing import Any

import numpy as np

from imagekin.enums import OnConflict
from imagekin.store import collections, segments
from kit.hand import DIM, vector
from kit.serving import Running

# What the fixture `three` keeps.
KEYS = ["a/ß.jpg", "b.jpg", "a/c😀.jpg"]
METADATA = [{"place": "Köln"}, {}, {"tags": ["x", None]}]
EMBEDDINGS = np.stack([vector(seed, DIM) for seed in (0, 2, 3)])
# What `near` is near to.
CENTERS = np.stack([vector(50, DIM), vector(51, DIM), vector(52, DIM)])


def store(server: Running, items: list[segments.Item], name: str = "archive") -> list[str | None]:
    def write(session: Any) -> list[str | None]:
        collection = collections.get(session, "admin", name)
        return [record.image_id for record in segments.store(session, collection.id, items, OnConflict.REPLACE)]

    return server.database.write(write)


def item(key: str, seed: int, **metadata: Any) -> segments.Item:
    return segments.Item(key, metadata, vector=vector(seed, DIM), content_hash=f"{seed:064x}")


def near(key: str, at: int) -> segments.Item:
    """An image near one of the centers."""
    vectors = CENTERS[at % 3] + 0.1 * vector(at, DIM)
    return segments.Item(key, vector=vectors.astype("<f4"), content_hash=f"near-{key}-{at}")
