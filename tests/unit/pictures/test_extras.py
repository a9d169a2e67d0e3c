"""HEIC and JPEG XL, which extras bring along."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from imagekin import errors, formats
from imagekin.settings import Settings
from imagekin_worker.pictures import decoding
from kit.picture_files import colors, encoded, scene

SETTINGS = Settings()


@pytest.mark.parametrize(("format", "plugin"), [("HEIF", "pillow_heif"), ("JXL", "pillow_jxl")])
def test_they_are_read_where_their_extra_is_installed(format: str, plugin: str) -> None:
    pytest.importorskip(plugin, reason=f"the extra {formats.EXTRAS[format]} is not installed")
    assert decoding.readable(format)
    data = encoded(scene(), format, quality=95)
    assert formats.sniff(data[: formats.HEAD_BYTES]) == format
    picture = decoding.decode(data, SETTINGS, to_srgb=True)
    assert picture.format == format
    assert np.abs(np.asarray(picture.image, int) - colors()).mean() < 6
    with pytest.raises(errors.DecodeError):
        decoding.decode(data[: len(data) // 2], SETTINGS)


@pytest.mark.parametrize("format", ["HEIF", "JXL"])
def test_without_it_the_item_says_what_to_install(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = {"HEIF": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), "JXL": b"\xff\x0a" + bytes(300)}
    monkeypatch.delitem(Image.OPEN, format, raising=False)
    monkeypatch.setitem(sys.modules, {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}[format], None)
    with pytest.raises(errors.UnsupportedFormat, match=rf"imagekin\[{formats.EXTRAS[format]}\]"):
        decoding.decode(heads[format], SETTINGS)
