"""The records of a manifest: JSON lines or CSV, one read after the other from any record's place."""

from __future__ import annotations

import csv
import json
import math
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from imagekin import errors, formats
from imagekin.sources.containers.blob import Blob
from imagekin.sources.lines import MAX_LINE_BYTES, Line, lines
from imagekin.uploads import unpack

_HEAD_BYTES = 4096
_BOM = b"\xef\xbb\xbf"
_DELIMITERS = ",;\t"
_TOO_LONG = f"It has more than the {MAX_LINE_BYTES:,} bytes that are accepted."


class Record(NamedTuple):
    """What a manifest says of one image: `fields`, or the `reason` why that cannot be told.

    `line`: its first line, 1 for the manifest's first. `cursor`: where the next record begins, and in which line.
    """

    fields: dict[str, Any] | None
    reason: str | None
    line: int
    cursor: tuple[int, int]


class Records(Protocol):
    """A way to write records."""

    def read(self, at: int, line: int) -> Iterator[Record]:
        """Yield the records from byte `at` on, which is in the line with the number `line`; (0, 1) is the start."""
        ...


def records(blob: Blob) -> Records:
    """Tell how a manifest is written, by its content; raises SourceUnreadable where it is none."""
    head = blob.read_at(0, _HEAD_BYTES)
    text = head.removeprefix(_BOM).lstrip()
    if not text:
        raise errors.SourceUnreadable("The manifest is empty.")
    if unpack.is_gzip(head) or unpack.is_zip(head) or formats.looks_like_image(head) or b"\0" in head:
        raise errors.SourceUnreadable("The manifest is no text; send JSONL or CSV in UTF-8, not compressed.")
    if text.startswith(b"["):
        raise errors.SourceUnreadable("The manifest is a JSON list; send JSONL: one object a line, no brackets around.")
    return JsonLines(blob) if text.startswith(b"{") else Csv(blob)


class JsonLines:
    """A JSON object a line."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob

    def read(self, at: int, line: int) -> Iterator[Record]:
        """Yield the records from byte `at` on; blank lines are none."""
        for number, each in enumerate(lines(self._blob, at), line):
            data = each.data if number > 1 or each.data is None else each.data.removeprefix(_BOM)
            if data is None or data.strip():
                fields, reason = _object(data)
                yield Record(fields, reason, number, (each.end, number + 1))


def _object(data: bytes | None) -> tuple[dict[str, Any] | None, str | None]:
    if data is None:
        return None, _TOO_LONG
    try:
        return load(data.decode()), None
    except UnicodeDecodeError as error:
        return None, f"It is not UTF-8: {error.reason} at byte {error.start}."
    except ValueError as error:
        return None, str(error)


def load(text: str) -> dict[str, Any]:
    """Return a JSON object; raises ValueError, in words, where it is none or holds what no database keeps."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        _check(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"It is not JSON: {error.msg} at character {error.pos + 1}.") from None
    except RecursionError:
        raise ValueError("Its JSON is nested too deeply.") from None
    if not isinstance(value, dict):
        raise ValueError("It is not a JSON object.")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"It is not JSON: {name} is no number.")


def _check(value: Any) -> None:
    match value:
        case str():
            _check_text(value)
        case float() if not math.isfinite(value):
            raise ValueError("It has a number that is too large.")
        case dict():
            for name, each in value.items():
                _check_text(name)
                _check(each)
        case list():
            for each in value:
                _check(each)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise ValueError("It has a text with a NUL character.")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("It has a text that is not valid Unicode.")


class _Broken(Exception):
    """A line that no CSV record can go on with."""


class Csv:
    """CSV (RFC 4180) with a header; commas, semicolons or tabs, whichever the header has."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        first = next(lines(blob), Line(b"", 0)).data or b""
        self._delimiter = max(_DELIMITERS.encode(), key=first.count)
        header = next(self._rows(self._feed(0, 1)), None)
        if header is None or header[0] is None:
            raise errors.SourceUnreadable(
                f"The manifest's header cannot be read. {header[1] if header else ''}".strip()
            )
        self._names = [name.strip().lower() for name in header[0]]
        self._start = header[3]
        if not {"url", "path"} & set(self._names):
            raise errors.SourceUnreadable("The manifest is neither JSONL nor a CSV whose header has `url` or `path`.")
        if len(set(self._names)) < len(self._names):
            raise errors.SourceUnreadable("The manifest's header has a name twice.")

    def read(self, at: int, line: int) -> Iterator[Record]:
        """Yield the records from byte `at` on, those of the header left out; blank lines are none."""
        if at == 0:
            at, line = self._start
        for row, reason, number, cursor in self._rows(self._feed(at, line)):
            yield Record(*((None, reason) if row is None else self._fields(row)), number, cursor)

    def _feed(self, at: int, line: int) -> _Feed:
        return _Feed(self._blob, at, line)

    def _rows(self, feed: _Feed) -> Iterator[tuple[list[str] | None, str | None, int, tuple[int, int]]]:
        """Yield each row, or the reason why there is none, with its line and the cursor after it.

        After a row that cannot be read it goes on with the next line, however many lines the row swallowed.
        """
        while True:
            reader = csv.reader(feed, delimiter=chr(self._delimiter), strict=True)
            try:
                while True:
                    feed.begin()
                    row = next(reader, None)
                    if row is None:
                        return
                    if row:
                        yield row, None, feed.first, feed.cursor
            except (csv.Error, _Broken) as error:
                feed.back()
                yield None, f"It is not CSV: {str(error).rstrip('.')}.", feed.first, feed.cursor

    def _fields(self, row: list[str]) -> tuple[dict[str, Any] | None, str | None]:
        """Return a row as a JSON line would have it: columns beyond the four are metadata, as text."""
        if len(row) != len(self._names):
            return None, f"It has {len(row)} fields, and the header {len(self._names)}."
        fields: dict[str, Any] = {}
        more: dict[str, Any] = {}
        for name, value in zip(self._names, row, strict=True):
            if not value.strip():
                continue
            if name == "metadata":
                try:
                    fields[name] = load(value)
                except ValueError as error:
                    return None, f"Its metadata cannot be used. {error}"
            elif name in ("key", "url", "path"):
                fields[name] = value.strip()
            elif name:
                more[name] = value
        try:
            _check(more)
        except ValueError as error:
            return None, str(error)
        if more:
            fields["metadata"] = more | fields.get("metadata", {})
        return fields, None


class _Feed:
    """Lines for a CSV reader, which takes as many as a record has; what a broken one took is given again.

    `first`: the number of the record's first line.
    """

    def __init__(self, blob: Blob, at: int, line: int) -> None:
        self._lines = lines(blob, at)
        self._waiting: deque[Line] = deque()
        self._taken: list[Line] = []
        self._bytes = 0
        self._at = at
        self._line = self.first = line

    @property
    def cursor(self) -> tuple[int, int]:
        """Where the next line begins, and its number."""
        return self._at, self._line

    def begin(self) -> None:
        """Begin a record."""
        self.first = self._line
        self._taken.clear()
        self._bytes = 0

    def back(self) -> None:
        """Give the lines of this record again, but the first."""
        self._waiting.extendleft(reversed(self._taken[1:]))
        if self._taken:
            self._line -= len(self._taken) - 1
            self._at = self._taken[0].end

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else next(self._lines)
        self._taken.append(line)
        first = self._line == 1
        self._at, self._line = line.end, self._line + 1
        if line.data is None:
            raise _Broken(_TOO_LONG)
        self._bytes += len(line.data)
        if self._bytes > MAX_LINE_BYTES:
            raise _Broken("a quoted field does not end")
        try:
            return (line.data.removeprefix(_BOM) if first else line.data).decode() + "\n"
        except UnicodeDecodeError as error:
            raise _Broken(f"not UTF-8: {error.reason} at byte {error.start}") from None
