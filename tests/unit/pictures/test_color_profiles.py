"""Color profiles: into sRGB where the space asks for it, and not a bit where there is none."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from imagekin import catalog
from imagekin.enums import Colors, Precision
from imagekin.settings import Settings
from imagekin_worker.network import preprocess
from imagekin_worker.pictures.decoding import decode
from kit.picture_files import UNDEFINED, colors, encoded, gray_profile, grays, into, plain, profile, scene, tiff

SETTINGS = Settings()
WIDE = {
    "Adobe RGB": profile([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], 2.2),
    "Display P3": profile([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)], 2.2),
    "ProPhoto": profile([(0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)], 1.8, white=(0.3457, 0.3585)),
    "channels swapped": profile([(0.30, 0.60), (0.15, 0.06), (0.64, 0.33)], 2.2),
}


def shown(data: bytes, *, to_srgb: bool = True) -> np.ndarray:
    return np.asarray(decode(data, SETTINGS, to_srgb=to_srgb).image).astype(int)


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_wide_colors_become_srgb(name: str, format: str) -> None:
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}, "AVIF": {"quality": 100}}
    stored = into(scene(), WIDE[name])
    data = encoded(stored, format, icc_profile=WIDE[name], **lossless.get(format, {}))
    assert np.abs(shown(data) - colors()).mean() < 3
    assert np.abs(shown(data, to_srgb=False) - np.asarray(stored, int)).mean() < 2


def test_grays_follow_their_profile() -> None:
    icc, linear = gray_profile(1.8), (np.arange(256) / 255) ** 1.8
    stored = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    expected = np.rint(255 * curve).astype(int).reshape(16, 16)
    for picture in (stored, Image.merge("LA", (stored, Image.new("L", stored.size, 255)))):
        found = shown(encoded(picture, "PNG", icc_profile=icc))
        assert np.abs(found - expected[..., None]).mean() < 1
        assert np.abs(found - np.arange(256).reshape(16, 16, 1)).mean() > 4


def test_a_palettes_colors_follow_its_profile() -> None:
    icc = WIDE["channels swapped"]
    stored = into(scene(), icc).quantize(256)
    found = shown(encoded(stored, "PNG", icc_profile=icc))
    assert np.abs(found - colors()).mean() < 8


def test_transparent_parts_stay_white_beside_converted_colors() -> None:
    icc = WIDE["ProPhoto"]
    stored = into(scene(), icc)
    stored.putalpha(
        Image.fromarray(np.where(np.arange(stored.width) < 40, 255, 0).astype(np.uint8)[None].repeat(stored.height, 0))
    )
    found = shown(encoded(stored, "PNG", icc_profile=icc))
    assert (found[:, 40:] == 255).all()
    assert np.abs(found[:, :40] - colors()[:, :40]).mean() < 3


def test_a_deep_tiff_follows_its_profile() -> None:
    icc = WIDE["channels swapped"]
    deep = np.asarray(into(scene(), icc)).astype("<u2") * 257
    for planar in (1, 2):
        data = tiff(plain(deep, 16, 2, planar=planar) | {34675: (UNDEFINED, icc)})
        assert np.abs(shown(data) - colors()).mean() < 2


@pytest.mark.parametrize(
    "icc",
    [
        b"not a profile",
        bytes(500),
        WIDE["ProPhoto"][:200],
        WIDE["ProPhoto"][:128] + bytes(400),
        WIDE["ProPhoto"] + bytes(5 << 20),
        gray_profile(1.0),
        WIDE["ProPhoto"].replace(b"mntr", b"link"),
        WIDE["ProPhoto"].replace(b"rXYZ", b"xxxx"),
    ],
    ids=["text", "zeros", "cut off", "no tags", "too large", "for gray", "a link", "without red"],
)
def test_broken_profiles_are_ignored(icc: bytes) -> None:
    assert np.array_equal(shown(encoded(scene(), "TIFF", icc_profile=icc)), colors())


def test_a_profile_that_is_srgb_changes_no_bit() -> None:
    builtin = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(shown(encoded(scene(), "PNG", icc_profile=builtin)), colors())


def test_without_a_profile_no_bit_changes() -> None:
    for data in (encoded(scene(), "PNG"), encoded(scene(), "JPEG"), encoded(scene().convert("CMYK"), "JPEG"),
                 encoded(scene().quantize(64), "GIF"), encoded(Image.fromarray(grays()), "TIFF")):  # fmt: skip
        assert np.array_equal(shown(data), shown(data, to_srgb=False))
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(shown(data), np.asarray(ImageOps.exif_transpose(image).convert("RGB")))


def test_a_space_from_before_keeps_its_pixels_and_its_thumbnails() -> None:
    icc = WIDE["channels swapped"]
    stored = into(scene(), icc)
    data = encoded(stored, "PNG", icc_profile=icc)
    fresh = catalog.resolve_space("fake", None, Precision.EXACT, SETTINGS.weights_dir)
    before = dataclasses.replace(fresh, preprocess=dataclasses.replace(fresh.preprocess, colors=Colors.STORED))
    for space, expected in ((fresh, scene()), (before, stored)):
        picture, pixels = preprocess.prepare(data, space, SETTINGS)
        _, wanted = preprocess.fit(expected, space.preprocess)
        assert np.abs(pixels.astype(int) - wanted).max() <= (3 if space is fresh else 0)
        with Image.open(io.BytesIO(preprocess.thumbnail(picture, 160)), formats=["JPEG"]) as small:
            assert np.abs(np.asarray(small, int) - np.asarray(expected, int)).mean() < 5
