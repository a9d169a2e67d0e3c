"""Colors of a picture's own profile, converted to sRGB.

LittleCMS does it, relative colorimetric and with 8 bits a channel. A profile that is broken, too large or made for
other channels than the picture's is ignored, and one that is sRGB itself changes nothing, to the bit.
"""

from __future__ import annotations

import functools
import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 << 20
"""The largest profile that is used."""

SAME_WITHIN = 2
"""A profile that moves no color by more than this many of 255 levels is sRGB with other rounding."""

_HEADER_BYTES = 128
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_LATTICE = np.linspace(0, 255, 9).round().astype(np.uint8)
# Transforms hold some hundred kilobytes each; a camera's or a program's pictures share one.
_TRANSFORMS = 16


class _Conversion(NamedTuple):
    mode: str
    transform: ImageCms.ImageCmsTransform


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an RGB, gray or CMYK picture in sRGB; the picture itself if it needs no conversion."""
    if profile is None or not _HEADER_BYTES < len(profile) <= MAX_PROFILE_BYTES:
        return image
    if _MODES.get(profile[16:20]) != image.mode:
        return image
    conversion = _conversion(profile)
    return image if conversion is None else conversion.transform.apply(image)


@functools.lru_cache(maxsize=_TRANSFORMS)
def _conversion(profile: bytes) -> _Conversion | None:
    """Return the transform from this profile to sRGB; None for a broken profile, or sRGB itself."""
    mode = _MODES[profile[16:20]]
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.ImageCmsTransform(
            opened,
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if _same(mode, transform) else _Conversion(mode, transform)


def _same(mode: str, transform: ImageCms.ImageCmsTransform) -> bool:
    if mode == "CMYK":
        return False
    if mode == "L":
        grays = np.arange(256, dtype=np.uint8)[None]
        before, colors = np.repeat(grays[..., None], 3, 2), Image.fromarray(grays)
    else:
        before = np.stack(np.meshgrid(_LATTICE, _LATTICE, _LATTICE), -1).reshape(1, -1, 3)
        colors = Image.fromarray(before)
    after = np.asarray(transform.apply(colors))
    return int(np.abs(after.astype(np.int16) - before).max()) <= SAME_WITHIN
