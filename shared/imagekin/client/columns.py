"""The binary form of columns, read: its layout stands at `GET /v1/collections/{name}/columns` in the reference."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagekin.client.problems import UnreadableAnswer

MAGIC = b"IKC1"
NONE = 0xFFFFFFFF
ALIGNMENT = 8

# Texts; float32 (n,), NaN for none; or values of JSON, None for none.
Column = list[str] | NDArray[np.float32] | list[Any]


def read(data: bytes) -> dict[str, Column]:
    """Return the columns by name; raises `UnreadableAnswer`."""
    if data[:4] != MAGIC:
        raise UnreadableAnswer("The columns came in a form that this client does not know; update it.")
    start = 8 + int.from_bytes(data[4:8], "little")
    head = json.loads(data[8:start])
    found: dict[str, Column] = {}
    for column in head["columns"]:
        start += -start % ALIGNMENT
        found[column["name"]] = _column(column, data[start : start + column["bytes"]], head["count"])
        start += column["bytes"]
    return found


def _column(described: dict[str, Any], data: bytes, count: int) -> Column:
    match described["type"]:
        case "text":
            offsets = np.frombuffer(data, "<u4", count + 1)
            texts = data[offsets.nbytes :]
            return [texts[start:end].decode() for start, end in pairwise(offsets)]
        case "number":
            return np.frombuffer(data, "<f4", count)
        case "choice":
            values = described["values"]
            return [None if code == NONE else values[code] for code in np.frombuffer(data, "<u4", count).tolist()]
    raise UnreadableAnswer(f"The column {described['name']!r} has a type that this client does not know; update it.")
