"""Pixels decide, not metadata: files as programs in the field write them, and what a viewer shows of each."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from imagekin import errors
from imagekin.settings import Settings
from imagekin_worker.network import preprocess
from imagekin_worker.pictures.decoding import decode
from kit.picture_files import (
    BYTE,
    HEIGHT,
    LONG,
    SHORT,
    TEXT,
    WIDTH,
    behind_header,
    bmp,
    bmp_v4,
    chunk,
    colors,
    encoded,
    grays,
    packed_rows,
    plain,
    png,
    scene,
    tiff,
)  # fmt: skip

SETTINGS = Settings()
MEGABYTE = 1 << 20
# The picture's middle, and what lies around it.
INSIDE = np.hypot(*np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]) < 0.8


def shown(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, SETTINGS).image).astype(int)


def gray_rgb(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, 2).astype(int)


def on_white(values: np.ndarray) -> np.ndarray:
    return np.where(INSIDE[..., None], values, 255)


# --- PNG: transparent colors


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_transparent_gray_counts_at_its_depth(depth: int) -> None:
    most = (1 << depth) - 1
    values = np.where(INSIDE, np.minimum(grays() >> (8 - depth), most - 1), most)
    data = png(depth, 0, packed_rows(values, depth), (b"tRNS", struct.pack(">H", most)))
    assert np.array_equal(shown(data), on_white(gray_rgb(values * (255 // most))))


def test_bits_above_the_depth_say_nothing() -> None:
    values = np.where(INSIDE, 3, 5)
    data = png(4, 0, packed_rows(values, 4), (b"tRNS", struct.pack(">H", 0xFF05)))
    assert np.array_equal(shown(data), on_white(np.full((HEIGHT, WIDTH, 3), 51)))


def test_a_transparent_gray_of_sixteen_bits_is_one_of_65536() -> None:
    values = np.where(INSIDE, 0x1235, 0x1234).astype(">u2")
    data = png(16, 0, [row.tobytes() for row in values], (b"tRNS", struct.pack(">H", 0x1234)))
    assert np.array_equal(shown(data), on_white(np.full((HEIGHT, WIDTH, 3), 0x12)))


def test_a_transparent_color_of_sixteen_bits_differs_in_its_low_bytes() -> None:
    deep = colors().astype(int) * 257
    deep[~INSIDE] = (0x1234, 0x5678, 0x9ABC)
    deep[0, 0] = (0x1234, 0x5678, 0x9ABD)
    data = png(
        16, 2, [row.tobytes() for row in deep.astype(">u2")], (b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    )
    expected = on_white(deep >> 8)
    expected[0, 0] = (0x12, 0x56, 0x9A)
    assert np.array_equal(shown(data), expected)


def test_a_transparent_color_of_eight_bits() -> None:
    flat = colors().copy()
    flat[~INSIDE] = (1, 2, 3)
    data = png(8, 2, [row.tobytes() for row in flat], (b"tRNS", struct.pack(">3H", 1, 2, 3)))
    assert np.array_equal(shown(data), on_white(flat))


def test_a_transparent_color_turns_with_the_picture() -> None:
    values = np.where(INSIDE, grays() | 1, 0)
    values[:20] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(values.astype(np.uint8)), "PNG", transparency=0, exif=exif)
    assert np.array_equal(shown(data), np.rot90(gray_rgb(np.where(values == 0, 255, values)), -1))


# --- PNG: what no pixel needs


def long_text() -> str:
    return json.dumps([{"step": at, "tool": "brush"} for at in range(50_000)])


def _itxt(zip_: bool) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("history", long_text(), zip=zip_)
    return info


def _many_texts() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for at in range(90):
        info.add_text(f"part {at}", "x" * 1_000_000, zip=True)
    return info


PLAIN_PNG = encoded(scene(), "PNG")
TURNING_EXIF = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, 6, 0, 0)
UNNEEDED = {
    "a long compressed text": encoded(scene(), "PNG", pnginfo=_itxt(True)),
    "a long text": encoded(scene(), "PNG", pnginfo=_itxt(False)),
    "90 MB of texts": encoded(scene(), "PNG", pnginfo=_many_texts()),
    "a profile beyond 1 MiB": behind_header(PLAIN_PNG, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(3 * MEGABYTE)))),
    "a profile beyond 4 MiB": behind_header(PLAIN_PNG, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(9 * MEGABYTE)))),
    "a profile that is no zlib": behind_header(PLAIN_PNG, chunk(b"iCCP", b"a\0\0not zlib")),
    "a profile without a name": behind_header(PLAIN_PNG, chunk(b"iCCP", b"x" * 200)),
    "a text's checksum": behind_header(PLAIN_PNG, chunk(b"tEXt", b"Comment\0x", 1)),
    "a time's checksum": behind_header(PLAIN_PNG, chunk(b"tIME", bytes(7), 1)),
    "a profile's checksum": behind_header(PLAIN_PNG, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200)), 1)),
    "a transparent color's checksum": behind_header(PLAIN_PNG, chunk(b"tRNS", struct.pack(">3H", 220, 60, 40), 1)),
    "orientation's checksum": behind_header(PLAIN_PNG, chunk(b"eXIf", TURNING_EXIF, 1)),
    "a chunk with a name that is none": behind_header(PLAIN_PNG, chunk(b"s\x01IT", b"\5\5\5")),
    "a chunk of a program's own": behind_header(PLAIN_PNG, chunk(b"vpAg", bytes(9)), chunk(b"XXXX", b"?")),
    "a short gAMA": behind_header(PLAIN_PNG, chunk(b"gAMA", b"\0")),
    "a short pHYs": behind_header(PLAIN_PNG, chunk(b"pHYs", b"\0\0")),
    "an empty sRGB": behind_header(PLAIN_PNG, chunk(b"sRGB", b"")),
    "the end marker": PLAIN_PNG[:-12],
    "half the end marker": PLAIN_PNG[:-5],
    "the end marker, and half a text behind": PLAIN_PNG[:-12] + chunk(b"tEXt", b"Comment\0" + b"x" * 90)[:50],
    "bytes behind the end": PLAIN_PNG + bytes(5000) + PLAIN_PNG,
}  # fmt: skip


@pytest.mark.parametrize("name", UNNEEDED)
def test_pngs_with_damage_that_no_pixel_has_are_whole(name: str) -> None:
    assert np.array_equal(shown(UNNEEDED[name]), colors())


def test_what_is_missing_in_a_pngs_pixels_fails() -> None:
    stream = zlib.compress(b"".join(b"\0" + row.tobytes() for row in colors()))
    header = PLAIN_PNG[:33]
    for kept in (0.5, 0.95):
        cut = header + chunk(b"IDAT", stream[: int(kept * len(stream))])
        for end in (b"", PLAIN_PNG[-12:]):
            with pytest.raises(errors.DecodeError):
                decode(cut + end, SETTINGS)
    with pytest.raises(errors.DecodeError):
        decode(header + chunk(b"IDAT", stream)[: len(stream) // 2], SETTINGS)
    with pytest.raises(errors.DecodeError):
        decode(header + PLAIN_PNG[-12:], SETTINGS)


def test_apples_own_pngs_are_named() -> None:
    data = PLAIN_PNG[:8] + chunk(b"CgBI", b"P\0 \2") + PLAIN_PNG[8:]
    with pytest.raises(errors.UnsupportedFormat, match="CgBI"):
        decode(data, SETTINGS)


# --- JPEG: a missing end


def large() -> Image.Image:
    return scene().resize((320, 240), Image.Resampling.BICUBIC)


JPEGS = {
    "baseline": {"quality": 90},
    "progressive": {"quality": 90, "progressive": True},
    "restarting": {"quality": 90, "restart_marker_rows": 1},
    "no subsampling": {"quality": 95, "subsampling": 0},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("less", [1, 2, 4])
def test_jpegs_that_lack_their_last_bytes_are_whole(kind: str, less: int) -> None:
    whole = encoded(large(), "JPEG", **JPEGS[kind])
    expected, found = shown(whole), shown(whole[:-less])
    assert (expected != found).any(2).mean() < 0.01
    assert np.array_equal(shown(whole[:-2] + bytes(64)), expected)


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.96])
def test_jpegs_that_lack_more_fail(kind: str, kept: float) -> None:
    whole = encoded(large(), "JPEG", **JPEGS[kind])
    with pytest.raises(errors.DecodeError, match="truncated"):
        decode(whole[: int(kept * len(whole))], SETTINGS)


def test_a_progressive_jpeg_without_its_last_scans_fails() -> None:
    whole = encoded(large(), "JPEG", quality=90, progressive=True)
    for scan in range(1, 6):
        at = -1
        for _ in range(scan):
            at = whole.index(b"\xff\xda", at + 1)
        with pytest.raises(errors.DecodeError):
            decode(whole[:at], SETTINGS)


def test_gray_and_cmyk_jpegs_without_their_end_are_whole() -> None:
    for mode in ("L", "CMYK"):
        whole = encoded(large().convert(mode), "JPEG", quality=90)
        assert np.array_equal(shown(whole[:-2]), shown(whole))


# --- BMP


def with_alpha(alpha: np.ndarray) -> np.ndarray:
    return np.concatenate([colors(), alpha.astype(np.uint8)[..., None]], 2)


def test_a_bmp_whose_alpha_is_nothing_is_opaque() -> None:
    assert np.array_equal(shown(bmp_v4(with_alpha(np.zeros((HEIGHT, WIDTH))))), colors())


def test_a_bmps_alpha_counts_where_it_is_something() -> None:
    assert np.array_equal(shown(bmp_v4(with_alpha(np.where(INSIDE, 255, 0)))), on_white(colors()))


def test_thumbnails_of_such_bmps_show_them() -> None:
    picture = decode(bmp_v4(with_alpha(np.zeros((HEIGHT, WIDTH)))), SETTINGS)
    with Image.open(io.BytesIO(preprocess.thumbnail(picture, 160)), formats=["JPEG"]) as small:
        assert np.abs(np.asarray(small, int) - colors()).mean() < 4


def test_a_bmps_reserved_words_and_lengths_say_nothing() -> None:
    data = encoded(scene(), "BMP")
    assert np.array_equal(shown(data[:6] + b"LEAD" + data[10:]), colors())
    assert np.array_equal(shown(data[:2] + bytes(4) + data[6:]), colors())
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 24, 0, 0, 0, 0, 0, 0)
    assert np.array_equal(shown(bmp(header, colors()[::-1, :, ::-1].tobytes())), colors())


# --- TIFF: depths


def deep(values: np.ndarray, scale: int, dtype: str) -> np.ndarray:
    return (values.astype(np.int64) * scale).astype(dtype)


GRAY_TIFFS = {
    "white is zero, 8 bits": tiff(plain(255 - grays(), 8, 0)),
    "white is zero, 16 bits": tiff(plain(deep(255 - grays(), 257, "<u2"), 16, 0)),
    "white is zero, 16 bits, Motorola": tiff(plain(deep(255 - grays(), 257, ">u2"), 16, 0), order=">"),
    "white is zero, 16 signed bits": tiff(plain(deep(255 - grays(), 128, "<i2"), 16, 0, 2)),
    "white is zero, floats": tiff(plain((1 - grays() / 255).astype("<f4"), 32, 0, 3)),
    "white is zero, 32 bits": tiff(plain(deep(255 - grays(), 257, "<u4"), 32, 0)),
    "black is zero, 16 bits": tiff(plain(deep(grays(), 257, "<u2"), 16, 1)),
    "12 bits in 16": tiff(plain(deep(grays(), 16, "<u2"), 16, 1)),
    "8 bits in 16": tiff(plain(deep(grays(), 1, "<u2"), 16, 1)),
    "16 signed bits": tiff(plain(deep(grays(), 128, "<i2"), 16, 1, 2)),
}


@pytest.mark.parametrize("name", GRAY_TIFFS)
def test_deep_gray_tiffs_look_as_they_are_meant(name: str) -> None:
    assert np.abs(shown(GRAY_TIFFS[name]) - gray_rgb(grays())).max() <= 1


def compressed(pixels: np.ndarray, bits: int, **tags: int) -> bytes:
    """Write a TIFF whose strips, one for each plane, are deflated."""
    found = plain(pixels, bits, 2, **tags)
    strips = [zlib.compress(strip) for strip in found[273][1]]
    return tiff(found | {259: (SHORT, 8), 273: (LONG, strips), 279: (LONG, [len(strip) for strip in strips])})


def tiled(pixels: np.ndarray, bits: int, format: int) -> bytes:
    side = 32
    padded = np.zeros((-(-HEIGHT // side) * side, -(-WIDTH // side) * side, 3), pixels.dtype)
    padded[:HEIGHT, :WIDTH] = pixels
    tiles = [
        padded[top : top + side, left : left + side].tobytes()
        for top in range(0, len(padded), side)
        for left in range(0, padded.shape[1], side)
    ]
    tags = plain(pixels, bits, 2, format)
    for strip_tag in (273, 278, 279):
        del tags[strip_tag]
    tags |= {322: (SHORT, side), 323: (SHORT, side), 324: (LONG, tiles), 325: (LONG, [len(tile) for tile in tiles])}
    return tiff(tags)


DEEP = deep(colors(), 257, "<u2")
FLOATS = (colors() / 255).astype("<f4")
COLOR_TIFFS = {
    "16 bits": tiff(plain(DEEP, 16, 2)),
    "16 bits by planes": tiff(plain(DEEP, 16, 2, planar=2)),
    "16 bits by planes, Motorola": tiff(plain(DEEP.astype(">u2"), 16, 2, planar=2), order=">"),
    "16 bits by planes, deflated": compressed(DEEP, 16, planar=2),
    "12 bits in 16 by planes": tiff(plain(deep(colors(), 16, "<u2"), 16, 2, planar=2)),
    "floats": tiff(plain(FLOATS, 32, 2, 3)),
    "floats up to 255": tiff(plain(FLOATS * np.float32(255), 32, 2, 3)),
    "floats, Motorola": tiff(plain(FLOATS.astype(">f4"), 32, 2, 3), order=">"),
    "floats by planes": tiff(plain(FLOATS, 32, 2, 3, planar=2)),
    "floats, deflated": compressed(FLOATS, 32, format=3),
    "floats in tiles": tiled(FLOATS, 32, 3),
    "32 bits": tiff(plain(deep(colors(), 257, "<u4"), 32, 2)),
    "8 bits by planes": tiff(plain(colors(), 8, 2, planar=2)),
}


@pytest.mark.parametrize("name", COLOR_TIFFS)
def test_deep_color_tiffs_look_as_they_are_meant(name: str) -> None:
    assert np.abs(shown(COLOR_TIFFS[name]) - colors()).max() <= 1


def test_a_tiff_taken_apart_is_turned_as_well() -> None:
    turned = np.ascontiguousarray(np.rot90(DEEP))
    picture = decode(tiff(plain(turned, 16, 2, planar=2) | {274: (SHORT, 6)}), SETTINGS)
    assert np.array_equal(np.asarray(picture.image), colors())
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(plain((grays() / 255).astype("<f8"), 64, 1, 3)), "unknown pixel mode"),
        (tiff(plain((colors() / 255).astype("<f8"), 64, 2, 3)), "64-bit samples of format 3"),
        (tiff(plain(FLOATS, 32, 2, 3) | {317: (SHORT, 3), 259: (SHORT, 8)}), "behind a predictor"),
        (tiff(plain(np.concatenate([FLOATS, FLOATS[..., :1]], 2), 32, 2, 3) | {338: (SHORT, 2)}), "Transparency"),
        (tiff(plain(colors(), 8, 2) | {259: (SHORT, 60_000)}), "compressed by a method"),
        (tiff(plain(colors(), 8, 2) | {258: (SHORT, [5, 6, 5])}), "unknown pixel mode"),
    ],
)
def test_tiffs_of_other_depths_are_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(errors.UnsupportedFormat, match=reason):
        decode(data, SETTINGS)


def test_a_deep_tiff_that_is_cut_off_fails() -> None:
    tags = plain(FLOATS, 32, 2, 3)
    for kept in (0.4, 0.9):
        strip = FLOATS.tobytes()[: int(FLOATS.nbytes * kept)]
        with pytest.raises(errors.DecodeError):
            decode(tiff(tags | {273: (LONG, [strip])}), SETTINGS)


def test_a_deep_tiff_is_bounded_before_it_is_read() -> None:
    with pytest.raises(errors.DecompressionBomb):
        decode(tiff(plain(FLOATS, 32, 2, 3)), Settings(max_image_pixels=100))


# --- TIFF: which picture


def small_copy() -> np.ndarray:
    return np.asarray(scene().resize((24, 18)))


def preview(**more: object) -> dict:
    return plain(small_copy(), 8, 2) | {254: (LONG, 1), **more}


SENSOR = plain(deep(grays(), 16, "<u2"), 16, 32803) | {254: (LONG, 0)}
RAWS = {
    "NEF": tiff(preview() | {271: (TEXT, b"NIKON\0")}, SENSOR),
    "NEF whose picture cannot be seen": tiff(preview(), {254: (LONG, 0), 256: (SHORT, 6000)}),
    "DNG": tiff(preview() | {50706: (BYTE, b"\1\4\0\0")}),
    "DNG with all in it": tiff(preview() | {50706: (BYTE, b"\1\4\0\0")}, SENSOR),
    "ARW": tiff(preview(), plain(deep(grays(), 16, "<u2"), 16, 1) | {254: (LONG, 0), 259: (SHORT, 32767)}),
    "linear": tiff(preview(), plain(DEEP, 16, 34892) | {254: (LONG, 0)}),
    "PEF": tiff(plain(colors(), 8, 2), plain(deep(grays(), 16, "<u2"), 16, 1) | {259: (SHORT, 65535)}),
}  # fmt: skip


@pytest.mark.parametrize("name", RAWS)
def test_the_preview_of_a_raw_file_is_not_its_picture(name: str) -> None:
    with pytest.raises(errors.UnsupportedFormat, match="raw file"):
        decode(RAWS[name], SETTINGS)


def test_of_a_small_copy_and_the_picture_the_picture_counts() -> None:
    whole = plain(colors(), 8, 2) | {254: (LONG, 0)}
    for data in (tiff(preview(), whole), tiff(preview(), preview(), whole)):
        assert np.array_equal(shown(data), colors())


def test_a_small_copy_that_is_all_there_is_counts() -> None:
    assert np.array_equal(shown(tiff(preview())), small_copy())


def test_of_pages_the_first_counts_whatever_their_size() -> None:
    assert np.array_equal(shown(tiff(plain(small_copy(), 8, 2), plain(colors(), 8, 2))), small_copy())


def test_directories_that_lead_in_circles_end() -> None:
    data = bytearray(tiff(plain(colors(), 8, 2)))
    data[-4:] = data[4:8]
    assert np.array_equal(shown(bytes(data)), colors())


# --- frames and modes beside them


def test_an_animated_png_shows_its_first_frame() -> None:
    data = encoded(scene(), "PNG", save_all=True, append_images=[ImageOps.invert(scene())])
    assert np.array_equal(shown(data), colors())


def test_a_palettes_transparency_is_laid_over_white() -> None:
    picture = scene()
    picture.putalpha(Image.fromarray(np.where(INSIDE, 255, 0).astype(np.uint8)))
    found = shown(encoded(picture.quantize(255), "PNG"))
    assert np.array_equal(found[~INSIDE], np.full((np.count_nonzero(~INSIDE), 3), 255))
