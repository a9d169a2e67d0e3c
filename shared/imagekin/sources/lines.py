"""The lines of a stored file, from any place on, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from imagekin.sources.containers.blob import Blob

MAX_LINE_BYTES = 1 << 16
_WINDOW_BYTES = 1 << 18


class Line(NamedTuple):
    """A line without its end; None where it has more than MAX_LINE_BYTES. `end`: where the next one begins."""

    data: bytes | None
    end: int


def lines(blob: Blob, at: int = 0) -> Iterator[Line]:
    """Yield the lines from byte `at` on, the last one also where nothing ends it."""
    rest = b""
    while piece := blob.read_at(at + len(rest), _WINDOW_BYTES):
        *whole, rest = (rest + piece).split(b"\n")
        for data in whole:
            at += len(data) + 1
            yield Line(data if len(data) <= MAX_LINE_BYTES else None, at)
        if len(rest) > MAX_LINE_BYTES:
            at = _next(blob, at + len(rest))
            rest = b""
            yield Line(None, at)
    if rest:
        yield Line(rest, at + len(rest))


def _next(blob: Blob, at: int) -> int:
    while piece := blob.read_at(at, _WINDOW_BYTES):
        found = piece.find(b"\n")
        if found >= 0:
            return at + found + 1
        at += len(piece)
    return at
