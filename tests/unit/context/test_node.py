"""A worker's process learns how fast its backbones are, and claims what lasts about as long as it should."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagekin.enums import Lane
from imagekin.settings import Settings
from imagekin_worker.context.process_state import FIRST_IMAGES, Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    settings = Settings(
        data_dir=tmp_path, redis_url=f"unix://{tmp_path}/nobody.sock?db=0", warm=("fake",), chunk_target_s=1.5
    )
    node = Node(settings, Lane.BULK)
    yield node
    node.close()


def test_a_claim_follows_the_measured_speed(node: Node) -> None:
    assert node.images_per_claim("new") == FIRST_IMAGES
    node.note_speed("new", 100, 1.0)
    assert node.images_per_claim("new") == 150
    for _ in range(30):
        node.note_speed("new", 10, 1.0)
    assert 10 <= node.images_per_claim("new") <= 20


def test_a_slow_backbone_still_gets_an_image(node: Node) -> None:
    node.note_speed("slow", 1, 100.0)
    assert node.images_per_claim("slow") == 1


def test_warming_measures(node: Node) -> None:
    node.warm()
    assert any(speed > 0 for speed in node._images_per_s.values())
