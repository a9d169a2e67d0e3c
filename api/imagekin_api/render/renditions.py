"""Results as JSON, as lines of JSON and as CSV, written while they are being read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
MEDIA_TYPES = (JSON, NDJSON, CSV)

# One write to the socket for this many rows.
_ROWS_PER_PIECE = 512


@dataclass(frozen=True, slots=True)
class Result:
    """A result: a summary that fits in memory, and rows that may not, under their name in the summary's JSON.

    A result without rows has its summary as the only row. `columns` and `members`: see imagekin.schemas.kinds.Traits.
    """

    summary: dict[str, Any]
    rows_name: str | None
    columns: Sequence[str]
    rows: Callable[[], Iterable[dict[str, Any]]]
    members: str | None = None


def render(result: Result, media_type: str) -> Iterator[bytes]:
    """Yield the result, piece by piece, in one of MEDIA_TYPES."""
    match media_type:
        case "application/x-ndjson":
            return _pieces(map(_line, result.rows()))
        case "text/csv":
            return _pieces(_csv(result))
        case _:
            return _pieces(_json(result))


def _json(result: Result) -> Iterator[str]:
    if result.rows_name is None:
        yield _dump(result.summary)
        return
    rest = {name: value for name, value in result.summary.items() if name != result.rows_name}
    yield _dump(rest)[:-1] + (", " if rest else "") + _dump(result.rows_name) + ": ["
    separator = ""
    for row in result.rows():
        yield separator + _dump(row)
        separator = ", "
    yield "]}"


def _line(row: dict[str, Any]) -> str:
    return _dump(row) + "\n"


def _csv(result: Result) -> Iterator[str]:
    line = io.StringIO()
    writer = csv.DictWriter(
        line, result.columns, restval="", extrasaction="ignore", quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n"
    )
    writer.writeheader()
    for row in _lines(result):
        yield line.getvalue()
        line.seek(0)
        line.truncate()
        writer.writerow({name: _cell(_field(row, name)) for name in result.columns})
    yield line.getvalue()


def _lines(result: Result) -> Iterator[dict[str, Any]]:
    """Yield what becomes a line of CSV each: the rows, or their members with what the row has."""
    for row in result.rows():
        if result.members is None:
            yield row
        else:
            yield from (row | member for member in row[result.members])


def _field(row: dict[str, Any], name: str) -> Any:
    whole, _, part = name.partition(".")
    value = row.get(whole)
    return value.get(part) if part and isinstance(value, dict) else None if part else value


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return _dump(value) if isinstance(value, dict | list | bool) else value


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _pieces(texts: Iterable[str]) -> Iterator[bytes]:
    piece: list[str] = []
    for text in texts:
        piece.append(text)
        if len(piece) >= _ROWS_PER_PIECE:
            yield "".join(piece).encode("utf-8", "replace")
            piece.clear()
    if piece:
        yield "".join(piece).encode("utf-8", "replace")
