"""Lists of images without vectors: a JSON object or a row of CSV for each, by key."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from imagekin.store.exports.contents import Contents, json_line

COLUMNS = ("id", "key", "content_hash", "width", "height", "format")
AT_ONCE = 256


def jsonl(contents: Contents) -> Iterator[bytes]:
    """Yield JSON lines: `id`, `key`, `content_hash`, `width`, `height`, `format`, `metadata`."""
    return joined(
        json_line({name: getattr(image, name) for name in (*COLUMNS, "metadata")}) + "\n" for image in contents.images()
    )


def table(contents: Contents) -> Iterator[bytes]:
    """Yield CSV with a header: as `jsonl`, with a column for the label and all metadata as JSON in the last one."""
    return joined(_rows(contents))


def joined(texts: Iterable[str]) -> Iterator[bytes]:
    """Yield texts as UTF-8, many in a piece; an empty piece if there are no texts."""
    remaining = iter(texts)
    yield "".join(islice(remaining, AT_ONCE)).encode()
    while some := list(islice(remaining, AT_ONCE)):
        yield "".join(some).encode()


def listed(values: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield objects as the inside of a list of JSON, one a line."""
    before = ""
    for value in values:
        yield before + json_line(value)
        before = ",\n"


def _rows(contents: Contents) -> Iterator[str]:
    line = io.StringIO()
    writer = csv.writer(line)
    taken = contents.field in (*COLUMNS, "metadata")
    writer.writerow([*COLUMNS, f"metadata.{contents.field}" if taken else contents.field, "metadata"])
    for image in contents.images():
        yield line.getvalue()
        line.seek(0)
        line.truncate()
        known = (getattr(image, column) for column in COLUMNS)
        writer.writerow([*known, contents.label(image), json_line(image.metadata)])
    yield line.getvalue()
