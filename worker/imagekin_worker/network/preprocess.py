"""From pictures to a network's input: the preset transform, and thumbnails."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from imagekin.catalog import Preprocess, Space
from imagekin.enums import Colors, Precision
from imagekin.settings import Settings
from imagekin_worker.pictures.decoding import Picture, decode

ELONGATED = 4.0
"""From this ratio of the sides on, only the part of a picture that the crop keeps is resized. The filter is the same at
the same places and only its rounding differs; resizing all of a 1 x 100,000 picture to a shorter side of 256 would take
gigabytes.
"""

FAST_MARGIN = 2
"""A reduced JPEG keeps this many times the pixels that are needed: only then do the later scales have the reference's
filter. On 44 photographs of 2000 pixels the median cosine to the full decode is 0.9998; the mean is 0.9992, as one is
at 0.973 (verified by tests/integration/photographs/test_real_pictures.py, skipped without the photographs). Without a
margin the mean was 0.9987 on 16 of them."""

_INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def prepare(
    data: bytes, space: Space, settings: Settings, into: NDArray[np.uint8] | None = None
) -> tuple[Picture, NDArray[np.uint8]]:
    """Decode an image's bytes for a space: the picture, and the pixels (crop, crop, 3) that its backbone takes.

    They are written `into` an array, a place in a batch, if one is given. The picture may be reduced to what a
    thumbnail needs. `fast` spaces decode large JPEGs at a reduced scale. Raises what `decode` raises.
    """
    exact = space.precision is Precision.EXACT
    picture = decode(
        data,
        settings,
        at_least_px=None if exact else FAST_MARGIN * space.preprocess.resize,
        to_srgb=space.preprocess.colors is Colors.SRGB,
    )
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
    time, with some values off by one. An elongated picture is returned unchanged, not resized as a whole.
    """
    side, size = preprocess.crop, _resized_size(image.size, preprocess.resize)
    if max(image.size) >= ELONGATED * min(image.size) and min(size) >= side:
        return image, np.asarray(_resize_kept(image, size, side, _INTERPOLATIONS[preprocess.interpolation]))
    if size != image.size:
        resize = _resize if exact else _resize_quickly
        image = resize(image, size, preprocess.interpolation)
    return image, np.asarray(_center(image, side))


def transform(picture: Picture, preprocess: Preprocess) -> NDArray[np.float32]:
    """Return the network's input for a picture, (3, crop, crop), the same bits as the torchvision preset's."""
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
