"""A hand that plays the worker, with the functions that workers use."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from imagekin import catalog
from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import DType, Lane, OnConflict, Precision
from imagekin.jobs import claim as claim_step
from imagekin.jobs import finish
from imagekin.jobs import plan as plan_step
from imagekin.settings import Settings
from imagekin.store import collections, segments

DIM = 64


def picture(seed: int = 0, size: tuple[int, int] = (32, 24), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def vector(seed: int, dim: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


@dataclass
class Hand:
    """Does by hand what a worker would."""

    database: Database
    settings: Settings

    def collection(self, name: str = "archive", owner: str = "admin", dtype: str = "float32") -> str:
        space = catalog.resolve_space(catalog.FAKE_BACKBONE, None, Precision.EXACT, self.settings.weights_dir)
        self.database.write(collections.create, owner, name, space, DType(dtype))
        return name

    def images(self, *keys: str, name: str = "archive", owner: str = "admin") -> list[str]:
        """Store an image for each key, and return their ids."""

        def store(session: Any) -> list[str]:
            collection = collections.get(session, owner, name)
            dim = session.get_one(tables.Space, collection.space_id).dim
            items = [
                segments.Item(
                    key,
                    vector=vector(seed, dim),
                    content_hash=f"{seed:064x}",
                    width=32,
                    height=24,
                    format="PNG",
                    thumbnail=picture(seed, kind="JPEG"),
                )
                for seed, key in enumerate(keys)
            ]
            stored = segments.store(session, collection.id, items, OnConflict.REPLACE)
            return [record.image_id or "" for record in stored]

        return self.database.write(store)

    def claim(self, lane: Lane) -> claim_step.Claim:
        [claim] = self.database.write(claim_step.claim, lane, tables.new_id(), self.settings)
        return claim

    def finish_search(self, summary: dict[str, Any], thumbnail: bytes | None = None) -> None:
        claim = self.claim(Lane.INTERACTIVE)
        self.database.write(finish.result, claim, summary, thumbnail=thumbnail)

    def finish_cluster(self, summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        claim = self.claim(Lane.BULK)
        self.database.write(finish.finalize, claim, 1, [rows[:2], rows[2:]])
        self.database.write(finish.result, claim, summary)

    def finish_embed(self, *items: segments.Item) -> None:
        """Plan one chunk of these items and finish it."""
        entries = [{"key": item.key, "ref": {}, "error": None, "metadata": None} for item in items]
        plan = self.claim(Lane.BULK)
        pieces = [entries] if entries else []
        self.database.write(plan_step.add, plan, pieces, ignored=1, cursor=None, finished=True)
        if entries:
            self.database.write(finish.images, self.claim(Lane.BULK), list(items))

    def item(self, key: str, seed: int = 0) -> segments.Item:
        dim = catalog.backbones()[catalog.FAKE_BACKBONE].dim
        return segments.Item(
            key, vector=vector(seed, dim), content_hash=f"{seed:064x}", width=3, height=2, format="PNG"
        )
