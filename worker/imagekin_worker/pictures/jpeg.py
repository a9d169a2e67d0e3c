"""JPEG files at a reduced scale, and those whose end is missing, which are read if all pixels are there.

The layouts are those of ITU-T T.81, annexes A and B.
"""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass, field

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

LARGEST_SCALE = 4
"""The largest scale in eighths that is worth it: from 5 on libjpeg-turbo has no vector instructions for it."""

MOST_MISSING = 0.01
"""The largest share of its pixels that a JPEG may lack: the last bytes often hold a block or two."""

MOST_MISSING_OF_SMALL, SMALL_PX = 0.1, 128
"""In a small picture a block is a larger share: it may lack this share, up to a number of pixels."""

# Pillow's modes, and simplejpeg's words for them
_COLORS = {"L": "GRAY", "RGB": "RGB"}
_END = b"\xff\xd9"
_LEAST_FILL_BYTES = 1 << 16
# A block takes 128 bytes at the very most, and three of them 64 pixels.
_MOST_BYTES_PER_PX = 6
_COEFFICIENTS = 64
_BASELINE, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_RESTARTS = range(0xD0, 0xD8)


@dataclass
class _Scan:
    components: bytes
    first: int
    last: int
    low_bit: int
    interval: int
    restarts: int = 0


@dataclass
class _Frame:
    """The headers of a JPEG: its size, its components' sampling by their ids, and its scans."""

    width: int = 0
    height: int = 0
    progressive: bool = False
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    scans: list[_Scan] = field(default_factory=list)


def reduced(data: bytes, header: Image.Image, at_least_px: int) -> Image.Image | None:
    """Decode a JPEG at the smallest of 1/8 to 4/8 of its size whose shorter side keeps these pixels.

    Pillow only knows the powers of two. None if that would be larger, and for all files that are not plainly gray or
    RGB and free of faults: what becomes of those is Pillow's decision. `header`: the file as Pillow opened it.
    """
    scale = -(-8 * at_least_px // min(header.size))
    if scale > LARGEST_SCALE or header.mode not in _COLORS:
        return None
    width, height = (-(-side * scale // 8) for side in header.size)
    try:
        pixels = simplejpeg.decode_jpeg(data, _COLORS[header.mode], min_height=height, min_width=width)
    except ValueError:
        return None
    if pixels.shape[:2] != (height, width):
        return None
    image = Image.fromarray(pixels.squeeze(2) if header.mode == "L" else pixels)
    image.info = header.info
    return image


def ended(data: bytes) -> bytes | None:
    """Return a truncated JPEG with its end marker put back; None if too many pixels are missing.

    To count the missing pixels it is decoded twice, with different bytes in place of the missing ones: exactly the
    pixels that depend on them differ.
    """
    body = data[:-1] if data.endswith(b"\xff") else data
    frame = _frame(body)
    if not _last_scan_begun(frame) or not _last_interval_begun(frame):
        return None
    area = frame.width * frame.height
    fill_bytes = max(_LEAST_FILL_BYTES, int(MOST_MISSING * _MOST_BYTES_PER_PX * area))
    fill = random.Random(0).randbytes(fill_bytes).replace(b"\xff", b"\0")
    one, other = (_pixels(body + rest) for rest in (_END, fill + _END))
    if one is None or other is None:
        return None
    differing = one != other
    missing = int(np.count_nonzero(differing.any(axis=2) if differing.ndim == 3 else differing))
    most = max(MOST_MISSING * area, min(MOST_MISSING_OF_SMALL * area, SMALL_PX))
    return body + _END if missing <= most else None


def _pixels(data: bytes) -> NDArray[np.uint8] | None:
    try:
        with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as image:
            image.load()
            return np.asarray(image)
    except (OSError, SyntaxError):
        return None


def _last_scan_begun(frame: _Frame) -> bool:
    """Return whether a scan has begun for every coefficient's last bit; then those before it are complete."""
    if not frame.progressive:
        return bool(frame.sampling) and {each for scan in frame.scans for each in scan.components} >= set(
            frame.sampling
        )
    done = {
        (each, at)
        for scan in frame.scans
        if scan.low_bit == 0
        for each in scan.components
        for at in range(scan.first, scan.last + 1)
    }
    return all((component, at) in done for component in frame.sampling for at in range(_COEFFICIENTS))


def _last_interval_begun(frame: _Frame) -> bool:
    """Return whether the last scan has all the restart markers it needs; without them nothing is filled in."""
    scan = frame.scans[-1]
    if not scan.interval:
        return True
    across, down = (max(each) for each in zip(*frame.sampling.values(), strict=True))
    if len(scan.components) == 1:
        own = frame.sampling.get(scan.components[0], (1, 1))
        width, height = (math.ceil(frame.width * own[0] / across), math.ceil(frame.height * own[1] / down))
        units = math.ceil(width / 8) * math.ceil(height / 8)
    else:
        units = math.ceil(frame.width / (8 * across)) * math.ceil(frame.height / (8 * down))
    return scan.restarts >= math.ceil(units / scan.interval) - 1


def _frame(data: bytes) -> _Frame:
    frame, interval, at = _Frame(), 0, 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in _RESTARTS and frame.scans:
            frame.scans[-1].restarts += 1
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker in (*_BASELINE, _PROGRESSIVE) and len(body) >= 6:
            frame.progressive = marker == _PROGRESSIVE
            frame.height, frame.width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            frame.sampling = {
                body[each]: (body[each + 1] >> 4 or 1, body[each + 1] & 15 or 1)
                for each in range(6, min(6 + 3 * body[5], len(body) - 2), 3)
            }
        elif marker == 0xDD:
            interval = int.from_bytes(body, "big")
        elif marker == 0xDA and body and len(body) == 4 + 2 * body[0]:
            first, last, bits = body[-3:]
            frame.scans.append(_Scan(body[1:-3:2], first, last, bits & 15, interval))
        at += 2 + length
    return frame
