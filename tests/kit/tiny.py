"""Tiny pictures whose keys tell their content, so that any stored vector can be held against what it should be."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from imagekin_worker.network.fake import FakeBackbone, fake_space

SIDE, CELLS = 32, 4
FATAL_RGB = (255, 0, 0)
FATAL = "fatal"

_fake = FakeBackbone(fake_space())


def key(content: str, copy: int = 0) -> str:
    """Name a picture of `content`; copies have other names and the same content."""
    return f"{content}/{copy:06}.bmp"


def content(name: str) -> str:
    """Return what the picture of a key shows."""
    return name.partition("/")[0]


def keys(content: str, count: int) -> list[str]:
    """Name `count` pictures, each of a content of its own."""
    return [key(f"{content}-{number:06}") for number in range(count)]


def pixels(name: str) -> NDArray[np.uint8]:
    """Draw the picture of a key, (32, 32, 3): cells of one color each, as its content says."""
    shown = content(name)
    if shown == FATAL:
        return np.full((SIDE, SIDE, 3), FATAL_RGB, np.uint8)
    seed = blake2b(shown.encode(), digest_size=CELLS * CELLS * 3).digest()
    cells = np.frombuffer(seed, np.uint8).reshape(CELLS, CELLS, 3)
    return cells.repeat(SIDE // CELLS, axis=0).repeat(SIDE // CELLS, axis=1)


def bmp(name: str) -> bytes:
    """Write the picture of a key as a BMP: rows from the bottom, blue first."""
    rows = pixels(name)[::-1, :, ::-1].tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 24, 0, len(rows), 2835, 2835, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows


def archive(names: Iterable[str]) -> bytes:
    """Pack the pictures of some keys into a zip, in this order."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name in names:
            # without a time of its own: the same pictures are the same bytes, as one idempotency key wants them
            packed.writestr(zipfile.ZipInfo(name), bmp(name), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def embedding(name: str) -> NDArray[np.float32]:
    """Compute what the fake backbone must have made of the picture of a key."""
    return _fake.embed(pixels(name).transpose(2, 0, 1)[None])[0]
