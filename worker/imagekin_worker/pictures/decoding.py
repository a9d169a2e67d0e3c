"""From hostile bytes to RGB: formats by content, within limits, the right way up.

Only pixels matter: errors elsewhere (texts, their checksums, a missing end marker, a broken profile) never refuse a
picture, and missing pixels always do.
"""

from __future__ import annotations

import importlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from imagekin import errors, formats
from imagekin.settings import Settings
from imagekin_worker.pictures import bmp, colors, jpeg, png, tiff

_BROKEN = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError,
           ArithmeticError, RuntimeError, NotImplementedError, struct.error, zlib.error, MemoryError)  # fmt: skip
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_XMP = ("xmp", "XML:com.adobe.xmp")
_SIDEWAYS = (5, 6, 7, 8)
# How Pillow says that it knows a file's format, but not this form of it.
_UNKNOWN_FORM = ("unsupported", "unknown pixel mode", "unknown planar")
# Pillow's own limit, above which it warns, and twice that, from which on it refuses.
_HARD_LIMIT = 2 * (Image.MAX_IMAGE_PIXELS or 0)


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture: RGB, the right way up. `width` and `height` are the file's, even if `image` is smaller."""

    image: Image.Image
    width: int
    height: int
    format: str


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The content of a file: its first picture, and what is known about its colors."""

    image: Image.Image
    size: tuple[int, int]
    orientation: int
    profile: bytes | None = None
    opaque: Image.Image | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    """The options of `decode`."""

    max_pixels: int
    at_least_px: int | None


def decode(data: bytes, settings: Settings, *, at_least_px: int | None = None, to_srgb: bool = False) -> Picture:
    """Decode one image file, its first frame, into RGB.

    `at_least_px` allows a JPEG to be decoded at 1/8 to 4/8 of its size while its shorter side keeps that many pixels.
    `to_srgb`: convert colors from the file's profile to sRGB; a file without a profile is not changed.
    Raises EmptyFile, ImageTooLarge, UnsupportedFormat, DecompressionBomb and DecodeError.
    """
    if not data:
        raise errors.EmptyFile
    if len(data) > settings.max_image_bytes:
        raise errors.ImageTooLarge(f"The file has {len(data):,} bytes; the limit is {settings.max_image_bytes:,}.")
    name = formats.sniff(data[: formats.HEAD_BYTES])
    if name is None or not readable(name):
        raise errors.UnsupportedFormat(formats.refusal(data[: formats.HEAD_BYTES]))
    try:
        with _QUIET.while_inside():
            loaded = _LOADERS.get(name, _load)(data, name, _Request(settings.max_image_pixels, at_least_px))
            return _picture(loaded, name, to_srgb)
    except Image.DecompressionBombError as error:
        raise errors.DecompressionBomb(f"{error}") from error
    except _BROKEN as error:
        raise _refused(name, error) from error


def readable(name: str) -> bool:
    """Return whether this process can read a format; some need an extra."""
    Image.init()
    if name not in Image.OPEN and name in _PLUGINS:
        _PLUGINS[name]()
    return name in Image.OPEN


def _read_heif() -> None:
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()


def _read_jxl() -> None:
    # it makes itself known to Pillow
    with suppress(ImportError):
        importlib.import_module("pillow_jxl")


def _refused(name: str, error: BaseException) -> errors.ItemError:
    reason = str(error) or type(error).__name__
    if any(words in reason.lower() for words in _UNKNOWN_FORM):
        return errors.UnsupportedFormat(f"The file is a {name} in a form that is not supported: {reason}.")
    # libjxl says how to rebuild it, which is nothing for the person who sent the file.
    if isinstance(error, SyntaxError) or "libjxl" in reason:
        return errors.DecodeError(f"The {name} data cannot be decoded: its header is broken.")
    return errors.DecodeError(f"The {name} data cannot be decoded: {reason}.")


def _picture(loaded: _Loaded, name: str, to_srgb: bool) -> Picture:
    turn = _TURNS.get(loaded.orientation)
    image, opaque = loaded.image, loaded.opaque
    if turn is not None:
        image = image.transpose(turn)
        opaque = None if opaque is None else opaque.transpose(turn)
    width, height = loaded.size[::-1] if loaded.orientation in _SIDEWAYS else loaded.size
    return Picture(colors.to_rgb(image, loaded.profile if to_srgb else None, opaque), width, height, name)


def _load(data: bytes, name: str, request: _Request) -> _Loaded:
    try:
        image, size = _opened(data, name, request)
    except OSError as error:
        whole = jpeg.ended(data) if name == "JPEG" and "truncated" in str(error) else None
        if whole is None:
            raise
        image, size = _opened(whole, name, request)
    profile = image.info.get("icc_profile")
    if colors.is_deep(image):
        orientation = _orientation(image)
        return _Loaded(colors.shallow([_values(image)], None), size, orientation, profile)
    if name == "BMP":
        image = bmp.without_empty_alpha(image)
    return _Loaded(image, size, _orientation(image), profile)


def _load_png(data: bytes, name: str, request: _Request) -> _Loaded:
    file = png.stripped(data)
    image, size = _opened(file.data, name, request)
    opaque = None if file.transparent is None else png.opaque(image, file.data, file.transparent)
    mask = None if opaque is None else Image.fromarray(opaque.astype(np.uint8) * 255)
    orientation = _orientation(image)
    shown = colors.shallow([_values(image)], None) if colors.is_deep(image) else image
    return _Loaded(shown, size, orientation, file.profile, mask)


def _load_tiff(data: bytes, name: str, request: _Request) -> _Loaded:
    data, directory = tiff.picture(data)
    samples = tiff.samples(directory)
    if tiff.needs_planes(directory):
        _check_pixels(tiff.size(directory), request.max_pixels)
        planes = tiff.planes(data, directory)
        image = colors.shallow([planes[..., at] for at in range(planes.shape[2])], samples)
        return _Loaded(image, image.size, tiff.orientation(directory), tiff.profile(directory))
    image, size = _opened(data, name, request)
    orientation, profile = _orientation(image), image.info.get("icc_profile")
    if colors.is_deep(image):
        image = colors.shallow([_values(image)], samples)
    return _Loaded(image, size, orientation, profile)


def _opened(data: bytes, name: str, request: _Request) -> tuple[Image.Image, tuple[int, int]]:
    """Return the opened and loaded picture, and its size before any reduced scale."""
    factory, _ = Image.OPEN[name]
    image = factory(io.BytesIO(data), "")
    _check_pixels(image.size, request.max_pixels)
    size = image.size
    if name == "JPEG" and request.at_least_px is not None:
        smaller = jpeg.reduced(data, image, request.at_least_px)
        if smaller is not None:
            return smaller, size
    image.load()
    _check_pixels(image.size, request.max_pixels)
    return image, size


def _check_pixels(size: tuple[int, int], most: int) -> None:
    width, height = size
    if width * height > min(most, _HARD_LIMIT):
        raise Image.DecompressionBombError(f"The image has {width} x {height} pixels; the limit is {most:,}.")


def _orientation(image: Image.Image) -> int:
    """Return how to rotate a loaded picture by its EXIF; broken EXIF is ignored.

    XMP alone is ignored, too: editors leave it there when they have turned the pixels, so viewers do not look at it.
    """
    xmp = [image.info.pop(name, None) for name in _XMP]
    if any(xmp):
        # what Pillow read when it opened the file may be of XMP
        image._exif = None
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN:
        return 1
    return found if found in _TURNS else 1


def _values(image: Image.Image) -> NDArray[Any]:
    return np.asarray(image)


_LOADERS: dict[str, Callable[[bytes, str, _Request], _Loaded]] = {"PNG": _load_png, "TIFF": _load_tiff}
_PLUGINS = {"HEIF": _read_heif, "JXL": _read_jxl}


class _Quiet:
    """Silences Pillow's warnings about broken files.

    `warnings.catch_warnings` changes the whole process, and threads that overlap would restore each other's filters; so
    the first one in adds the filter and the last one out removes it.
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
