"""Decoding is safe and colors have rules; the transform is the preset's to the bit."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, features
from timm.data.transforms_factory import transforms_imagenet_eval
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from imagekin import catalog, errors, formats
from imagekin.catalog import Preprocess, Space
from imagekin.enums import Fit, Library, Precision
from imagekin.settings import Settings
from imagekin_worker.network import preprocess
from imagekin_worker.pictures import decoding

SETTINGS = Settings()
PRESETS = sorted(
    {
        weights.preprocess
        for each in catalog.backbones().values()
        for weights in each.weights.values()
        if each.source is not Library.TIMM
    }
    | {catalog.FALLBACK_PREPROCESS},
    key=repr,
)
BROKEN_EXIF = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and whose data is nearly nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def color_of(data: bytes) -> tuple[int, ...]:
    pixel = decoding.decode(data, SETTINGS).image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return tuple(int(value) for value in pixel)


# --- formats


@pytest.mark.parametrize("format", sorted(formats.FORMATS))
def test_reads_each_format_by_its_content(format: str) -> None:
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = encode(noise(40, 30), format)
    assert formats.sniff(data[: formats.HEAD_BYTES]) == format
    picture = decoding.decode(data, SETTINGS)
    assert (picture.format, picture.width, picture.height) == (format, 40, 30)
    assert (picture.image.mode, picture.image.size) == ("RGB", (40, 30))


@pytest.mark.parametrize(
    "data",
    [
        b"BM is how this text begins, and it is no bitmap",
        b"hello",
        b"\xff\xd8",
    ],
)
def test_what_is_no_image_of_the_list_is_refused(data: bytes) -> None:
    assert not formats.looks_like_image(data)
    with pytest.raises(errors.UnsupportedFormat):
        decoding.decode(data, SETTINGS)


@pytest.mark.parametrize("format", ["PPM", "ICO", "TGA", "PCX", "EPS"])
def test_formats_that_pillow_reads_and_we_do_not_are_refused(format: str) -> None:
    with pytest.raises(errors.UnsupportedFormat):
        decoding.decode(encode(noise(16, 16), format), SETTINGS)


def test_suffixes_are_images_in_any_case() -> None:
    assert formats.named_like_image("a/B.JPG")
    assert not formats.named_like_image("a.jpg/readme.txt")


def test_a_phones_two_picture_jpeg_is_a_jpeg() -> None:
    data = encode(noise(20, 20), "MPO", save_all=True, append_images=[noise(20, 20, 1)])
    assert decoding.decode(data, SETTINGS).format == "JPEG"


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_many_frames_the_first_counts(format: str) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    red_first, _, blue_last = color_of(encode(red, format, save_all=True, append_images=[blue], lossless=True))
    assert red_first > 200
    assert blue_last < 50


# --- limits


def test_nothing_is_an_empty_file() -> None:
    with pytest.raises(errors.EmptyFile):
        decoding.decode(b"", SETTINGS)


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(errors.ImageTooLarge, match="limit is 100"):
        decoding.decode(encode(noise(50, 50), "PNG"), Settings(max_image_bytes=100))


def test_too_many_pixels_are_refused_by_the_header() -> None:
    with pytest.raises(errors.DecompressionBomb, match="limit is 100,000,000"):
        decoding.decode(png_of_size(12_000, 12_000), SETTINGS)


def test_pillows_own_bomb_limit_is_an_error_of_the_image() -> None:
    with pytest.raises(errors.DecompressionBomb):
        decoding.decode(png_of_size(60_000, 60_000), Settings(max_image_pixels=10**12))


# --- broken data


@pytest.mark.parametrize("format", sorted(formats.FORMATS))
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_images_fail(format: str, kept: float) -> None:
    data = encode(noise(64, 64), format)
    with pytest.raises(errors.DecodeError):
        decoding.decode(data[: int(len(data) * kept)], SETTINGS)


@pytest.mark.parametrize("format", sorted(formats.FORMATS))
def test_damaged_images_fail_only_with_item_errors(format: str) -> None:
    rng = np.random.default_rng(7)
    whole = encode(noise(32, 32), format)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(4, len(whole), 6):
            damaged[at] = rng.integers(256)
        try:
            assert decoding.decode(bytes(damaged), SETTINGS).image.mode == "RGB"
        except errors.ItemError:
            pass


def test_warnings_of_pillow_stay_inside_threads_and_the_filters_are_restored() -> None:
    data = encode(noise(32, 32), "JPEG", exif=BROKEN_EXIF)
    before = list(warnings.filters)
    caught: list[Exception] = []

    def decode_often() -> None:
        for _ in range(50):
            try:
                decoding.decode(data, SETTINGS)
            except Warning as warning:
                caught.append(warning)

    threads = [threading.Thread(target=decode_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not caught
    assert list(warnings.filters) == before


# --- the right way up


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_as_their_exif_says(format: str) -> None:
    image = Image.new("RGB", (60, 40), "white")
    image.paste("red", (0, 0, 30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right of the stored picture
    picture = decoding.decode(encode(image, format, exif=exif), SETTINGS)
    assert (picture.width, picture.height) == picture.image.size == (40, 60)
    upper, lower = picture.image.getpixel((20, 5)), picture.image.getpixel((20, 55))
    assert isinstance(upper, tuple) and isinstance(lower, tuple)
    assert upper[1] < 100 < lower[1]


def test_broken_exif_does_not_cost_the_picture() -> None:
    data = encode(noise(32, 32), "JPEG", exif=BROKEN_EXIF)
    assert decoding.decode(data, SETTINGS).width == 32


# --- colors


def test_gray_and_one_bit_become_rgb() -> None:
    assert color_of(encode(Image.new("L", (4, 4), 77), "PNG")) == (77, 77, 77)
    assert color_of(encode(Image.new("1", (4, 4), 1), "PNG")) == (255, 255, 255)


def test_palette_gives_its_colors() -> None:
    assert color_of(encode(Image.new("RGB", (4, 4), (255, 0, 51)).convert("P"), "PNG")) == (255, 0, 51)


def test_alpha_is_laid_over_white() -> None:
    assert color_of(encode(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG")) == (255, 255, 255)
    assert color_of(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG")) == (127, 127, 127)
    assert color_of(encode(Image.new("LA", (4, 4), (0, 0)), "PNG")) == (255, 255, 255)


def test_transparent_colors_are_white() -> None:
    assert color_of(encode(Image.new("RGB", (4, 4), (9, 8, 7)), "PNG", transparency=(9, 8, 7))) == (255, 255, 255)
    assert color_of(encode(Image.new("L", (4, 4), 9), "PNG", transparency=9)) == (255, 255, 255)
    assert color_of(encode(Image.new("P", (4, 4), 0), "GIF", transparency=0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    assert color_of(encode(palette, "PNG", transparency=b"\0\xff")) == (255, 255, 255)


def test_cmyk_jpegs_are_read_as_adobe_writes_them() -> None:
    red, green, blue = color_of(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert red > 240
    assert max(green, blue) < 20
    assert color_of(encode(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF")) == (255, 0, 0)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled_and_not_clipped(format: str) -> None:
    ramp = Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16))
    decoded = np.asarray(decoding.decode(encode(ramp, format), SETTINGS).image)
    assert np.array_equal(decoded[..., 0].ravel(), np.arange(256))


def test_sixteen_bit_color_is_scaled_and_not_clipped() -> None:
    row = b"\0" + struct.pack(">6H", 0x1234, 0x8000, 0xFFFF, 0, 0x0100, 0x00FF)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    pixels = np.asarray(decoding.decode(data, SETTINGS).image)
    assert pixels.tolist() == [[[0x12, 0x80, 0xFF], [0, 1, 0]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[-10.0, 0.0, 10.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, np.nan, np.inf]], np.float32), [0, 0, 0]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 256, 65535]], np.int32), [0, 1, 255]),
        (np.array([[0, 100_000, 200_000]], np.int32), [0, 128, 255]),
        (np.array([[-7, -7, -7]], np.int32), [0, 0, 0]),
    ],
)
def test_deep_modes_follow_the_stated_rules(values: np.ndarray, expected: list[int]) -> None:
    decoded = np.asarray(decoding.decode(encode(Image.fromarray(values), "TIFF"), SETTINGS).image)
    assert decoded[0, :, 0].tolist() == expected


def test_lab_is_not_supported() -> None:
    with pytest.raises(errors.UnsupportedFormat, match="LAB"):
        decoding.decode(encode(Image.new("LAB", (4, 4)), "TIFF"), SETTINGS)


# --- the transform


def torchvisions(preset: Preprocess) -> ImageClassification:
    return ImageClassification(
        crop_size=preset.shape[0],
        resize_size=preset.scale[0],
        mean=preset.mean,
        std=preset.std,
        interpolation=InterpolationMode(preset.interpolation),
    )


@pytest.mark.parametrize("preset", PRESETS, ids=lambda each: f"{each.resize}-{each.crop}-{each.interpolation}")
def test_the_transform_is_torchvisions_to_the_bit(preset: Preprocess) -> None:
    for width, height in [(500, 375), (301, 402), (50, 31), (224, 224), (90, 353)]:
        picture = decoding.decode(encode(noise(width, height), "PNG"), SETTINGS)
        ours, theirs = preprocess.transform(picture, preset), torchvisions(preset)(picture.image).numpy()
        assert ours.dtype == np.float32
        assert np.array_equal(ours, theirs), (width, height)


def test_a_crop_larger_than_the_picture_is_padded_like_torchvisions() -> None:
    preset = Preprocess(99, 224, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    picture = decoding.decode(encode(noise(150, 101), "PNG"), SETTINGS)
    assert np.array_equal(preprocess.transform(picture, preset), torchvisions(preset)(picture.image).numpy())


SIZES = [(500, 375), (301, 402), (50, 31), (224, 224), (90, 353), (2000, 90), (3, 500)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("fit", "crop_mode", "resize", "crop"),
    [
        (Fit.CROP, "center", 256, 224),
        (Fit.SQUASH, "squash", 224, 224),
        (Fit.SQUASH, "squash", 248, 224),
        (Fit.PAD, "border", 224, 224),
        (Fit.PAD, "border", 235, 224),
        (Fit.CROP, "center", (256, 192), (256, 192)),
        (Fit.CROP, "center", (290, 217), (256, 192)),
        (Fit.SQUASH, "squash", (256, 192), (256, 192)),
        (Fit.PAD, "border", (256, 192), (256, 192)),
    ],
    ids=str,
)
def test_each_fit_is_timms_to_the_bit(
    fit: Fit,
    crop_mode: str,
    resize: int | tuple[int, int],
    crop: int | tuple[int, int],
    interpolation: str,
) -> None:
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    preset = Preprocess(resize, crop, interpolation, mean, std, fit=fit)
    theirs = transforms_imagenet_eval(
        preset.shape,
        crop_pct=preset.shape[0] / preset.scale[0],
        crop_mode=crop_mode,
        interpolation=interpolation,
        mean=mean,
        std=std,
    )
    for width, height in SIZES:
        if fit is Fit.CROP and max(width, height) >= preprocess.ELONGATED * min(width, height):
            continue  # resized in one step, which rounds otherwise
        picture = decoding.decode(encode(noise(width, height), "PNG"), SETTINGS)
        ours = preprocess.transform(picture, preset)
        assert ours.shape == (3, *preset.shape)
        assert np.array_equal(ours, np.asarray(theirs(picture.image))), (width, height)


@pytest.mark.parametrize("fit", list(Fit))
def test_thumbnails_keep_a_pictures_proportions(fit: Fit) -> None:
    preset = catalog.FALLBACK_PREPROCESS.fitted(fit)
    space = Space("b", "w", "d", "l", preset, 1, Precision.EXACT)
    picture, pixels = preprocess.prepare(encode(noise(600, 300), "PNG"), space, Settings(thumbnail_px=100))
    assert pixels.shape == (224, 224, 3)
    with Image.open(io.BytesIO(preprocess.thumbnail(picture, 100))) as thumbnail:
        assert thumbnail.size == (100, 50)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (3, 20_000)])
def test_elongated_pictures_need_no_more_memory_than_others(size: tuple[int, int]) -> None:
    picture = decoding.decode(encode(Image.new("RGB", size, (255, 0, 0)), "PNG"), SETTINGS)
    bordered = Preprocess(389, 448, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for preset in (*PRESETS, bordered):
        for fit in Fit:
            assert preprocess.transform(picture, preset.fitted(fit)).shape == (3, *preset.shape)
    _, pixels = preprocess.fit(picture.image, PRESETS[0])
    assert (pixels == np.array([255, 0, 0], np.uint8)).all()
    assert preprocess.thumbnail(picture, 160)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    # the last one lies in several pieces of Pillow's memory
    "size",
    [(1200, 150), (150, 1200), (402, 300), (300, 402), (1000, 1000), (90, 110), (2200, 2000)],
)
def test_other_ways_to_resize_differ_by_rounding_alone(size: tuple[int, int], exact: bool) -> None:
    preset = catalog.FALLBACK_PREPROCESS
    smooth = noise(40, 40).resize(size, Image.Resampling.BICUBIC)
    _, pixels = preprocess.fit(smooth, preset, exact=exact)
    reference = torchvisions(preset)(smooth).numpy()
    mean, std = np.array(preset.mean)[:, None, None], np.array(preset.std)[:, None, None]
    assert np.abs(pixels - ((reference * std + mean) * 255).transpose(1, 2, 0)).max() < 2


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize(
    ("size", "thumbnail_px", "kept"),
    [
        ((500, 400), 160, (320, 256)),
        ((500, 400), 400, (500, 400)),
        ((90, 80), 40, (90, 80)),
        ((900, 90), 16, (900, 90)),
    ],
)
def test_what_a_thumbnail_is_made_of_is_as_small_as_it_may_be(
    precision: Precision, size: tuple[int, int], thumbnail_px: int, kept: tuple[int, int]
) -> None:
    space = catalog.resolve_space(None, None, precision, SETTINGS.weights_dir)
    settings = Settings(thumbnail_px=thumbnail_px)
    picture, pixels = preprocess.prepare(encode(noise(*size), "JPEG"), space, settings)
    assert (picture.image.size, picture.width, picture.height) == (kept, *size)
    assert pixels.shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("crop", "size"),
    [
        ((0, 0, 1, 1), (30, 10)),
        ((0.1, 0.7, 0.9, 0.3), (27, 3)),
        ((1 / 3, 0, 1 / 3, 0.1), (10, 1)),
        ((0.34, 0.05, 0.01, 0.01), (1, 1)),
        ((0.999999, 1, 0.000001, 0.000001), (1, 1)),
    ],
)
def test_a_crop_has_the_pixels_that_it_touches(crop: tuple[float, ...], size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (10, 30, 3), np.uint8))
    found = preprocess.part(image, crop)
    left, top = min(int(crop[0] * 30 + 0.01), 29), min(int(crop[1] * 10 + 0.01), 9)
    assert found.size == size
    assert found.tobytes() == image.crop((left, top, left + size[0], top + size[1])).tobytes()


def test_a_part_of_a_large_jpeg_keeps_enough_pixels() -> None:
    """A `fast` space decodes such a JPEG at a quarter of its size, of which the part would be 80 pixels."""
    space = catalog.resolve_space(None, None, Precision.FAST, SETTINGS.weights_dir)
    data = encode(noise(3200, 3200), "JPEG")
    _, pixels = preprocess.prepare(data, space, SETTINGS, crop=(0.4, 0.4, 0.1, 0.1))
    part = decoding.decode(data, SETTINGS).image.crop((1280, 1280, 1600, 1600))
    assert (pixels == preprocess.fit(part, space.preprocess, exact=False)[1]).all()


def test_large_jpegs_can_be_decoded_smaller() -> None:
    data = encode(noise(60, 40).resize((2000, 1400), Image.Resampling.BICUBIC), "JPEG")
    picture = decoding.decode(data, SETTINGS, at_least_px=256)
    assert (picture.width, picture.height) == (2000, 1400)
    assert picture.image.size == (500, 350)


def test_small_jpegs_are_never_decoded_below_what_is_asked() -> None:
    for width, height in [(256, 300), (511, 600), (512, 600), (100, 90), (2049, 2050)]:
        picture = decoding.decode(encode(noise(width, height), "JPEG"), SETTINGS, at_least_px=256)
        assert min(picture.image.size) >= min(256, width, height)


# --- thumbnails


@pytest.mark.parametrize(("size", "expected"), [((500, 400), (160, 128)), ((40, 30), (40, 30)), ((1, 5000), (1, 160))])
def test_thumbnails_fit_and_are_jpegs(size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = decoding.decode(encode(Image.new("RGB", size, (200, 30, 30)), "PNG"), SETTINGS)
    with Image.open(io.BytesIO(preprocess.thumbnail(picture, 160)), formats=["JPEG"]) as thumbnail:
        assert thumbnail.size == expected
        assert np.abs(np.asarray(thumbnail).astype(int) - [200, 30, 30]).max() < 12
