"""Picture files written byte by byte: what no library writes, as programs in the field do."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

WIDTH, HEIGHT = 96, 72

Chunk = tuple[bytes, bytes]
Tags = dict[int, tuple[int, Any]]
BYTE, TEXT, SHORT, LONG, UNDEFINED = 1, 2, 3, 4, 7


def scene() -> Image.Image:
    """Draw smooth colors with a few edges, so that a channel or a bit at a wrong place shows."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    red, green = 255 * x / WIDTH, 255 * y / HEIGHT
    blue = 128 + 100 * np.sin(x / 9) * np.cos(y / 7)
    pixels = np.stack([red, green, blue], 2).astype(np.uint8)
    pixels[20:40, 30:60] = (220, 60, 40)
    pixels[45:60, 10:30] = (40, 90, 200)
    return Image.fromarray(pixels)


def colors() -> NDArray[np.uint8]:
    return np.asarray(scene())


def grays() -> NDArray[np.uint8]:
    return np.asarray(scene().convert("L"))


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


# --- PNG


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(depth: int, color: int, rows: list[bytes], *before: Chunk, width: int = WIDTH) -> bytes:
    """Write a PNG of unfiltered rows, with chunks before its data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, color, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    extra = b"".join(chunk(*each) for each in before)
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + chunk(b"IEND", b"")


def packed_rows(values: NDArray[Any], depth: int) -> list[bytes]:
    """Return rows of samples below 8 bits, the leftmost in the highest bits."""
    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
    return [np.packbits(row.ravel()).tobytes() for row in bits]


def behind_header(data: bytes, *chunks: bytes) -> bytes:
    """Put chunks behind a PNG's header."""
    return data[:33] + b"".join(chunks) + data[33:]


# --- TIFF


def tiff(*directories: Tags, order: str = "<") -> bytes:
    """Write directories of {tag: (type, values)}; a list of bytes is written out, its places are the values."""
    out = bytearray((b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 0))
    link, codes = 4, {BYTE: "B", SHORT: "H", LONG: "I"}
    for tags in directories:
        entries = []
        for tag, (kind, given) in sorted(tags.items()):
            values: list[Any] = list(given) if isinstance(given, list | tuple | bytes) else [given]
            for at, value in enumerate(values):
                if isinstance(value, bytes):
                    values[at] = len(out)
                    out += value + bytes(len(value) % 2)
            raw = (
                bytes(values)
                if kind in (TEXT, UNDEFINED)
                else struct.pack(f"{order}{len(values)}{codes[kind]}", *values)
            )
            if len(raw) > 4:
                place = struct.pack(order + "I", len(out))
                out += raw + bytes(len(raw) % 2)
            else:
                place = raw.ljust(4, b"\0")
            entries.append(struct.pack(order + "HHI", tag, kind, len(values)) + place)
        out[link : link + 4] = struct.pack(order + "I", len(out))
        out += struct.pack(order + "H", len(entries)) + b"".join(entries)
        link = len(out)
        out += bytes(4)
    return bytes(out)


def plain(pixels: NDArray[Any], bits: int, photometric: int, format: int = 1, planar: int = 1, **more: Any) -> Tags:
    """Return the tags of an uncompressed picture, (height, width) or (height, width, samples)."""
    height, width = pixels.shape[:2]
    count = pixels.shape[2] if pixels.ndim == 3 else 1
    strips = [pixels[..., at].tobytes() for at in range(count)] if planar == 2 else [pixels.tobytes()]
    return {
        256: (SHORT, width), 257: (SHORT, height), 258: (SHORT, [bits] * count), 259: (SHORT, 1),
        262: (SHORT, photometric), 273: (LONG, strips), 277: (SHORT, count), 278: (SHORT, height),
        279: (LONG, [len(strip) for strip in strips]), 284: (SHORT, planar), 339: (SHORT, [format] * count),
    }  # fmt: skip


# --- BMP


def bmp(header: bytes, pixels: bytes) -> bytes:
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + pixels


def bmp_v4(pixels: NDArray[np.uint8]) -> bytes:
    """Write a BMP of 32 bits with masks for blue, green, red and alpha: pixels are (height, width, 4) of RGBA."""
    height, width = pixels.shape[:2]
    data = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(data), 0, 0, 0, 0)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    return bmp(header + masks + b"BGRs" + bytes(48), data)


# --- color profiles (ICC.1:2010)


def profile(
    primaries: list[tuple[float, float]], gamma: float, *, white: tuple[float, float] = (0.3127, 0.3290)
) -> bytes:
    """Write a display profile of three primaries (x, y) and one gamma."""
    matrix = np.stack([_xyz(*each) for each in primaries], 1)
    matrix = matrix * np.linalg.solve(matrix, _xyz(*white))
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1, 0.8249])
    scale = np.diag((bradford @ d50) / (bradford @ _xyz(*white)))
    matrix = np.linalg.inv(bradford) @ scale @ bradford @ matrix
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    tags = {b"wtpt": _xyz_tag(d50)}
    for at, letter in enumerate((b"r", b"g", b"b")):
        tags |= {letter + b"XYZ": _xyz_tag(matrix[:, at]), letter + b"TRC": curve}
    return _icc(b"RGB ", tags)


def gray_profile(gamma: float) -> bytes:
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    return _icc(b"GRAY", {b"wtpt": _xyz_tag(np.array([0.9642, 1, 0.8249])), b"kTRC": curve})


def into(image: Image.Image, icc: bytes) -> Image.Image:
    """Return an sRGB picture with the same colors in another profile's numbers."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    mode = "L" if icc[16:20] == b"GRAY" else "RGB"
    found = ImageCms.profileToProfile(image, srgb, ImageCms.ImageCmsProfile(io.BytesIO(icc)), outputMode=mode)
    assert found is not None
    return found


def _icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"a\0" + bytes(78), b"cprt": b"text\0\0\0\0-\0", **tags}
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s6H4s", 0, b"none", 0x02400000, b"mntr", space, b"XYZ ", 2020, 1, 1, 0, 0, 0, b"acsp")
    head = head.ljust(68, b"\0") + _fixed(np.array([0.9642, 1, 0.8249]))
    whole = head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def _xyz(x: float, y: float) -> NDArray[np.float64]:
    return np.array([x / y, 1, (1 - x - y) / y])


def _xyz_tag(values: NDArray[np.float64]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def _fixed(values: NDArray[np.float64]) -> bytes:
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)
