"""The records of a manifest: JSON lines or CSV, one read after the other from any record's place."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from imagekin import errors, formats
from imagekin.schemas import json_values
from imagekin.sources.base import Pace
from imagekin.sources.containers.blob import Blob
from imagekin.sources.lines import HEAD_BYTES, MAX_LINE_BYTES, Line, Writing, lines
from imagekin.uploads import unpack

_DELIMITERS = ",;\t"
# What Excel writes before the header, and reads.
_SEPARATOR = re.compile(r'"?sep=([^"\r\n])"?[,;\t]*\s*', re.IGNORECASE)
# What PowerShell writes before the header.
_TYPE = "#TYPE "
# What Excel's plain CSV is in Western Europe and America; no byte of it tells.
_ANSI = "cp1252"
_TOO_LONG = f"It has more than the {MAX_LINE_BYTES:,} bytes that are accepted."


# Where so many lines were read again after quotes that never end, each further record is its one line: in a list whose
# every line opens a quote, the time would grow with the square of it.
_MOST_REREAD_LINES = 100_000


class Record(NamedTuple):
    """What a manifest says of one image: `fields`, or the `reason` why that cannot be told.

    With neither it is a pause among blank lines. `line`: its first line, 1 for the manifest's first. `cursor`: where
    the next record begins, and in which line.
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
    """Return the way a manifest is written, by its content; raises SourceUnreadable if it is not a manifest."""
    head = blob.read_at(0, HEAD_BYTES)
    writing = Writing.of(head)
    text = head[writing.mark_bytes :].decode(writing.encoding, "replace").lstrip()
    if not text:
        raise errors.SourceUnreadable("The manifest is empty.")
    if unpack.is_gzip(head) or unpack.is_zip(head) or formats.looks_like_image(head) or "\0" in text:
        raise errors.SourceUnreadable("The manifest is not text; send JSONL or CSV in UTF-8, not compressed.")
    if text.startswith("["):
        raise errors.SourceUnreadable("The manifest is a JSON list; send JSONL: one object a line, no brackets around.")
    return JsonLines(blob, writing) if text.startswith("{") else Csv(blob, writing)


class JsonLines:
    """A JSON object a line."""

    def __init__(self, blob: Blob, writing: Writing) -> None:
        self._blob = blob
        self._writing = writing

    def read(self, at: int, line: int) -> Iterator[Record]:
        """Yield the records from byte `at` on; blank lines are skipped."""
        pace = Pace()
        for number, each in enumerate(lines(self._blob, at, self._writing), line):
            if each.data is None:
                yield Record(None, _TOO_LONG, number, (each.after, number + 1))
            elif each.data.strip(b" \t\r\n\0"):
                fields, reason = _object(each.data, self._writing.encoding)
                yield Record(fields, reason, number, (each.after, number + 1))
            elif pace.due():
                yield Record(None, None, number, (each.after, number + 1))


def _object(data: bytes, encoding: str) -> tuple[dict[str, Any] | None, str | None]:
    try:
        # what was cut out of a JSON list has commas between its objects
        return json_values.load(data.decode(encoding).rstrip().removesuffix(",")), None
    except UnicodeDecodeError as error:
        return None, _undecodable(error)
    except ValueError as error:
        return None, str(error)


def _undecodable(error: UnicodeDecodeError) -> str:
    name = "UTF-8" if error.encoding == "utf-8" else "UTF-16"
    return f"It is not {name}: {error.reason} at byte {error.start}."


class _Broken(Exception):
    """A line that cannot continue a CSV record."""


class Csv:
    """CSV (RFC 4180) with a header; commas, semicolons or tabs, as in the header or in `sep=`."""

    def __init__(self, blob: Blob, writing: Writing) -> None:
        self._blob = blob
        self._writing = writing
        first = next(lines(blob, 0, writing), Line(b"", 0))
        text = (first.data or b"").decode(writing.encoding, "replace")
        at, line = 0, 1
        if (separator := _SEPARATOR.fullmatch(text)) is not None:
            self._delimiter = separator[1]
            at, line = first.after, 2
        else:
            if text.startswith(_TYPE):
                at, line = first.after, 2
                text = (next(lines(blob, at, writing), first).data or b"").decode(writing.encoding, "replace")
            self._delimiter = max(_DELIMITERS, key=text.count)
        header = next((each for each in self._rows(self._feed(at, line)) if each[0] != []), None)
        if header is None or header[0] is None:
            raise errors.SourceUnreadable(
                f"The manifest's header cannot be read. {header[1] if header else ''}".strip()
            )
        self._names = [name.strip().lower() for name in header[0]]
        self._start = header[3]
        named = [name for name in self._names if name]
        if not {"url", "path"} & set(named):
            raise errors.SourceUnreadable("The manifest is neither JSONL nor a CSV whose header has `url` or `path`.")
        if len(set(named)) < len(named):
            raise errors.SourceUnreadable("The manifest's header has a name twice.")

    def read(self, at: int, line: int) -> Iterator[Record]:
        """Yield the records from byte `at` on, without the header; blank lines are skipped."""
        if at == 0:
            at, line = self._start
        pace = Pace()
        for row, reason, number, cursor in self._rows(self._feed(at, line)):
            # a sheet's empty rows have their separators yet
            if row is None or any(value.strip() for value in row):
                yield Record(*((None, reason) if row is None else self._fields(row)), number, cursor)
            elif pace.due():
                yield Record(None, None, number, cursor)

    def _feed(self, at: int, line: int) -> _Feed:
        return _Feed(self._blob, at, line, self._writing)

    def _rows(self, feed: _Feed) -> Iterator[tuple[list[str] | None, str | None, int, tuple[int, int]]]:
        """Yield each row ([] for a blank line) or why it cannot be read, with its line and the cursor after it.

        After a row that cannot be read it continues with the next line, however many lines the row swallowed.
        """
        while True:
            reader = csv.reader(feed, delimiter=self._delimiter, strict=True)
            try:
                while True:
                    feed.begin()
                    row = next(reader, None)
                    if row is None:
                        return
                    yield row, None, feed.first, feed.cursor
            except (csv.Error, _Broken) as error:
                feed.back()
                yield None, f"It is not CSV: {str(error).rstrip('.')}.", feed.first, feed.cursor

    def _fields(self, row: list[str]) -> tuple[dict[str, Any] | None, str | None]:
        """Return a row as a JSON line would have it: columns beyond the four are metadata, as text."""
        # a spreadsheet leaves out empty fields at a row's end, or adds some
        if any(value.strip() for value in row[len(self._names) :]):
            return None, f"It has {len(row)} fields, and the header {len(self._names)}."
        fields: dict[str, Any] = {}
        more: dict[str, Any] = {}
        for name, value in zip(self._names, row, strict=False):
            if not value.strip():
                continue
            if name == "metadata":
                try:
                    fields[name] = json_values.load(value)
                except ValueError as error:
                    return None, f"Its metadata cannot be used. {error}"
            elif name in ("key", "url", "path"):
                fields[name] = value.strip()
            elif name:
                more[name] = value
        try:
            json_values.check(more)
        except ValueError as error:
            return None, str(error)
        if more:
            fields["metadata"] = more | fields.get("metadata", {})
        return fields, None


class _Feed:
    """Lines for a CSV reader, which takes as many as a record has; what a broken one took is given again.

    `first`: the number of the record's first line.
    """

    def __init__(self, blob: Blob, at: int, line: int, writing: Writing) -> None:
        self._lines = lines(blob, at, writing)
        self._encoding = writing.encoding
        self._waiting: deque[Line] = deque()
        self._taken: list[Line] = []
        self._bytes = 0
        self._reread = 0
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
        self._reread += len(self._taken)
        if self._taken:
            self._line -= len(self._taken) - 1
            self._at = self._taken[0].after

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._taken and self._reread > _MOST_REREAD_LINES:
            raise _Broken("a quoted field does not end")
        line = self._waiting.popleft() if self._waiting else next(self._lines)
        self._taken.append(line)
        self._at, self._line = line.after, self._line + 1
        if line.data is None:
            raise _Broken(_TOO_LONG)
        self._bytes += len(line.data)
        if self._bytes > MAX_LINE_BYTES:
            raise _Broken("a quoted field does not end")
        return self._text(line.data) + "\n"

    def _text(self, data: bytes) -> str:
        try:
            return data.decode(self._encoding)
        except UnicodeDecodeError as error:
            try:
                if self._encoding == "utf-8":
                    return data.decode(_ANSI)
            except UnicodeDecodeError:
                pass
            raise _Broken(_undecodable(error)) from None
