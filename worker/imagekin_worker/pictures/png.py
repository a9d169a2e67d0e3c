"""PNG files, reduced to what their pixels need.

Other chunks (texts, times, private ones) never decide whether a picture is read: they are removed before Pillow sees
the file, as are those whose checksum does not match, which is libpng's default, too. The layouts are those of the W3C's
Portable Network Graphics (Third Edition), sections 5 and 11.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from imagekin import errors

MAX_PROFILE_BYTES = 4 << 20
"""The largest color profile, inflated, that is read; a larger one is ignored like a broken one."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_FRAME = 12
_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT"})
_KEPT = frozenset({b"tRNS", b"eXIf"})
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
# What Pillow takes a picture's orientation from where there is no eXIf.
_TURNING_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")
_MAX_TEXT_BYTES = PngImagePlugin.MAX_TEXT_CHUNK
_LONGEST_KEYWORD = 80


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    end: int
    whole: bool


class Stripped(NamedTuple):
    """A PNG without what its pixels do not need: the file, its color profile, and its transparent color (tRNS)."""

    data: bytes
    profile: bytes | None
    transparent: bytes | None


def stripped(data: bytes) -> Stripped:
    """Remove what the pixels do not need; a missing end marker is put back if everything before it is there.

    Missing or damaged pixels stay so. Raises UnsupportedFormat for Apple's own form of PNG.
    """
    pieces, profile, transparent = [_SIGNATURE], None, None
    depth_and_color = data[24:26]
    for chunk in _chunks(data):
        body = data[chunk.start + 8 : chunk.end - 4]
        if chunk.kind == b"CgBI":
            raise errors.UnsupportedFormat("The file is a PNG in the form that Apple's tools make for apps (CgBI).")
        if not chunk.whole:
            if chunk.kind in _CRITICAL:
                pieces.append(data[chunk.start :])
                return Stripped(b"".join(pieces), profile, transparent)
            continue
        if chunk.kind in _CRITICAL:
            pieces.append(data[chunk.start : chunk.end])
        elif _valid(data, chunk):
            if chunk.kind == b"iCCP":
                profile = profile or _profile(body)
            elif chunk.kind == b"tRNS" and depth_and_color[1:] in (b"\0", b"\2"):
                transparent = body
            elif chunk.kind in _KEPT or _turns(chunk.kind, body):
                pieces.append(data[chunk.start : chunk.end])
    return Stripped(b"".join([*pieces, _END]), profile, transparent)


def opaque(image: Image.Image, data: bytes, transparent: bytes) -> NDArray[np.bool_] | None:
    """Return which pixels (height, width) of a gray or RGB picture are not the transparent color, at its full depth.

    `image` was loaded from `data`, the result of `stripped`. None if the color does not exist at that depth.
    """
    depth, color = data[24], data[25]
    count = 1 if color == 0 else 3
    if len(transparent) < 2 * count:
        return None
    wanted = np.array(struct.unpack(f">{count}H", transparent[: 2 * count]), np.uint16) & np.uint16((1 << depth) - 1)
    if color == 0:
        return np.asarray(image if image.mode != "1" else image.convert("L")) != wanted[0] * _step(depth)
    if depth == 8:
        return (np.asarray(image) != wanted.astype(np.uint8)).any(axis=2)
    high, low = (wanted >> 8).astype(np.uint8), (wanted & 0xFF).astype(np.uint8)
    return (np.asarray(image) != high).any(axis=2) | (np.asarray(_low_bytes(data)) != low).any(axis=2)


def _step(depth: int) -> int:
    """Return how far apart two neighboring values of that depth lie in the picture that Pillow makes."""
    return 1 if depth >= 8 else 255 // ((1 << depth) - 1)


def _low_bytes(data: bytes) -> Image.Image:
    """Return a 16-bit RGB picture's low bytes: read as little-endian, they are the high ones."""
    with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        image.load()
        return image.copy()


def _chunks(data: bytes) -> Iterator[_Chunk]:
    at = len(_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            return
        end = at + _FRAME + length
        yield _Chunk(kind, at, min(end, len(data)), end <= len(data))
        at = end


def _valid(data: bytes, chunk: _Chunk) -> bool:
    (checksum,) = struct.unpack_from(">I", data, chunk.end - 4)
    return zlib.crc32(data[chunk.start + 4 : chunk.end - 4]) == checksum


def _turns(kind: bytes, body: bytes) -> bool:
    if kind not in _TEXTS or not body.startswith(_TURNING_TEXTS) or len(body) > _MAX_TEXT_BYTES:
        return False
    rest = body[body.index(b"\0") + 1 :]
    if kind == b"iTXt":
        compressed, texts = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
        packed = texts[2] if compressed and len(texts) == 3 else None
    else:
        packed = rest[1:] if kind == b"zTXt" else None
    return packed is None or _inflated(packed, _MAX_TEXT_BYTES) is not None


def _profile(body: bytes) -> bytes | None:
    end = body.find(b"\0", 0, _LONGEST_KEYWORD)
    return None if end < 0 else _inflated(body[end + 2 :], MAX_PROFILE_BYTES)


def _inflated(data: bytes, most: int) -> bytes | None:
    """Return what `data` inflates to; None if that is broken, cut off, or more than `most` bytes."""
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(data, most)
    except zlib.error:
        return None
    return inflated if inflater.eof else None
