"""TIFF files that Pillow does not read correctly: several pictures in one, and samples of 16 bits and more.

The layouts are those of TIFF 6.0, of BigTIFF, and of Adobe's Digital Negative 1.7.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2 as Directory

from imagekin import errors

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
_STRIPS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 273, 274, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _SUB_DIRECTORIES = 322, 323, 324, 325, 330
_SAMPLE_FORMAT, _EXTRA_SAMPLES, _PROFILE, _DNG_VERSION, _GDAL_NO_DATA = 339, 338, 34675, 50706, 42113
_OWN = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _STRIPS, _ROWS, _STRIP_BYTES, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT,
        _TILES, _TILE_BYTES, _SAMPLE_FORMAT}  # fmt: skip

WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_SEEN = (WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, 3, 5, 6)
_SENSOR = (32803, 34892)
# Nikon's, Sony's, Pentax's and Kodak's own, which only their cameras write.
_CAMERAS = (262, 32767, 32769, 34713, 65000, 65535)
_UNSIGNED, SIGNED, _FLOAT = 1, 2, 3
_REDUCED = 1
_MOST_DIRECTORIES = 64


class _Found(NamedTuple):
    offset: int
    directory: Directory


class Samples(NamedTuple):
    """The samples of a picture: bits of each, their format (SampleFormat), and how to read gray.

    `no_data` is the value of pixels that were not measured, if the file says it as GDAL does.
    """

    bits: int
    format: int
    photometric: int
    no_data: float | None = None


def picture(data: bytes) -> tuple[bytes, Directory]:
    """Return the file, its header pointing to the main picture, and that picture's directory.

    This is the first picture, or the largest one if the first is marked as a smaller copy. Raises UnsupportedFormat for
    a camera's raw file, and if only the small copy can be read.
    """
    found = list(_directories(data))
    if not found:
        raise SyntaxError("it has no directory")
    _refuse_raw(found)
    first = found[0]
    if (method := _number(first.directory, _COMPRESSION, 1)) not in TiffImagePlugin.COMPRESSION_INFO:
        raise errors.UnsupportedFormat(f"The TIFF is compressed by a method that is not supported ({method}).")
    if len(found) == 1 or not _is_reduced(first.directory):
        return data, first.directory
    whole = [each for each in found if not _is_reduced(each.directory) and _is_readable(each.directory)]
    if not whole:
        width, height = size(first.directory)
        raise errors.UnsupportedFormat(
            f"The TIFF's first picture is a preview of {width} x {height} pixels, and the picture itself is of a kind "
            "that imagekin does not read, as in cameras' raw files."
        )
    largest = max(whole, key=lambda each: math.prod(size(each.directory)))
    return _pointing(data, largest.offset), largest.directory


def samples(directory: Directory) -> Samples:
    """Return the samples of the picture with that directory."""
    return Samples(
        max(_numbers(directory, _BITS) or [1]), _number(directory, _SAMPLE_FORMAT, _UNSIGNED),
        _number(directory, _PHOTOMETRIC), _no_data(directory),
    )  # fmt: skip


def needs_planes(directory: Directory) -> bool:
    """Return whether Pillow reads the picture incorrectly or not at all.

    These have deep samples whose white is zero, or several of them to a pixel; but Pillow reads RGB of 16 bits if the
    samples of a pixel are adjacent.
    """
    deep, count = samples(directory), _number(directory, _SAMPLES, 1)
    if deep.bits <= 8 or deep.photometric not in (WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        return False
    if count == 1:
        return deep.photometric == WHITE_IS_ZERO
    native = deep.bits == 16 and deep.photometric == _RGB and deep.format == _UNSIGNED
    return not native or _number(directory, _PLANAR, 1) == 2


def size(directory: Directory) -> tuple[int, int]:
    """Return the picture's width and height."""
    return _number(directory, _WIDTH), _number(directory, _HEIGHT)


def orientation(directory: Directory) -> int:
    """Return the picture's orientation, 1 to 8 as in EXIF."""
    return _number(directory, _ORIENTATION, 1)


def profile(directory: Directory) -> bytes | None:
    """Return the picture's color profile."""
    found = directory.get(_PROFILE)
    return found if isinstance(found, bytes) else None


def planes(data: bytes, directory: Directory) -> NDArray[Any]:
    """Return the gray or color samples of such a picture: (height, width, 1 or 3), as Pillow reads gray ones.

    Raises UnsupportedFormat if its layout cannot be split into gray samples.
    """
    bits, count = set(_numbers(directory, _BITS)), _number(directory, _SAMPLES, 1)
    shown = 3 if _number(directory, _PHOTOMETRIC) == _RGB else 1
    if len(bits) != 1 or count < shown:
        raise errors.UnsupportedFormat("The TIFF's samples have different numbers of bits, which is not supported.")
    _refuse_alpha(directory, shown)
    if _number(directory, _PLANAR, 1) == 2:
        return np.stack([_gray(data, directory, _plane(directory, at, count)) for at in range(shown)], axis=2)
    if _number(directory, _PREDICTOR, 1) != 1:
        raise errors.UnsupportedFormat(
            f"The TIFF has {max(bits)}-bit samples behind a predictor, which is not supported; save it without one."
        )
    wide = _gray(data, directory, _widened(directory, count))
    return wide.reshape(len(wide), -1, count)[:, :, :shown]


def _directories(data: bytes) -> Iterator[_Found]:
    """Yield the directories of the file, each followed by those below it."""
    file, seen = io.BytesIO(data), set[int]()
    header = data[:16] if 43 in data[2:4] else data[:8]
    waiting = [Directory(header).next]
    while waiting and len(seen) < _MOST_DIRECTORIES:
        offset = waiting.pop(0)
        if not 0 < offset < len(data) or offset in seen:
            continue
        seen.add(offset)
        directory = Directory(header)
        file.seek(offset)
        try:
            directory.load(file)
        except OSError:
            if len(seen) == 1:
                raise
            continue
        yield _Found(offset, directory)
        waiting += [directory.next, *_numbers(directory, _SUB_DIRECTORIES)]


def _refuse_raw(found: Sequence[_Found]) -> None:
    for _, directory in found:
        if _DNG_VERSION in directory:
            raise errors.UnsupportedFormat("The file is a camera's raw file (DNG); develop it to JPEG or TIFF.")
        if _number(directory, _PHOTOMETRIC, -1) in _SENSOR or _number(directory, _COMPRESSION, 1) in _CAMERAS:
            raise errors.UnsupportedFormat("The file is a camera's raw file; develop it to JPEG or TIFF.")


def _is_reduced(directory: Directory) -> bool:
    return bool(_number(directory, _SUBFILE, 0) & _REDUCED) or _number(directory, _OLD_SUBFILE, 0) == 2


def _is_readable(directory: Directory) -> bool:
    return (_STRIPS in directory or _TILES in directory) and _number(directory, _PHOTOMETRIC, -1) in _SEEN


def _refuse_alpha(directory: Directory, shown: int) -> None:
    if any(kind in (1, 2) for kind in _numbers(directory, _EXTRA_SAMPLES)[: _number(directory, _SAMPLES, 1) - shown]):
        bits = max(_numbers(directory, _BITS))
        raise errors.UnsupportedFormat(f"Transparency in {bits}-bit TIFFs of this layout is not supported.")


def _plane(directory: Directory, at: int, count: int) -> dict[int, list[int]]:
    """Return the tags of the one plane `at` of `count`."""
    tags = {}
    for tag in (_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES):
        if numbers := _numbers(directory, tag):
            each = len(numbers) // count
            tags[tag] = numbers[at * each : (at + 1) * each]
    return tags


def _widened(directory: Directory, count: int) -> dict[int, list[int]]:
    """Return the tags of rows whose samples, `count` to a pixel, are treated as pixels."""
    return {tag: [count * _number(directory, tag)] for tag in (_WIDTH, _TILE_WIDTH) if tag in directory}


def _gray(data: bytes, directory: Directory, instead: dict[int, list[int]]) -> NDArray[Any]:
    """Return the picture as gray samples, with the tags `instead` in place of its own."""
    tags = {tag: _numbers(directory, tag) for tag in _OWN if tag in directory} | instead
    tags |= {_PHOTOMETRIC: [_BLACK_IS_ZERO], _SAMPLES: [1]}
    tags |= {tag: tags[tag][:1] for tag in (_BITS, _SAMPLE_FORMAT) if tag in tags}
    try:
        with TiffImagePlugin.TiffImageFile(io.BytesIO(_with_directory(data, tags))) as image:
            image.load()
            return np.asarray(image)
    except SyntaxError as error:
        kind = f"{tags.get(_BITS, [1])[0]}-bit samples of format {tags.get(_SAMPLE_FORMAT, [1])[0]}"
        raise errors.UnsupportedFormat(f"The TIFF has {kind}, which are not supported.") from error


def _with_directory(data: bytes, tags: dict[int, list[int]]) -> bytes:
    """Return the file with another directory at its end, and its header pointing there; each tag is of 32 bits."""
    order, big = ("<" if data[:2] == b"II" else ">"), 43 in data[2:4]
    number, kind, room = ("Q", 16, 8) if big else ("I", 4, 4)
    start = len(data) + len(data) % 2
    table = struct.pack(order + ("Q" if big else "H"), len(tags))
    values_at = start + len(table) + len(tags) * (20 if big else 12) + room
    values = b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}{number}", *numbers)
        table += struct.pack(f"{order}HH{number}", tag, kind, len(numbers))
        if len(packed) <= room:
            table += packed
        else:
            table += struct.pack(order + number, values_at + len(values))
            values += packed
    padding = bytes(len(data) % 2)
    return _pointing(b"".join([data, padding, table, bytes(room), values]), start)


def _pointing(data: bytes, offset: int) -> bytes:
    order, big = ("<" if data[:2] == b"II" else ">"), 43 in data[2:4]
    at, width = (8, 8) if big else (4, 4)
    return data[:at] + struct.pack(order + ("Q" if big else "I"), offset) + data[at + width :]


def _no_data(directory: Directory) -> float | None:
    try:
        return float(str(directory.get(_GDAL_NO_DATA)).strip(" \0"))
    except ValueError:
        return None


def _number(directory: Directory, tag: int, default: int = 0) -> int:
    return next(iter(_numbers(directory, tag)), default)


def _numbers(directory: Directory, tag: int) -> list[int]:
    value = directory.get(tag)
    values = value if isinstance(value, tuple) else (value,)
    return [each for each in values if isinstance(each, int)]
