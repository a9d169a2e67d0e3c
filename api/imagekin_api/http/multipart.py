"""Multipart bodies as a stream of parts, so that an archive goes from the socket to the storage in one pass."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import flask
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio import multipart as wire

from imagekin import errors
from imagekin.schemas import keys
from imagekin.schemas.keys import MAX_KEY_BYTES

MAX_PARTS = 100_000
# Names and texts of all fields of a form: they are held in memory.
MAX_FIELDS_BYTES = 1 << 20
# Headers of a part, and what the decoder holds back of its data.
_MAX_BUFFER_BYTES = 4 << 20
_PIECE_BYTES = 256 << 10
# Names are shown in jobs and in errors; no longer one has a form that fits into a key.
MAX_NAME_CHARS = 4 * MAX_KEY_BYTES
# As RFC 5322 folds a header, 2.2.3.
_BACKSLASH = re.compile(r'\\([\\"])?')
_CONTINUED = re.compile(rb"(?:\r\n|\n|\r)[ \t]")


class Part:
    """A field or file of a form, read once and in order; `sha256` is complete when all of it has been read."""

    def __init__(self, event: wire.Field | wire.File, body: _Body) -> None:
        self.field = event.name or ""
        self.filename = event.filename if isinstance(event, wire.File) else None
        self.size = 0
        self._hash = hashlib.sha256()
        self._body = body
        self._more = True

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def read(self, _size: int = -1) -> bytes:
        """Return the next piece, of any size; empty at the end. Raises BadRequest if the body is broken."""
        while self._more:
            event = self._body.next_event()
            if not isinstance(event, wire.Data):
                raise errors.BadRequest("The multipart body is broken.")
            self._more = event.more_data
            if event.data:
                self._hash.update(event.data)
                self.size += len(event.data)
                return event.data
        return b""

    def read_all(self, max_bytes: int) -> bytes:
        """Return the whole part; raises TooLarge past `max_bytes`."""
        pieces = []
        while piece := self.read():
            pieces.append(piece)
            if self.size > max_bytes:
                raise errors.TooLarge(f"The part {self.field!r} is larger than {max_bytes:,} bytes.")
        return b"".join(pieces)

    def text(self) -> str:
        """Return a field's text; raises BadRequest if it is not text."""
        try:
            text = self.read_all(MAX_FIELDS_BYTES).decode("utf-8")
        except UnicodeDecodeError:
            raise errors.BadRequest(f"The part {self.field!r} is not UTF-8.") from None
        if "\0" in text:
            raise invalid(self.field, "The text contains a NUL character.")
        return text


class _Decoder(wire.MultipartDecoder):
    """Reads part headers that are not UTF-8, too: a client's Latin-1 `filename=` is a name like any other."""

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        lines = (line.strip(b" \t") for line in _CONTINUED.sub(b" ", data).splitlines())
        pairs = (keys.of_bytes(bytes(line)).partition(":") for line in lines if line)
        return Headers([(name.strip(" \t"), _escaped(value.strip(" \t"))) for name, _, value in pairs])


def _escaped(value: str) -> str:
    """Return a header's value with `\\\\` for each backslash that escapes nothing.

    It is one of a path on Windows, and werkzeug would drop it.
    """
    return _BACKSLASH.sub(lambda found: found[0] if found[1] else r"\\", value)


class _Body:
    def __init__(self, stream: Any, boundary: bytes, max_bytes: int) -> None:
        self._stream = stream
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._decoder = _Decoder(boundary, _MAX_BUFFER_BYTES, max_parts=MAX_PARTS)

    def next_event(self) -> wire.Event:
        try:
            while isinstance(event := self._decoder.next_event(), wire.NeedData):
                self._decoder.receive_data(self._receive() or None)
        except RequestEntityTooLarge:
            raise errors.TooLarge("The multipart body has too many parts, or a part's headers are too large.") from None
        except (ValueError, AttributeError):  # headers that do not parse; a part that starts with no line break
            raise errors.BadRequest("The multipart body is broken.") from None
        return event

    def _receive(self) -> bytes:
        data = self._stream.read(_PIECE_BYTES)
        self._left -= len(data)
        if self._left < 0:
            raise errors.TooLarge(f"The body is larger than {self._max_bytes:,} bytes.")
        return data


def is_multipart() -> bool:
    """Return whether the request says that its body is a form with files."""
    return flask.request.mimetype == "multipart/form-data"


def parts(max_bytes: int) -> Iterator[Part]:
    """Yield the request's parts in order; what the caller does not read of one is skipped.

    Raises TooLarge past `max_bytes` in total, BadRequest if the body breaks off.
    """
    boundary = flask.request.mimetype_params.get("boundary", "")
    if not boundary or not boundary.isascii():
        raise errors.BadRequest("The multipart body names no boundary.")
    if (flask.request.content_length or 0) > max_bytes:
        raise errors.TooLarge(f"The body is larger than {max_bytes:,} bytes.")
    body = _Body(flask.request.stream, boundary.encode(), max_bytes)
    while not isinstance(event := body.next_event(), wire.Epilogue):
        if isinstance(event, wire.Field | wire.File):
            part = Part(event, body)
            _check_names(part)
            yield part
            while part.read():
                pass


def _check_names(part: Part) -> None:
    if len(part.field) > MAX_NAME_CHARS:
        raise errors.BadRequest(f"The name of a part has more than {MAX_NAME_CHARS:,} characters.")
    if part.filename is not None and len(part.filename) > MAX_NAME_CHARS:
        detail = f"The file name has {len(part.filename):,} characters; at most {MAX_NAME_CHARS:,} are allowed."
        raise invalid(part.field, detail)


def invalid(field: str, detail: str) -> errors.InvalidRequest:
    """Build the error of one field of a form."""
    return errors.InvalidRequest(f"{field}: {detail}", errors=[{"pointer": f"/{field}", "detail": detail}])
