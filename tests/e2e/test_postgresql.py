"""The whole service on PostgreSQL, where it asks the database for what SQLite answers in other words."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from imagekin import Client
from imagekin.config import Settings
from imagekin.stack import Stack


def test_a_search_with_a_filter(postgresql, tmp_path: Path):
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    name = f"service_{os.urandom(6).hex()}"
    settings = Settings(data_dir=tmp_path / "data", port=0, warm=("fake",), database_url=postgresql.create(name))
    try:
        with Stack(settings, log=lambda _: None) as service, Client(service.url) as client:
            pictures = [tmp_path / f"{number}.png" for number in range(4)]
            job = client.embed(pictures, collection="archive", backbone="fake").wait()
            assert job.progress.embedded == 4
            for image in client.images("archive"):
                client.update_image("archive", image.id, metadata={"even": int(image.key[0]) % 2 == 0})
            found = client.search(pictures[0], collection="archive", filter={"even": True}).neighbors
            assert [neighbor.key for neighbor in found] == ["0.png", "2.png"]
            assert [item.key for item in job.items()] == ["0.png", "1.png", "2.png", "3.png"]
    finally:
        postgresql.drop(name)
