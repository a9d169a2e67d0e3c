"""Picture formats by content: told from the first bytes and never from the name, those that are not read as well."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath

HEAD_BYTES = 1024
"""How many bytes of a file `sniff` wants to see: an SVG may begin with a comment."""

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg", ".jxl", ".png", ".tif",
     ".tiff", ".webp"}
)  # fmt: skip
"""Suffixes, in lower case, that make a file an image by name; what it really is, its content says."""

EXTRAS = {"HEIF": "heic", "JXL": "jxl"}
"""The formats that a worker reads where an extra of this name is installed."""

_Matches = Callable[[bytes], bool]
_BMP_HEADER_BYTES = frozenset({12, 40, 52, 56, 64, 108, 124})
_BMP_BITS = frozenset({0, 1, 2, 4, 8, 16, 24, 32})
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}
)


def sniff(head: bytes) -> str | None:
    """Return the format by a file's first bytes: one of FORMATS, or of EXTRAS.

    `head` is HEAD_BYTES or more of the file, or the whole of a shorter one. None: no format that imagekin reads.
    """
    if any(matches(head) for matches in _LOOKALIKES.values()):
        return None
    return next((name for name, matches in _SIGNATURES.items() if matches(head)), None)


def looks_like_image(head: bytes) -> bool:
    """Return whether a file's first bytes are those of a picture, of a format that imagekin reads or another."""
    return sniff(head) is not None or _unread(head) is not None


def named_like_image(name: str) -> bool:
    """Return whether a file is an image by its name; upper and lower case are the same."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def refusal(head: bytes) -> str:
    """Return a sentence that says what an unreadable file is, and which formats are read."""
    found = sniff(head)
    if found in EXTRAS:
        extra = EXTRAS[found]
        name = "HEIC" if found == "HEIF" else "JPEG XL"
        return f"The file is a {name} picture; workers read these where imagekin[{extra}] is installed."
    if found is not None:
        return f"The file is a {found} picture, which this worker's Pillow cannot read."
    if (name := _unread(head)) is not None:
        return f"The file is {name}, which imagekin does not read; it reads {READ}."
    what = next((name for name, matches in _OTHERS.items() if matches(head)), None)
    if what is not None:
        return f"The file is {what} and not a picture; imagekin reads {READ}."
    return f"The data is not an image of a format that imagekin reads; these are {READ}."


def _unread(head: bytes) -> str | None:
    known = _LOOKALIKES | _UNREAD
    return next((name for name, matches in known.items() if matches(head)), None)


def _starts(*magics: bytes) -> _Matches:
    return lambda head: head.startswith(magics)


def _is_bmp(head: bytes) -> bool:
    # Two letters alone would make an image of any text that begins with "BM".
    size = int.from_bytes(head[14:18], "little")
    planes_at = 22 if size == 12 else 26
    planes, bits = (int.from_bytes(head[at : at + 2], "little") for at in (planes_at, planes_at + 2))
    return head[:2] == b"BM" and size in _BMP_HEADER_BYTES and planes == 1 and bits in _BMP_BITS


def _brands(head: bytes) -> tuple[bytes, ...]:
    """Return the brands of an ISO media file, the major one first."""
    if head[4:8] != b"ftyp":
        return ()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return (head[8:12], *(head[at : at + 4] for at in range(16, end, 4)))


def _is_avif(head: bytes) -> bool:
    return not _AVIF_BRANDS.isdisjoint(_brands(head))


def _is_heif(head: bytes) -> bool:
    brands = _brands(head)
    return _AVIF_BRANDS.isdisjoint(brands) and not _HEIF_BRANDS.isdisjoint(brands)


def _is_svg(head: bytes) -> bool:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return text.startswith(b"<") and re.search(rb"<(?:svg:)?svg[\s>]", text) is not None


def _is_icon(head: bytes) -> bool:
    count = int.from_bytes(head[4:6], "little")
    return head[:4] in (b"\0\0\1\0", b"\0\0\2\0") and 0 < count < 256 and head[9:10] == b"\0"


def _is_text(head: bytes) -> bool:
    return bool(head) and not any(byte < 32 and byte not in b"\t\n\f\r\x1b" for byte in head)


_SIGNATURES: dict[str, _Matches] = {
    "JPEG": _starts(b"\xff\xd8\xff"),
    "PNG": _starts(b"\x89PNG\r\n\x1a\n"),
    "WEBP": lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
    "GIF": _starts(b"GIF87a", b"GIF89a"),
    "TIFF": _starts(*_TIFF_MAGICS),
    "BMP": _is_bmp,
    "AVIF": _is_avif,
    "HEIF": _is_heif,
    "JXL": _starts(b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
}

FORMATS = frozenset(_SIGNATURES) - frozenset(EXTRAS)
"""The formats that imagekin reads wherever it is installed."""

READ = "JPEG, PNG, WebP, GIF, TIFF, BMP and AVIF"
"""FORMATS, as people say them."""

# They begin as formats do that are read.
_LOOKALIKES: dict[str, _Matches] = {
    "a JPEG-LS picture": _starts(b"\xff\xd8\xff\xf7"),
    "a camera's raw file (CR2)": lambda head: head.startswith(_TIFF_MAGICS) and head[8:10] == b"CR",
}
_UNREAD: dict[str, _Matches] = {
    "a JPEG 2000 picture": _starts(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    "a JPEG XR picture": _starts(b"II\xbc"),
    "a Photoshop picture (PSD)": _starts(b"8BPS"),
    "an SVG drawing": _is_svg,
    "an EPS drawing": _starts(b"%!PS", b"\xc5\xd0\xd3\xc6"),
    "a camera's raw file (CR3)": lambda head: _brands(head)[:1] == (b"crx ",),
    "a camera's raw file (RAF)": _starts(b"FUJIFILMCCD-RAW"),
    "a camera's raw file (ORF)": _starts(b"IIRO", b"IIRS", b"MMOR"),
    "a camera's raw file (RW2)": _starts(b"IIU\0"),
    "a camera's raw file (CRW)": lambda head: head[6:14] == b"HEAPCCDR",
    "a camera's raw file (MRW)": _starts(b"\0MRM"),
    "a camera's raw file (X3F)": _starts(b"FOVb"),
    "an icon": _is_icon,
    "an Apple icon": _starts(b"icns"),
    "a GIMP picture (XCF)": _starts(b"gimp xcf"),
    "a Krita or OpenRaster picture": lambda head: b"mimetypeapplication/x-krita" in head[:128]
    or b"mimetypeimage/openraster" in head[:128],
    "a Clip Studio picture": _starts(b"CSFCHUNK"),
    "an OpenEXR picture": _starts(b"\x76\x2f\x31\x01"),
    "a Radiance picture (HDR)": _starts(b"#?RADIANCE", b"#?RGBE"),
    "a DirectDraw picture (DDS)": _starts(b"DDS "),
    "a KTX texture": _starts(b"\xabKTX 11\xbb\r\n\x1a\n", b"\xabKTX 20\xbb\r\n\x1a\n"),
    "a Netpbm picture": lambda head: re.match(rb"P[1-7]\s+(?:#[^\n]*\n\s*)*(?:\d|WIDTH)", head) is not None,
    "a PFM picture": lambda head: re.match(rb"P[Ff]\s+\d+\s+\d+\s", head) is not None,
    "a PCX picture": lambda head: head[:1] == b"\x0a" and head[1:2] in b"\0\2\3\4\5" and head[2:3] == b"\1"
    and head[3:4] in b"\1\2\4\x08" and len(head) >= 128,
    "a QOI picture": _starts(b"qoif"),
    "a FLIF picture": _starts(b"FLIF"),
    "a BPG picture": _starts(b"BPG\xfb"),
    "a DjVu document": _starts(b"AT&TFORM"),
    "a FITS picture": _starts(b"SIMPLE  ="),
    "a DICOM picture": lambda head: head[128:132] == b"DICM",
    "an SGI picture": lambda head: head[:2] == b"\x01\xda" and head[2:4] in (b"\0\1", b"\0\2", b"\1\1", b"\1\2"),
    "a Sun raster picture": _starts(b"\x59\xa6\x6a\x95"),
    "a Windows metafile": lambda head: head.startswith(b"\xd7\xcd\xc6\x9a") or head[40:44] == b" EMF",
    "an X pixmap": _starts(b"/* XPM */"),
    "an X bitmap": lambda head: re.match(rb"\s*#define\s+\S+_width\s+\d+", head) is not None,
    "an animation of the PNG family (MNG)": _starts(b"\x8aMNG\r\n\x1a\n", b"\x8bJNG\r\n\x1a\n"),
}  # fmt: skip
_OTHERS: dict[str, _Matches] = {
    "a PDF document": _starts(b"%PDF"),
    "a video": lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat") or head.startswith(b"\x1aE\xdf\xa3")
    or (head[:4] == b"RIFF" and head[8:12] == b"AVI "),
    "a zip archive": _starts(b"PK\3\4", b"PK\5\6"),
    "a compressed file": _starts(
        b"\x1f\x8b", b"BZh", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
    ),
    "a tar archive": lambda head: head[257:262] == b"ustar",
    "a text": _is_text,
}  # fmt: skip
