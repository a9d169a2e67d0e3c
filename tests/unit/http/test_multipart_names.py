"""File names of forms in every encoding that clients use."""

from __future__ import annotations

import pytest
from werkzeug.sansio import multipart as wire

from imagekin_api.http import multipart

NAMES = {
    'filename="café.png"'.encode(): "café.png",
    b'filename="caf\xe9.png"': "café.png",
    'filename="表.png"'.encode("cp932"): "%95%5C.png",
    b"filename*=UTF-8''na%C3%AFve.png": "naïve.png",
    b"filename=\"na_ve.png\"; filename*=UTF-8''na%C3%AFve.png": "naïve.png",
    b'filename="a\\"b.png"': 'a"b.png',
    rb'filename="a\\b.png"': r"a\b.png",
    rb'filename="C:\Users\me\b.png"': r"C:\Users\me\b.png",
    b'filename="a%22b.png"': 'a"b.png',
    b"filename=plain.png": "plain.png",
    b'filename="dir/x.png"': "dir/x.png",
}


@pytest.mark.parametrize("disposition", NAMES)
def test_a_file_name_in_any_encoding_is_a_name(disposition: bytes) -> None:
    decoder = multipart._Decoder(b"B")
    head = b'--B\r\nContent-Disposition: form-data; name="images"; ' + disposition + b"\r\n\r\n"
    decoder.receive_data(head + b"data\r\n--B--\r\n")
    decoder.receive_data(None)
    events = iter(decoder.next_event, None)
    found = next(event for event in events if isinstance(event, wire.File))
    assert (found.name, found.filename) == ("images", NAMES[disposition])
