"""From pictures to a network's input: the preset transform, and thumbnails."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from imagekin.catalog import Preprocess, Space
from imagekin.enums import Colors, Fit, Precision
from imagekin.settings import Settings
from imagekin_worker.pictures.decoding import Picture, decode

ELONGATED = 4.0
"""From this ratio of the sides on, only the part of a picture that the crop keeps is resized. The filter is the same at
the same places and only its rounding differs; resizing all of a 1 x 100,000 picture to a shorter side of 256 would take
gigabytes.
"""

FAST_MARGIN = 2.75
"""A reduced JPEG keeps this many times the pixels that are needed: only then do the later scales have the reference's
filter. Mean cosine to the full decode of 44 photographs at 2, 2.5, 2.7 and 2.9 times: 0.997, 0.9987, 0.9995 and 0.9997
(held by tests/integration/photographs/test_real_pictures.py, skipped without the photographs)."""

# Shares are rounded decimals: a part of a pixel below this is not meant.
ROUNDING_PX = 0.01
_WHOLE = (0.0, 0.0, 1.0, 1.0)
_INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def prepare(
    data: bytes,
    space: Space,
    settings: Settings,
    into: NDArray[np.uint8] | None = None,
    crop: Sequence[float] | None = None,
) -> tuple[Picture, NDArray[np.uint8]]:
    """Decode an image's bytes for a space: the picture, and the pixels (height, width, 3) that its backbone takes.

    They are written `into` an array, a place in a batch, if one is given. The picture may be reduced to what a
    thumbnail needs. `fast` spaces decode large JPEGs at a reduced scale. `crop` (x, y, width, height in shares of the
    upright picture) takes only this part. Raises what `decode` raises.
    """
    exact = space.precision is Precision.EXACT
    picture = decode(
        data,
        settings,
        at_least_px=None if exact else math.ceil(FAST_MARGIN * max(space.preprocess.scale) / min((crop or _WHOLE)[2:])),
        to_srgb=space.preprocess.colors is Colors.SRGB,
    )
    if crop is not None:
        picture = replace(picture, image=part(picture.image, crop))
    resized, pixels = fit(picture.image, space.preprocess, exact=exact)
    if settings.thumbnail_px <= max(resized.size) < max(picture.image.size):
        picture = replace(picture, image=resized)
    if into is None:
        return picture, pixels
    into[...] = pixels
    return picture, into


def part(image: Image.Image, crop: Sequence[float]) -> Image.Image:
    """Return the pixels that a crop (x, y, width, height in shares of the picture) touches."""
    left, top, width, height = crop
    box = []
    for start, length, size in ((left, width, image.width), (top, height, image.height)):
        # what rounding alone touches is not touched
        first = min(math.floor(start * size + ROUNDING_PX), size - 1)
        box.append((first, max(first + 1, min(math.ceil((start + length) * size - ROUNDING_PX), size))))
    return image.crop((box[0][0], box[1][0], box[0][1], box[1][1]))


def fit(image: Image.Image, preprocess: Preprocess, *, exact: bool = True) -> tuple[Image.Image, NDArray[np.uint8]]:
    """Resize as the weights want it and cut out the middle: the picture, and pixels (height, width, 3).

    `exact` pixels are those of torchvision's preset or timm's transform, to the bit. Others are PyTorch's: the same
    filter in a third of the time, with some values off by one. The picture is the resized one, if that has its
    proportions, otherwise the whole; an elongated one is not resized as a whole either.
    """
    (height, width), size = preprocess.shape, _resized_size(image.size, preprocess)
    if preprocess.fit is Fit.CROP and max(image.size) >= ELONGATED * min(image.size):
        if size[0] < width or size[1] < height:  # the crop has a border
            return image, fit(_middle(image, size, (width, height)), preprocess, exact=exact)[1]
        kept = _resize_kept(image, size, (width, height), _INTERPOLATIONS[preprocess.interpolation])
        return image, np.asarray(kept)
    resized = (_resize if exact else _resize_quickly)(image, size, preprocess.interpolation)
    whole = image if preprocess.fit is Fit.SQUASH else resized
    return whole, np.asarray(_center(resized, (width, height), _border(preprocess)))


def transform(picture: Picture, preprocess: Preprocess) -> NDArray[np.float32]:
    """Return the network's input for a picture, (3, height, width), the same bits as the torchvision preset's."""
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
    file = io.BytesIO()
    _resize_quickly(picture.image, (size[0], size[1]), "bilinear").save(file, "JPEG", quality=80)
    return file.getvalue()


def _resized_size(size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Follow torchvision's resize, which cuts the longer side down to an integer, and timm's for other inputs."""
    (width, height), (down, across) = size, preprocess.scale
    if preprocess.fit is Fit.SQUASH:
        return across, down
    if preprocess.fit is Fit.CROP and down == across:
        return (down, int(down * height / width)) if width <= height else (int(down * width / height), down)
    # timm.data.transforms.ResizeKeepRatio
    nearer = max if preprocess.fit is Fit.PAD else min
    ratio = nearer(height / down, width / across)
    return max(round(width / ratio), 1), max(round(height / ratio), 1)


def _resize(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    return image.resize(size, _INTERPOLATIONS[interpolation])


def _resize_quickly(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    if size == image.size:
        return image
    # the channels last by their strides, so that PyTorch takes and gives them as Pillow has them
    pixels = _shared(image)[None].permute(0, 3, 1, 2)
    resized = functional.interpolate(pixels, size[::-1], mode=interpolation, antialias=True)
    return Image.fromarray(resized[0].permute(1, 2, 0).numpy()).convert("RGB")


def _shared(image: Image.Image) -> torch.Tensor:
    """Return an RGB picture's pixels (height, width, 3), or (height, width, 4) in the picture's own memory.

    Pillow keeps four bytes a pixel, and gives them away if they are in one piece: up to 16 MiB they are.
    """
    try:
        values = pyarrow.array(image).values
    except ValueError:
        values = np.asarray(image)
    return torch.from_dlpack(values).view(image.height, image.width, -1)


def _border(preprocess: Preprocess) -> tuple[int, int, int]:
    """Return black, as torchvision has it, or for `pad` what the network sees as zero, as timm has it."""
    if preprocess.fit is not Fit.PAD:
        return 0, 0, 0
    red, green, blue = (round(255 * each) for each in preprocess.mean)
    return red, green, blue


def _starts(size: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    left, top = (round((length - kept) / 2.0) for length, kept in zip(size, shape, strict=True))
    return left, top


def _center(image: Image.Image, shape: tuple[int, int], border: tuple[int, int, int]) -> Image.Image:
    """Follow torchvision's center_crop to (width, height); a smaller picture gets a border."""
    width, height = shape
    left, top = _starts(image.size, shape)
    if left < 0 or top < 0:
        before = (max((width - image.width) // 2, 0), max((height - image.height) // 2, 0))
        padded = Image.new("RGB", (max(image.width, width), max(image.height, height)), border)
        padded.paste(image, before)
        return _center(padded, shape, border)
    return image.crop((left, top, left + width, top + height))


def _middle(image: Image.Image, resized: tuple[int, int], shape: tuple[int, int]) -> Image.Image:
    """Cut out the part of an elongated picture that a crop to (width, height) sees, at most ELONGATED."""
    width, height = (
        min(length, math.ceil(kept * length / after) + 1)
        for length, kept, after in zip(image.size, shape, resized, strict=True)
    )
    most = max(int(ELONGATED * min(width, height)) - 1, 1)
    width, height = min(width, most), min(height, most)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _resize_kept(
    image: Image.Image, resized: tuple[int, int], shape: tuple[int, int], filter_: Image.Resampling
) -> Image.Image:
    (left, top), (width, height) = _starts(resized, shape), shape
    across, down = (length / after for length, after in zip(image.size, resized, strict=True))
    right, bottom = min((left + width) * across, image.width), min((top + height) * down, image.height)
    return image.resize(shape, filter_, box=(left * across, top * down, right, bottom))
