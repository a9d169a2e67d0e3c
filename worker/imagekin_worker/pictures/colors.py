"""How pixels become RGB: one rule for every color mode.

- gray, 1-bit and palette: their value in each channel, their palette's colors;
- alpha in any form (also a palette's or a PNG's transparent color, at its full depth): laid over white;
- CMYK: Pillow's conversion, which reads JPEGs as Adobe writes them (inverted); YCbCr and HSV likewise;
- a color profile, if the space asks for it: into sRGB (see imagekin_worker.pictures.profiles);
- 16 bits a channel: the high byte, for gray as for color; a TIFF with nothing above 4,095 is one of 12 bits, with
  nothing above 255 one of 8; signed ones that are nowhere below 0 have 15;
- 32-bit integers: as they are up to 255, the high byte up to 65,535, else stretched from least to greatest;
- floats: times 255 if all lie in 0..1, as they are up to 255, else stretched;
- deep values that are not finite, or that stand for "not measured" in maps, count as 0: what a TIFF says of itself as
  GDAL does, and else those that are customary and lie beyond all others;
- a TIFF whose white is zero: inverted, at any depth;
- anything else (LAB) is not supported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagekin import errors
from imagekin_worker.pictures import profiles, tiff

_WHITE = (255, 255, 255)
_GRAYS = ("1", "L", "LA", "La")
_TWELVE_BITS = 1 << 12
# Of elevations, temperatures and the like; the last ones are the ends of float32.
_NOT_MEASURED = {
    -9999.0,
    -99999.0,
    -32768.0,
    *(float(end) for end in (np.finfo(np.float32).min, np.finfo(np.float32).max)),
}
Levels = Callable[[NDArray[Any]], NDArray[np.uint8]]


def to_rgb(image: Image.Image, profile: bytes | None, opaque: Image.Image | None) -> Image.Image:
    """Return the picture in RGB, its transparent parts white; `opaque` masks what a PNG's color leaves.

    Raises UnsupportedFormat for LAB colors.
    """
    if image.mode == "LAB":
        raise errors.UnsupportedFormat("Pictures in LAB colors are not supported; convert them to RGB.")
    if opaque is not None:
        return _over_white(_opaque(image, profile), opaque)
    if image.has_transparency_data:
        flat = image if image.mode in _GRAYS else image.convert("RGBA")
        return _over_white(_opaque(flat, profile), image.convert("RGBA").getchannel("A"))
    return _opaque(image, profile)


def is_deep(image: Image.Image) -> bool:
    """Return whether the picture's values must be converted to 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;")


def shallow(channels: Sequence[NDArray[Any]], samples: tiff.Samples | None) -> Image.Image:
    """Return deep channels, (height, width) each, as a gray or RGB picture; `samples` describes those of a TIFF."""
    levels = _levels(channels, samples)
    bytes_ = [levels(channel) for channel in channels]
    if samples is not None and samples.photometric == tiff.WHITE_IS_ZERO:
        bytes_ = [~channel for channel in bytes_]
    return Image.fromarray(bytes_[0] if len(bytes_) == 1 else np.stack(bytes_, axis=2))


def _opaque(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile is not None and image.mode != "CMYK":
        image = image.convert("L" if image.mode in _GRAYS else "RGB")
    image = profiles.to_srgb(image, profile)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image, mask: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, _WHITE)
    white.paste(image, mask=mask)
    return white


def _levels(channels: Sequence[NDArray[Any]], samples: tiff.Samples | None) -> Levels:
    """Return the function that maps the channels' values to 0 to 255, the same for all of them."""
    integer = channels[0].dtype.kind in "iu"
    if integer and channels[0].dtype.itemsize == 2:
        greatest = max(int(channel.max()) for channel in channels)
        bits = 16
        if samples is not None and greatest < _TWELVE_BITS:
            bits = 12 if greatest > 255 else 8
        return lambda values: (values >> (bits - 8)).astype(np.uint8)
    no_data = samples.no_data if samples is not None else None
    measured = [_measured(channel, no_data) for channel in channels]
    least, greatest = min(each.min() for each in measured), max(each.max() for each in measured)
    # measurements have no depth that their numbers fill
    integer = integer and not any((each != channel).any() for each, channel in zip(measured, channels, strict=True))
    scale = _scale(least, greatest, integer, samples)
    return lambda values: scale(_measured(values, no_data)).astype(np.uint8)


def _scale(
    least: float, greatest: float, integer: bool, samples: tiff.Samples | None
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    if not integer and least >= 0 and greatest <= 1:
        return lambda values: np.rint(values * 255)
    if least >= 0 and greatest <= 255:
        return np.rint
    if integer and least >= 0 and samples is not None and (samples.bits, samples.format) == (16, tiff.SIGNED):
        return lambda values: values // 128
    if integer and least >= 0 and greatest <= 65535:
        return lambda values: values // 256
    return lambda values: np.rint((values - least) * (255 / ((greatest - least) or 1)))


def _measured(values: NDArray[Any], no_data: float | None) -> NDArray[np.float64]:
    found = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    edges = {float(found.min()), float(found.max())} & _NOT_MEASURED
    for value in edges if no_data is None else {no_data}:
        found[found == value] = 0
    return found
