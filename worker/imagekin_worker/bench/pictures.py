"""The pictures that are measured with: seeded, each different, with the statistics of photographs.

The amplitudes of a photograph's frequencies fall as 1/f (D. J. Field, J. Opt. Soc. Am. A 4, 1987), which is what a
JPEG decoder's time depends on; so pictures are cut out of one large field of such noise, with some edges in it. Small
ones then have 4 bits a pixel, as photographs on the web have. Large photographs are soft: 44 of 2000 x 2000 pixels had
0.2 to 1.1 bits a pixel. So large pictures have the details of small ones, enlarged: 1.7 bits, still more than those.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from imagekin_worker.network.devices import cores

ORDINARY = (500, 400)
LARGE = (2000, 2000)
QUALITY = 88
_FIELD_PX = 2560
# Beyond it a picture has no finer details, only larger ones.
_SHARP_PX = 500
_CONTRAST, _COLOR = 55.0, 18.0
_JPEG_START = b"\xff\xd8"


def draw(folder: Path, count: int, size: tuple[int, int], seed: int, drawn: int | None = None) -> list[Path]:
    """Write `count` JPEGs of a size (width, height), no two with the same bytes, and name the files.

    With `drawn`, only that number is drawn, and the others are copies with another comment: decoding takes the same
    time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    field = _field(seed)
    with ThreadPoolExecutor(cores()) as threads:
        files = list(threads.map(lambda n: jpeg(field, size, (seed, n)), range(min(count, drawn or count))))
    paths = [folder / f"{number:06}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(_commented(files[number % len(files)], number // len(files)))
    return paths


def jpeg(field: NDArray[np.uint8], size: tuple[int, int], seed: Sequence[int]) -> bytes:
    """Cut a picture out of the field (side, side), put some shapes on it, and encode it."""
    random = np.random.default_rng(list(seed))
    enlarged = max(1.0, max(size) / _SHARP_PX)
    width, height = (round(length / enlarged) for length in size)
    left, top = (int(random.integers(0, _FIELD_PX - length)) for length in (width, height))
    image = Image.fromarray(field[top : top + height, left : left + width]).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(int(random.integers(2, 8))):
        corners = random.uniform(0, 1, (3, 2)) * size
        pen.polygon([(float(x), float(y)) for x, y in corners], fill=tuple(random.integers(0, 256, 3).tolist()))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def tiny(folder: Path, count: int) -> Path:
    """Write `count` different BMPs of 32 x 32 pixels for the fake backbone into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(count)
    for number in range(count):
        cells = random.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        Image.fromarray(cells).save(folder / f"{number:06}.bmp")
    return folder


@functools.cache
def _field(seed: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    across = np.fft.rfftfreq(_FIELD_PX).astype(np.float32)
    down = np.fft.fftfreq(_FIELD_PX).astype(np.float32)
    frequency = np.hypot(across[None, :], down[:, None])
    frequency[0, 0] = 1
    light, red, blue = (_noise(random, frequency) for _ in range(3))
    light *= _CONTRAST
    colors = np.stack([light + red * _COLOR, light, light + blue * _COLOR], axis=2)
    return np.clip(colors + 128, 0, 255).astype(np.uint8)


def _noise(random: np.random.Generator, frequency: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return noise whose amplitudes fall as 1/f, (side, side) float32 of variance 1."""
    white = np.fft.rfft2(random.standard_normal((_FIELD_PX, _FIELD_PX), dtype=np.float32))
    white[0, 0] = 0
    noise = np.fft.irfft2(white / frequency, s=(_FIELD_PX, _FIELD_PX)).astype(np.float32)
    return noise / noise.std()


def _commented(data: bytes, number: int) -> bytes:
    """Return the JPEG with a comment (its marker FFFE, its length, its text) that makes its bytes different."""
    if not number:
        return data
    text = str(number).encode()
    return _JPEG_START + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + data.removeprefix(_JPEG_START)
