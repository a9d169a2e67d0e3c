"""From hostile bytes to pixels: safe decode, one rule for every color mode, the preset transform, thumbnails.

How colors become RGB, after the picture was turned as its EXIF says:

- gray, 1-bit and palette: their value in each channel, their palette's colors;
- alpha in any form (also a palette's or a PNG's transparent color): laid over white;
- CMYK: Pillow's conversion, which reads JPEGs as Adobe writes them (inverted); YCbCr and HSV likewise;
- 16 bits a channel: the high byte, for gray as for color;
- 32-bit integers: as they are up to 255, the high byte up to 65,535, else stretched from least to greatest;
- floats: times 255 where all lie in 0..1, as they are up to 255, else stretched; what is not finite becomes 0;
- anything else (LAB) is not supported.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.nn import functional

from imagekin import errors, formats
from imagekin.catalog import Preprocess, Space
from imagekin.enums import Precision
from imagekin.settings import Settings

ELONGATED = 4.0
"""From this ratio of its sides on, only the part of a picture that the crop keeps is resized.

It is the same filter at the same places and only its rounding differs; but resizing all of a 1 x 100,000 picture to a
shorter side of 256 would take gigabytes.
"""

FAST_MARGIN = 2
"""A reduced JPEG keeps so many times the pixels that are needed: the scales that come after have the reference's filter
only then. On 44 photographs of 2000 pixels the median cosine to the full decode is 0.9998; the mean is 0.9992, as one
is at 0.973 (held by tests/integration/test_real_pictures.py, which skips it where there are no photographs). Without a
margin the mean was 0.9987 on 16 of them."""

_INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError,
           ArithmeticError, RuntimeError, NotImplementedError, struct.error, zlib.error, MemoryError)  # fmt: skip
_WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture: RGB, the right way up. `width` and `height` are the file's, however small `image` is."""

    image: Image.Image
    width: int
    height: int
    format: str


def decode(data: bytes, settings: Settings, *, at_least_px: int | None = None) -> Picture:
    """Decode one image file, its first frame, into RGB.

    `at_least_px` allows a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size while its shorter side keeps that many
    pixels. Raises EmptyFile, ImageTooLarge, UnsupportedFormat, DecompressionBomb and DecodeError.
    """
    if not data:
        raise errors.EmptyFile
    if len(data) > settings.max_image_bytes:
        raise errors.ImageTooLarge(f"The file has {len(data):,} bytes; the limit is {settings.max_image_bytes:,}.")
    name = formats.sniff(data[: formats.HEAD_BYTES])
    if name is None or not _readable(name):
        raise errors.UnsupportedFormat
    try:
        with _QUIET.while_inside():
            return _decode(data, name, settings.max_image_pixels, at_least_px)
    except Image.DecompressionBombError as error:
        raise errors.DecompressionBomb(f"{error}") from error
    except Image.UnidentifiedImageError as error:  # its own text names an object in memory
        raise errors.DecodeError(f"The {name} data cannot be decoded: its header is broken.") from error
    except _BROKEN as error:
        raise errors.DecodeError(f"The {name} data cannot be decoded: {str(error) or type(error).__name__}.") from error


def prepare(
    data: bytes, space: Space, settings: Settings, into: NDArray[np.uint8] | None = None
) -> tuple[Picture, NDArray[np.uint8]]:
    """Decode an image's bytes for a space: the picture, and the pixels (crop, crop, 3) that its backbone takes.

    They are written `into` an array where one is given, a place in a batch. The picture comes no larger than a
    thumbnail needs it. `fast` spaces decode large JPEGs at a reduced scale. Raises what `decode` raises.
    """
    exact = space.precision is Precision.EXACT
    picture = decode(data, settings, at_least_px=None if exact else FAST_MARGIN * space.preprocess.resize)
    resized, pixels = fit(picture.image, space.preprocess, exact=exact)
    if settings.thumbnail_px <= max(resized.size) < max(picture.image.size):
        picture = replace(picture, image=resized)
    if into is None:
        return picture, pixels
    into[...] = pixels
    return picture, into


def fit(image: Image.Image, preprocess: Preprocess, *, exact: bool = True) -> tuple[Image.Image, NDArray[np.uint8]]:
    """Resize the shorter side and cut out the middle: the resized picture, and pixels (crop, crop, 3).

    `exact` pixels are the torchvision preset's, to the bit. Others are PyTorch's: the same filter in a third of the
    time, whose rounding moves some values by one. An elongated picture is not resized as a whole but comes as it is.
    """
    side, size = preprocess.crop, _resized_size(image.size, preprocess.resize)
    if max(image.size) >= ELONGATED * min(image.size) and min(size) >= side:
        return image, np.asarray(_resize_kept(image, size, side, _INTERPOLATIONS[preprocess.interpolation]))
    if size != image.size:
        resize = _resize if exact else _resize_quickly
        image = resize(image, size, preprocess.interpolation)
    return image, np.asarray(_center(image, side))


def transform(picture: Picture, preprocess: Preprocess) -> NDArray[np.float32]:
    """Make the network's input of a picture: (3, crop, crop), the same bits as the torchvision preset's."""
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (preprocess.mean, preprocess.std))
    pixels = fit(picture.image, preprocess)[1].transpose(2, 0, 1).astype(np.float32, order="C")
    pixels /= np.float32(255)
    pixels -= mean
    pixels /= std
    return pixels


def thumbnail(picture: Picture, px: int) -> bytes:
    """Make a JPEG of a picture that fits into px x px; a small picture is not enlarged."""
    scale = min(px / max(picture.image.size), 1.0)
    size = tuple(max(round(side * scale), 1) for side in picture.image.size)
    # Averaging whole pixels first takes a third of the time and shows no difference at this size.
    image = picture.image.resize((size[0], size[1]), Image.Resampling.BILINEAR, reducing_gap=1.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return file.getvalue()


def _decode(data: bytes, name: str, max_pixels: int, at_least_px: int | None) -> Picture:
    with Image.open(io.BytesIO(data), formats=[name]) as image:
        _check_pixels(image.size, max_pixels)
        width, height = image.size
        if at_least_px is not None:
            _draft(image, at_least_px)
        image.load()
        _check_pixels(image.size, max_pixels)
        turned = _turn(image)
        width, height = (height, width) if turned else (width, height)
        return Picture(_to_rgb(image), width, height, name)


def _check_pixels(size: tuple[int, int], most: int) -> None:
    width, height = size
    if width * height > most:
        raise Image.DecompressionBombError(f"The image has {width} x {height} pixels; the limit is {most:,}.")


def _draft(image: Image.Image, at_least_px: int) -> None:
    shorter = min(image.size)
    if shorter > at_least_px:
        scale = at_least_px / shorter
        image.draft(None, (int(image.width * scale) + 1, int(image.height * scale) + 1))


def _turn(image: Image.Image) -> bool:
    """Turn a loaded picture as its EXIF says; tell whether its sides were swapped. Broken EXIF turns nothing."""
    size = image.size
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except _BROKEN:
        pass
    return image.size != size


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = _to_gray(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, _WHITE)
        white.paste(image, mask=image.getchannel("A"))
        return white
    if image.mode == "LAB":
        raise errors.UnsupportedFormat("Pictures in LAB colors are not supported; convert them to RGB.")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_gray(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return Image.fromarray(_to_bytes(values, image.mode).astype(np.uint8))


def _to_bytes(values: NDArray[np.float64], mode: str) -> NDArray[np.float64]:
    least, greatest = values.min(), values.max()
    if mode.startswith("I;"):
        return values // 256
    if mode == "F" and least >= 0 and greatest <= 1:
        return np.rint(values * 255)
    if least >= 0 and greatest <= 255:
        return np.rint(values)
    if mode == "I" and least >= 0 and greatest <= 65535:
        return values // 256
    return np.rint((values - least) * (255 / ((greatest - least) or 1)))


def _resized_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Follow torchvision.transforms.functional.resize: the longer side is cut down to an integer."""
    width, height = size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def _resize(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    return image.resize(size, _INTERPOLATIONS[interpolation])


def _resize_quickly(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    # through DLPack because torch.from_numpy warns of read-only memory
    pixels = torch.from_dlpack(np.asarray(image)).permute(2, 0, 1)[None]
    resized = functional.interpolate(pixels, size[::-1], mode=interpolation, antialias=True)
    return Image.fromarray(resized[0].permute(1, 2, 0).numpy())


def _center(image: Image.Image, side: int) -> Image.Image:
    """Follow torchvision's center_crop; a smaller picture gets a black border."""
    left, top = (round((length - side) / 2.0) for length in image.size)
    if left < 0 or top < 0:
        before = (max((side - image.width) // 2, 0), max((side - image.height) // 2, 0))
        padded = Image.new("RGB", (max(image.width, side), max(image.height, side)))
        padded.paste(image, before)
        return _center(padded, side)
    return image.crop((left, top, left + side, top + side))


def _resize_kept(image: Image.Image, resized: tuple[int, int], side: int, filter_: Image.Resampling) -> Image.Image:
    starts = [round((length - side) / 2.0) for length in resized]
    steps = [length / after for length, after in zip(image.size, resized, strict=True)]
    (left, top), (across, down) = starts, steps
    right, bottom = min((left + side) * across, image.width), min((top + side) * down, image.height)
    return image.resize((side, side), filter_, box=(left * across, top * down, right, bottom))


def _readable(name: str) -> bool:
    Image.init()
    return name in Image.OPEN


class _Quiet:
    """Keeps Pillow's warnings about broken files to itself.

    `warnings.catch_warnings` changes the whole process and threads that overlap would restore each other's filters;
    so the first one in puts the filter there and the last one out takes it away.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught = warnings.catch_warnings()

    @contextmanager
    def while_inside(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.filterwarnings("ignore", module="PIL")
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._caught.__exit__(None, None, None)


_QUIET = _Quiet()
