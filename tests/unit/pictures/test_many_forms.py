"""Pictures in the many forms that a format has: each decodes to what a viewer shows of it."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from imagekin.settings import Settings
from imagekin_worker.pictures.decoding import decode
from kit.picture_files import (
    HEIGHT,
    LONG,
    SHORT,
    TEXT,
    WIDTH,
    bmp,
    colors,
    encoded,
    grays,
    plain,
    png,
    scene,
    tiff,
)  # fmt: skip

SETTINGS = Settings()
SCENE, GRAY = scene(), Image.fromarray(grays())
TURNED = SCENE.transpose(Image.Transpose.ROTATE_90)
Make = Callable[[], tuple[bytes, Image.Image]]


def exif(value: int = 6) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = value
    return found


def by_hand(order: str, kind: int, value: bytes) -> bytes:
    """Write EXIF of an orientation alone, its value in four bytes."""
    mark = b"MM\0*" if order == ">" else b"II*\0"
    return b"Exif\0\0" + mark + struct.pack(order + "IHHHI", 8, 1, 0x0112, kind, 1) + value + bytes(4)


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def text_profile() -> PngImagePlugin.PngInfo:
    """EXIF as ImageMagick wrote it into PNGs before they had a chunk for it."""
    raw = exif().tobytes()
    lines = "\n".join(raw.hex()[at : at + 72] for at in range(0, 2 * len(raw), 72))
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(raw):8d}\n{lines}\n", zip=True)
    return info


def xmp_text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return info


def other_exif() -> Image.Exif:
    """EXIF without an orientation, for whose resolution Pillow reads it as it opens the file."""
    found = Image.Exif()
    found[0x011A] = 72.0
    return found


QUALITY = {"quality": 95, "subsampling": 0}
ORIENTED: dict[str, Make] = {
    "JPEG": lambda: (encoded(TURNED, "JPEG", exif=exif(), **QUALITY), SCENE),
    "TIFF": lambda: (encoded(TURNED, "TIFF", tiffinfo={274: 6}), SCENE),
    "PNG": lambda: (encoded(TURNED, "PNG", exif=exif()), SCENE),
    "WebP": lambda: (encoded(TURNED, "WEBP", lossless=True, exif=exif()), SCENE),
    "AVIF": lambda: (encoded(TURNED, "AVIF", quality=95, exif=exif()), SCENE),
    "Motorola's order": lambda: (
        encoded(TURNED, "JPEG", exif=by_hand(">", 3, struct.pack(">HH", 6, 0)), **QUALITY), SCENE,
    ),
    "a long number": lambda: (encoded(TURNED, "JPEG", exif=by_hand("<", 4, struct.pack("<I", 6)), **QUALITY), SCENE),
    "bytes in the wrong order": lambda: (
        encoded(SCENE, "JPEG", exif=by_hand("<", 3, struct.pack("<HH", 0x0600, 0)), **QUALITY), SCENE,
    ),
    "PNG, in a text": lambda: (encoded(TURNED, "PNG", pnginfo=text_profile()), SCENE),
    "XMP alone": lambda: (encoded(TURNED, "JPEG", xmp=XMP, **QUALITY), TURNED),
    "XMP and EXIF without it": lambda: (encoded(TURNED, "JPEG", xmp=XMP, exif=other_exif(), **QUALITY), TURNED),
    "XMP and EXIF": lambda: (encoded(TURNED, "JPEG", xmp=XMP, exif=exif(8), **QUALITY), TURNED.rotate(90, expand=True)),
    "XMP in a PNG": lambda: (encoded(TURNED, "PNG", pnginfo=xmp_text()), TURNED),
    "XMP in a WebP": lambda: (encoded(TURNED, "WEBP", lossless=True, xmp=XMP), TURNED),
}  # fmt: skip


def cmyk(ycck: bool) -> bytes:
    """Write a JPEG of four inks as Adobe does: inverted, with black taken out of the colors, and marked."""
    inks = 255.0 - colors().astype(np.float64)
    black = inks.min(axis=2) / 2
    inks = (inks - black[..., None]) / (255 - black[..., None]) * 255
    planes = [inks[..., at] for at in range(3)]
    if ycck:
        weights = ((0.299, 0.587, 0.114, 0), (-0.168736, -0.331264, 0.5, 128), (0.5, -0.418688, -0.081312, 128))
        planes = [inks @ np.array(each[:3]) + each[3] for each in weights]
        planes = [255 - plane for plane in planes]
    stored = [np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in (*planes, black)]
    data = encoded(Image.merge("CMYK", [Image.fromarray(plane) for plane in stored]), "JPEG", quality=98)
    at = data.index(b"Adobe") + 11
    return data[:at] + (b"\2" if ycck else data[at : at + 1]) + data[at + 1 :]


def bmp_of(bits: int, pixels: NDArray[np.generic], height: int = HEIGHT, masks: bytes = b"") -> bytes:
    rows = b"".join(row.tobytes() + bytes(-len(row.tobytes()) % 4) for row in pixels)
    method = 3 if masks else 0
    return bmp(struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, method, len(rows), 0, 0, 0, 0) + masks, rows)


def bgr() -> NDArray[np.uint8]:
    return colors()[:, :, ::-1]


def sixteen_bits() -> NDArray[np.uint16]:
    wide = colors().astype(np.uint16)
    return (wide[..., 0] >> 3 << 11 | wide[..., 1] >> 2 << 5 | wide[..., 2] >> 3).astype(np.uint16)


def bmp_v5() -> bytes:
    pixels = np.concatenate([bgr()[::-1], np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], 2).tobytes()
    header = struct.pack("<IiiHHIIiiII", 124, WIDTH, HEIGHT, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    return bmp(header + masks + b"BGRs" + bytes(48) + struct.pack("<4I", 4, 0, 0, 0), pixels)


def heights(no_data: float, dtype: str = "<f4") -> tuple[NDArray[np.generic], Image.Image]:
    """Heights of land beside water where none were measured, and how they look."""
    land = np.hypot(*np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]) < 0.8
    values = np.where(land, grays() * 12.0, no_data).astype(dtype)
    greatest = (grays() * 12.0)[land].max()
    return values, Image.fromarray(np.rint(np.where(land, grays() * 12.0 / greatest * 255, 0)).astype(np.uint8))


def no_data(value: float, dtype: str, bits: int, format: int, said: bytes = b"") -> tuple[bytes, Image.Image]:
    values, shown = heights(value, dtype)
    return tiff(plain(values, bits, 1, format) | ({42113: (TEXT, said + b"\0")} if said else {})), shown


def tiles() -> bytes:
    side = 32
    padded = np.zeros((-(-HEIGHT // side) * side, -(-WIDTH // side) * side, 3), np.uint8)
    padded[:HEIGHT, :WIDTH] = colors()
    found = [
        padded[top : top + side, left : left + side].tobytes()
        for top in range(0, len(padded), side)
        for left in range(0, padded.shape[1], side)
    ]
    tags = {tag: each for tag, each in plain(colors(), 8, 2).items() if tag not in (273, 278, 279)}
    tags |= {322: (SHORT, side), 323: (SHORT, side), 324: (LONG, found), 325: (LONG, [len(each) for each in found])}
    return tiff(tags)


def transparent() -> tuple[Image.Image, Image.Image]:
    """A picture with a round hole around it, and how it looks on white."""
    mask = Image.fromarray(
        (np.hypot(*np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]) < 0.8).astype(np.uint8) * 255
    )
    picture = SCENE.copy()
    picture.putalpha(mask)
    return picture, Image.composite(SCENE, Image.new("RGB", SCENE.size, "white"), mask)


def flat(size: tuple[int, int], format: str) -> tuple[bytes, Image.Image]:
    picture = Image.new("RGB", size, (200, 30, 30))
    return encoded(picture, format), picture


FRAMES = {"save_all": True, "append_images": [ImageOps.invert(SCENE), GRAY.convert("RGB")]}
VIDEO = struct.pack(">I4s4s", 24, b"ftyp", b"mp42") + bytes(12) + struct.pack(">I4s", 1008, b"mdat") + bytes(1000)
FIVE = np.concatenate([colors(), colors()[..., :2]], 2)
DEEP = colors().astype(">u2") * 257
PALETTE, ONE_BIT = SCENE.quantize(256), SCENE.convert("1")
FORMS: dict[str, Make] = {
    "inks": lambda: (cmyk(ycck=False), SCENE),
    "inks by brightness": lambda: (cmyk(ycck=True), SCENE),
    "gray JPEG": lambda: (encoded(GRAY, "JPEG", quality=95), GRAY),
    "a motion photo": lambda: (encoded(SCENE, "JPEG", **QUALITY) + VIDEO, SCENE),
    "a JPEG behind a JPEG": lambda: (encoded(SCENE, "JPEG", **QUALITY) + encoded(GRAY, "JPEG"), SCENE),
    "two pictures in a JPEG": lambda: (
        encoded(SCENE, "MPO", save_all=True, append_images=[ImageOps.invert(SCENE).resize((24, 18))], **QUALITY), SCENE,
    ),
    "BMP of 32 bits, the last unused": lambda: (
        bmp_of(32, np.concatenate([bgr()[::-1], np.zeros((HEIGHT, WIDTH, 1), np.uint8)], 2)), SCENE,
    ),
    "BMP from its top": lambda: (bmp_of(24, bgr(), -HEIGHT), SCENE),
    "BMP of 16 bits": lambda: (bmp_of(16, sixteen_bits()[::-1], masks=struct.pack("<3I", 0xF800, 0x7E0, 0x1F)), SCENE),
    "BMP 5": lambda: (bmp_v5(), SCENE),
    "TIFF, LZW": lambda: (encoded(SCENE, "TIFF", compression="tiff_lzw"), SCENE),
    "TIFF, deflate": lambda: (encoded(SCENE, "TIFF", compression="tiff_adobe_deflate"), SCENE),
    "TIFF, packbits": lambda: (encoded(SCENE, "TIFF", compression="packbits"), SCENE),
    "TIFF, JPEG": lambda: (encoded(SCENE, "TIFF", compression="jpeg", quality=95), SCENE),
    "TIFF, fax": lambda: (encoded(ONE_BIT, "TIFF", compression="group4"), ONE_BIT),
    "BigTIFF": lambda: (encoded(SCENE, "TIFF", big_tiff=True), SCENE),
    "TIFF by planes": lambda: (tiff(plain(colors(), 8, 2, planar=2)), SCENE),
    "TIFF in tiles": lambda: (tiles(), SCENE),
    "TIFF of inks": lambda: (encoded(SCENE.convert("CMYK"), "TIFF"), SCENE),
    "TIFF with a palette": lambda: (encoded(PALETTE, "TIFF"), PALETTE),
    "TIFF of two pages": lambda: (encoded(SCENE, "TIFF", **FRAMES), SCENE),
    "TIFF of five bands": lambda: (tiff(plain(FIVE, 8, 2) | {338: (SHORT, [0, 0])}), SCENE),
    "heights, -9999 in water": lambda: no_data(-9999, "<f4", 32, 3),
    "heights, the least float in water": lambda: no_data(float(np.finfo(np.float32).min), "<f4", 32, 3),
    "heights, the greatest float in water": lambda: no_data(float(np.finfo(np.float32).max), "<f4", 32, 3),
    "heights, nothing in water": lambda: no_data(float("nan"), "<f4", 32, 3),
    "whole heights, -9999 in water": lambda: no_data(-9999, "<i4", 32, 2),
    "whole heights of 16 bits, -32768 in water": lambda: no_data(-32768, "<i2", 16, 2),
    "heights that say what was not measured": lambda: no_data(-77, "<f4", 32, 3, b"-77"),
    "GIF, moving": lambda: (encoded(PALETTE, "GIF", save_all=True, append_images=[ONE_BIT], disposal=2), PALETTE),
    "WebP, moving": lambda: (encoded(SCENE, "WEBP", lossless=True, **FRAMES), SCENE),
    "PNG, moving": lambda: (encoded(SCENE, "PNG", **FRAMES), SCENE),
    "AVIF, moving": lambda: (encoded(SCENE, "AVIF", quality=95, **FRAMES), SCENE),
    "PNG of 16 bits": lambda: (png(16, 2, [row.tobytes() for row in DEEP]), SCENE),
    "PNG of one bit": lambda: (encoded(ONE_BIT, "PNG"), ONE_BIT),
    "WebP with a hole": lambda: (encoded(transparent()[0], "WEBP", lossless=True), transparent()[1]),
    "one pixel": lambda: flat((1, 1), "PNG"),
    "a line": lambda: flat((1, 4000), "PNG"),
    "a strip": lambda: flat((65_500, 4), "JPEG"),
}  # fmt: skip
LOSSY = 4.0


def difference(made: tuple[bytes, Image.Image]) -> float:
    data, expected = made
    found = decode(data, SETTINGS).image
    assert found.size == expected.size
    return float(np.abs(np.asarray(found, float) - np.asarray(expected.convert("RGB"), float)).mean())


@pytest.mark.parametrize("name", ORIENTED)
def test_orientation_counts_where_viewers_look_for_it(name: str) -> None:
    assert difference(ORIENTED[name]()) < LOSSY


@pytest.mark.parametrize("name", FORMS)
def test_a_form_looks_as_in_a_viewer(name: str) -> None:
    assert difference(FORMS[name]()) < LOSSY


def test_what_is_white_on_nothing_is_white() -> None:
    """So a white drawing needs a ground: see docs/explanation/pictures.md."""
    logo = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    logo.paste((255,) * 4, (10, 10, 40, 40))
    assert (np.asarray(decode(encoded(logo, "PNG"), SETTINGS).image) == 255).all()
