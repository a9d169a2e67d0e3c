"""JPEGs at a reduced scale are the pictures that they are in full; odd and broken ones are read in full by Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from imagekin import errors
from imagekin.settings import Settings
from imagekin_worker.pictures import decoding

SETTINGS = Settings()
WIDTH, HEIGHT = 1371, 903
AT_LEAST_PX = 300
REDUCED = (515, 339)
"""3/8 of the size, rounded up."""

ORIENTATION = 0x0112
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(mode: str = "RGB") -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).convert(mode)


def encode(mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    picture(mode).save(file, "JPEG", **({"quality": 90} | options))
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


PLAIN = {
    "4:4:4": encode(subsampling=0),
    "4:2:2": encode(subsampling=1),
    "4:2:0": encode(subsampling=2),
    "4:1:1": encode(subsampling="4:1:1"),
    "gray": encode("L"),
    "progressive": encode(progressive=True),
    "restart markers": encode(restart_marker_blocks=4),
    "RGB inside": encode(keep_rgb=True),
    "lying": encode(exif=turned(6)),
    "mirrored": encode(exif=turned(2)),
    "a profile": encode(icc_profile=PROFILE),
    "a long comment": encode(comment=b"x" * 60_000),
    "no end marker": encode()[:-2],
}
WHOLE = {
    "CMYK": encode("CMYK"),
    "bytes before a marker": encode()[:-2] + b"\x00\x17" * 9 + b"\xff\xd9",
    "damaged": encode()[:20_000] + b"\xff\xd9\x13\x37" + encode()[20_004:],
}


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in PLAIN.items()])
def test_a_plain_one_is_reduced_and_the_same_picture(data: bytes) -> None:
    reduced = decoding.decode(data, SETTINGS, at_least_px=AT_LEAST_PX, to_srgb=True)
    whole = decoding.decode(data, SETTINGS, to_srgb=True)
    assert (reduced.width, reduced.height) == (whole.width, whole.height)
    lying = whole.width < whole.height
    assert reduced.image.size in {REDUCED[::-1] if lying else REDUCED, whole.image.size}
    small = (80, 120) if lying else (120, 80)
    ours, theirs = (np.asarray(each.image.resize(small), np.int16) for each in (reduced, whole))
    # the last columns are a part of a pixel wider, as sizes are rounded up
    assert np.abs(ours - theirs).mean() < 1 and np.abs(ours - theirs).max() <= 10


def test_faultless_ones_are_reduced() -> None:
    for name, data in PLAIN.items():
        found = decoding.decode(data, SETTINGS, at_least_px=AT_LEAST_PX).image.size
        assert min(found) == min(REDUCED) or name == "no end marker", name


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in WHOLE.items()])
def test_others_are_what_pillow_makes_of_them(data: bytes) -> None:
    reduced, whole = (decoding.decode(data, SETTINGS, at_least_px=each) for each in (AT_LEAST_PX, None))
    assert reduced.image.tobytes() == whole.image.tobytes()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.97])
def test_missing_pixels_are_refused_at_any_scale(share: float) -> None:
    for data in (PLAIN["4:2:0"], PLAIN["progressive"]):
        with pytest.raises(errors.DecodeError) as found:
            decoding.decode(data[: int(share * len(data))], SETTINGS, at_least_px=AT_LEAST_PX)
        with pytest.raises(errors.DecodeError) as expected:
            decoding.decode(data[: int(share * len(data))], SETTINGS)
        assert found.value.detail == expected.value.detail


def test_a_header_that_lies_about_the_size_takes_no_memory() -> None:
    data = PLAIN["4:2:0"]
    at = data.index(b"\xff\xc0") + 5
    with pytest.raises(errors.DecompressionBomb):
        decoding.decode(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :], SETTINGS, at_least_px=AT_LEAST_PX)


@pytest.mark.parametrize(
    ("size", "scale"), [((599, 800), 8), ((600, 800), 4), ((799, 1000), 4), ((800, 1000), 3), ((1200, 3000), 2)]
)
def test_the_shorter_side_keeps_what_is_asked_for(size: tuple[int, int], scale: int) -> None:
    file = io.BytesIO()
    picture().resize(size).save(file, "JPEG")
    found = decoding.decode(file.getvalue(), SETTINGS, at_least_px=AT_LEAST_PX)
    assert found.image.size == (-(-size[0] * scale // 8), -(-size[1] * scale // 8))
    assert min(found.image.size) >= min(AT_LEAST_PX, *size)
