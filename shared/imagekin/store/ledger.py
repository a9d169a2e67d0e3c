"""What a chunk is to do and what became of it, as compressed JSON in the chunk's row.

A manifest is a list of entries `{"key", "ref", "error", "metadata"}`; a ledger has one record for each entry, in the
same order: `[key, status, image_id, code, detail]`.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, NamedTuple

from imagekin.enums import ItemStatus


class Record(NamedTuple):
    """What became of one image."""

    key: str
    status: ItemStatus
    image_id: str | None = None
    code: str | None = None
    detail: str | None = None


def pack(value: Any) -> bytes:
    """Return `value` as compressed JSON."""
    return zlib.compress(
        json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"), 1
    )


def unpack(data: bytes) -> Any:
    """Return what was packed."""
    return json.loads(zlib.decompress(data).decode("utf-8", "surrogatepass"))


def records(data: bytes) -> list[Record]:
    """Return the records of a packed ledger."""
    return [Record(key, ItemStatus(status), *rest) for key, status, *rest in unpack(data)]


def all_cancelled(manifest: bytes) -> list[Record]:
    """Return the records of a chunk that was cancelled before it was finished."""
    return [Record(entry["key"], ItemStatus.CANCELLED) for entry in unpack(manifest)]
