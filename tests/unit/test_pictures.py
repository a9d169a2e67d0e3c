"""The thirty drawn pictures are all there, all different, and the same each time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image, ImageStat

from imagekin.demo import pictures


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return pictures.draw(tmp_path_factory.mktemp("demo") / "made" / "for" / "it")


def test_thirty_pictures_five_a_theme(drawn: list[Path]) -> None:
    assert [path.name for path in drawn] == [
        f"{kind}-{theme}-{n}.jpg" for kind, theme in pictures.THEMES for n in range(1, 6)
    ]
    assert len(drawn) == 30
    assert len({kind for kind, _ in pictures.THEMES}) == 3
    assert all(path.is_file() for path in drawn)


def test_pictures_decode_with_their_size_and_show_something(drawn: list[Path]) -> None:
    for path in drawn:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (480, 360)), path.name
            assert max(ImageStat.Stat(image).stddev) > 15, path.name


def test_pictures_are_all_different(drawn: list[Path]) -> None:
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in drawn}) == 30


@pytest.mark.parametrize("name", ["table-dining-1.jpg", "sofa-room-3.jpg", "shelf-wall-2.jpg"])
def test_a_picture_drawn_again_has_the_same_bytes(drawn: list[Path], tmp_path: Path, name: str) -> None:
    before = next(path for path in drawn if path.name == name).read_bytes()
    assert pictures.draw_one(tmp_path / name).read_bytes() == before


def test_labels_come_from_the_key(drawn: list[Path]) -> None:
    assert pictures.label("table-dining-1.jpg") == ("table", "dining")
    assert pictures.label("furniture/shelf-wall-5.jpg") == ("shelf", "wall")
    assert {pictures.label(path.name) for path in drawn} == set(pictures.THEMES)
