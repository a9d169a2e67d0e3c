"""What commands print: results on stdout, everything else on stderr.

Rows are a table on a terminal, and tab-separated lines elsewhere.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

STATUS_STYLES = {
    "succeeded": "green",
    "partial": "yellow",
    "failed": "red",
    "cancelled": "dim",
    "running": "cyan",
    "embedded": "green",
    "reused": "green",
    "skipped": "yellow",
}


FOLDED = frozenset({"key", "medoid", "reason", "weights", "error"})
"""Columns that are folded if a terminal is too narrow."""

LEAST_FOLDED = 16


def speak_any_text() -> None:
    """Let stdout and stderr write any text, with escapes for characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def stdout() -> Console:
    return Console(highlight=False, soft_wrap=True)


def stderr() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Write a line for people to stderr."""
    stderr().print(Text(message))


def line(message: str) -> None:
    """Print a line of a result at once, as a pipe may have a reader while the command is still running."""
    print(message, flush=True)


def data(value: BaseModel | Iterable[BaseModel]) -> None:
    """Print a model as JSON, or several as the `items` of an object, one by one as they arrive."""
    # what cannot show every character gets JSON all the same
    escaped = "utf" not in (sys.stdout.encoding or "").lower()
    if isinstance(value, BaseModel):
        print(json.dumps(value.model_dump(mode="json"), ensure_ascii=escaped, indent=2))
        return
    write = sys.stdout.write
    write('{"items": [')
    for number, model in enumerate(value):
        write((",\n  " if number else "\n  ") + json.dumps(model.model_dump(mode="json"), ensure_ascii=escaped))
    write("\n]}\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    """Print rows: on a terminal as a table, otherwise as tab-separated lines with a header.

    Only long columns are folded to the terminal's width: ids and names stay whole, so that they can be copied.
    """
    console = stdout()
    if not console.is_terminal:
        print("\t".join(columns))
        for row in rows:
            print("\t".join(_plain(value) for value in row))
        return
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        shown.add_column(
            column, justify="right" if column in right else "left", overflow="fold", no_wrap=column not in FOLDED
        )
    for row in rows:
        shown.add_row(*(_styled(value) for value in row))
    widths = [_width(column) for column in shown.columns]
    # a line that is longer than the terminal is wrapped by that, and is one line yet when it is copied
    console.width = max(console.width, sum(widths))
    console.print(shown, soft_wrap=False)


def fields(values: dict[str, Any]) -> None:
    """Print names and values, one pair a line."""
    console = stdout()
    width = max(map(len, values)) + 2 if console.is_terminal else 0
    for name, value in values.items():
        if console.is_terminal:
            if value is not None:
                console.print(Text(name.ljust(width), style="bold"), _styled(value), sep="")
        else:
            print(f"{name}\t{_plain(value)}")


def _width(column: Column) -> int:
    """Return the width of a column with its padding, at least LEAST_FOLDED for a folded one."""
    longest = max((cell.cell_len for cell in column.cells if isinstance(cell, Text)), default=0)
    longest = max(longest, len(str(column.header)))
    return (min(longest, LEAST_FOLDED) if not column.no_wrap else longest) + 2


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value).replace("\t", " ").replace("\n", " ")


def _styled(value: Any) -> Text:
    if isinstance(value, datetime):
        return Text(value.astimezone().strftime("%Y-%m-%d %H:%M:%S"))
    text = "" if value is None else str(value)
    return Text(text, style=STATUS_STYLES.get(text, ""))
