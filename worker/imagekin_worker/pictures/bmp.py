"""BMP files in which a value that the format leaves open is not as it should be."""

from __future__ import annotations

from PIL import Image


def without_empty_alpha(image: Image.Image) -> Image.Image:
    """Return the picture opaque where its alpha is 0 everywhere: no writer means a BMP that cannot be seen."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")
    return image
