"""Image formats by content: what imagekin reads, told from the first bytes and never from the name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

HEAD_BYTES = 64
"""How many bytes of a file `sniff` wants to see."""

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)  # fmt: skip
"""Suffixes, in lower case, that make a file an image by name; what it really is, its content says."""

_BMP_HEADER_BYTES = frozenset({12, 40, 52, 56, 64, 108, 124})
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_AVIF_BRANDS = (b"avif", b"avis")


def sniff(head: bytes) -> str | None:
    """Tell the format (`JPEG`, `PNG`, `WEBP`, `GIF`, `TIFF`, `BMP`, `AVIF`) by a file's first bytes.

    `head` is HEAD_BYTES or more of the file, or the whole of a shorter one. None: no format that imagekin reads.
    """
    return next((name for name, matches in _SIGNATURES.items() if matches(head)), None)


def looks_like_image(head: bytes) -> bool:
    """Tell by a file's first bytes whether it is an image that imagekin reads."""
    return sniff(head) is not None


def named_like_image(name: str) -> bool:
    """Tell by its name whether a file claims to be an image; upper and lower case are the same."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _is_bmp(head: bytes) -> bool:
    # Two letters alone would make an image of any text that begins with "BM".
    return head[:2] == b"BM" and head[6:10] == bytes(4) and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES


def _is_avif(head: bytes) -> bool:
    if head[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end, 4))]
    return any(brand in _AVIF_BRANDS for brand in brands)


_SIGNATURES: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda head: head.startswith(b"\xff\xd8\xff"),
    "PNG": lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"),
    "WEBP": lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
    "GIF": lambda head: head.startswith((b"GIF87a", b"GIF89a")),
    "TIFF": lambda head: head.startswith(_TIFF_MAGICS),
    "BMP": _is_bmp,
    "AVIF": _is_avif,
}

FORMATS = frozenset(_SIGNATURES)
"""The formats that imagekin reads."""
