"""The lines of a stored text, from any place on, in bounded memory, however its encoding writes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from imagekin import errors
from imagekin.sources.containers.blob import Blob

MAX_LINE_BYTES = 1 << 16
"""How long a line may be; a longer one is told and passed over."""

_MOST_PASSED_BYTES = 64 << 20
HEAD_BYTES = 1 << 16
"""How much of a file `Writing.of` wants to see."""

_WINDOW_BYTES = 1 << 18
_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


class Writing(NamedTuple):
    """How a text is written: its encoding, the mark at its start in bytes, and what ends a line."""

    encoding: str = "utf-8"
    mark_bytes: int = 0
    end: bytes = b"\n"

    @classmethod
    def of(cls, head: bytes) -> Writing:
        """Detect it by the first HEAD_BYTES: UTF-8, or UTF-16 by its mark or by its zeros; a lone CR ends lines, too.

        UTF-16 is what Windows calls Unicode, and lines that end in CR alone are what Excel calls CSV (Macintosh).
        """
        mark = next((mark for mark in _MARKS if head.startswith(mark)), b"")
        encoding = _MARKS.get(mark) or _by_zeros(head)
        newline, alone = "\n".encode(encoding), "\r".encode(encoding)
        ends_in_cr = _find(head, newline, len(mark)) < 0 <= _find(head, alone, len(mark))
        return cls(encoding, len(mark), alone if ends_in_cr else newline)


UTF8 = Writing()


class Line(NamedTuple):
    """A line without its end; None if it has more than MAX_LINE_BYTES. `after`: where the next one begins."""

    data: bytes | None
    after: int


def lines(blob: Blob, at: int = 0, writing: Writing = UTF8) -> Iterator[Line]:
    """Yield the lines from byte `at` on, the last one also where nothing ends it; a mark at the start is left out.

    Raises SourceUnreadable if a line is so long that looking for its end would take too long.
    """
    at = max(at, writing.mark_bytes)
    end, rest = writing.end, b""
    while piece := blob.read_at(at + len(rest), _WINDOW_BYTES):
        held, start = rest + piece, 0
        while (found := _find(held, end, start)) >= 0:
            data = held[start:found]
            at += len(data) + len(end)
            start = found + len(end)
            yield Line(data if len(data) <= MAX_LINE_BYTES else None, at)
        rest = held[start:]
        if len(rest) > MAX_LINE_BYTES:
            at = _next(blob, at + len(rest), end)
            rest = b""
            yield Line(None, at)
    if rest:
        yield Line(rest, at + len(rest))


def _next(blob: Blob, at: int, end: bytes) -> int:
    last = at + _MOST_PASSED_BYTES
    while piece := blob.read_at(at, _WINDOW_BYTES):
        found = _find(piece, end, 0)
        if found >= 0:
            return at + found + len(end)
        at += len(piece)
        if at > last:
            raise errors.SourceUnreadable(
                f"A line has more than {_MOST_PASSED_BYTES >> 20} MiB, so this is not a list; send JSONL or CSV."
            )
    return at


def _find(data: bytes, end: bytes, start: int) -> int:
    """Return where a line ends, -1 if it does not; the two bytes of UTF-16 lie at a whole character."""
    found = data.find(end, start)
    while found >= 0 and (found - start) % len(end):
        found = data.find(end, found + 1)
    return found


def _by_zeros(head: bytes) -> str:
    """Tell UTF-16 without a mark: the first characters of a list are ASCII, so every other byte is zero."""
    first = head[:8]
    if len(first) >= 4 and not len(first) % 2:
        for encoding, zeros, others in (("utf-16-le", first[1::2], first[::2]), ("utf-16-be", first[::2], first[1::2])):
            if not any(zeros) and all(others):
                return encoding
    return "utf-8"
