"""The demo's thirty pictures: all there, all different, listed with class and theme, and in the wheel."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder
from PIL import Image, ImageStat

from imagekin.demo import furniture

ROOT = Path(__file__).parents[3]


def test_three_classes_two_themes_each_five_pictures_a_theme() -> None:
    counts = Counter((picture.kind, picture.theme) for picture in furniture.pictures())
    assert counts == dict.fromkeys(
        [
            ("table", "dining"),
            ("table", "coffee"),
            ("sofa", "alone"),
            ("sofa", "room"),
            ("shelf", "wall"),
            ("shelf", "standing"),
        ],
        5,
    )


def test_pictures_decode_with_their_size_and_show_something() -> None:
    for picture in furniture.pictures():
        with Image.open(picture.path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (480, 360)), picture.path.name
            assert max(ImageStat.Stat(image).stddev) > 15, picture.path.name


def test_pictures_are_all_different() -> None:
    assert len({hashlib.sha256(picture.path.read_bytes()).digest() for picture in furniture.pictures()}) == 30


def test_labels_come_from_the_key() -> None:
    assert furniture.label("table-dining-1.jpg") == ("table", "dining")
    assert furniture.label("furniture/shelf-wall-5.jpg") == ("shelf", "wall")


def test_the_wheel_holds_the_pictures_and_where_they_come_from() -> None:
    packed = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {f"imagekin/demo/pictures/{picture.path.name}" for picture in furniture.pictures()} <= packed
    assert "imagekin/demo/PROVENANCE.md" in packed
