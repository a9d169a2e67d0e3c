"""Picture formats by content: those that are not read are known, and what a file is else is said."""

from __future__ import annotations

import pytest

from imagekin import formats

UNREAD = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "JPEG XL": b"\xff\x0a" + bytes(9),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "JPEG-LS": b"\xff\xd8\xff\xf7\0\x0b",
    "JPEG XR": b"II\xbc\x01",
    "Photoshop": b"8BPS\0\1",
    "SVG": b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- a drawing -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
    "CR2": b"II*\0\x10\0\0\0CR\2\0",
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "RAF": b"FUJIFILMCCD-RAW 0201",
    "ORF": b"IIRO\x08\0\0\0",
    "RW2": b"IIU\0\x18\0\0\0",
    "X3F": b"FOVb\0\0\2\0",
    "icon": b"\0\0\1\0\1\0\x10\x10\0\0",
    "OpenEXR": b"\x76\x2f\x31\x01\2\0\0\0",
    "Radiance": b"#?RADIANCE\n",
    "DirectDraw": b"DDS |\0\0\0",
    "Netpbm": b"P6\n# made by hand\n2 2\n255\n",
    "QOI": b"qoif\0\0\0\2",
    "DICOM": bytes(128) + b"DICM",
    "FITS": b"SIMPLE  =                    T",
    "XCF": b"gimp xcf v011\0",
}


@pytest.mark.parametrize("name", UNREAD)
def test_formats_that_are_not_read_are_pictures_and_named(name: str) -> None:
    assert formats.looks_like_image(UNREAD[name])
    assert name in formats.refusal(UNREAD[name])


OTHER = {
    "a text": b"BM is how this text begins, and it is no bitmap",
    "a text in XML": b"<?xml version='1.0'?><html><body/></html>",
    "a PDF document": b"%PDF-1.7\n",
    "a video": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
    "a zip archive": b"PK\3\4" + bytes(30),
    "a compressed file": b"\x1f\x8b\x08\0",
}


@pytest.mark.parametrize("name", OTHER)
def test_what_is_no_picture_is_said(name: str) -> None:
    assert not formats.looks_like_image(OTHER[name])
    assert f"The file is {name.removesuffix(' in XML')} and not a picture" in formats.refusal(OTHER[name])


def test_what_is_nothing_known_is_said() -> None:
    for data in (bytes(1000), b"\x7fELF\2\1\1" + bytes(64), b""):
        assert not formats.looks_like_image(data)
        assert "not an image of a format that imagekin reads" in formats.refusal(data)
