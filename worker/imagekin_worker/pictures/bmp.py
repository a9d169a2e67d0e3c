"""BMP files with an unusable value where the format leaves the value open."""

from __future__ import annotations

from PIL import Image


def without_empty_alpha(image: Image.Image) -> Image.Image:
    """Return the picture, opaque if its alpha is 0 everywhere: an invisible BMP is never intended."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")
    return image
