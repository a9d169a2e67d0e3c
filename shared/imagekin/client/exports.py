"""Exports on this side: files that appear when they are whole, and what is in them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagekin import errors
from imagekin.client.transport import Received

__all__ = ["FORMATS", "Received", "Vectors", "format_of", "read", "whole"]

FORMATS = ("npz", "parquet", "safetensors", "jsonl", "csv", "labelstudio", "coco")
# Those that a suffix names; the others are JSON of one kind or another.
SUFFIXES = ("npz", "parquet", "safetensors", "jsonl", "csv")


class Vectors(NamedTuple):
    """The vectors of a collection: ids and keys, and embeddings (N, dim) in the same order."""

    ids: list[str]
    keys: list[str]
    embeddings: NDArray[Any]


def format_of(path: Path) -> str:
    """Return the format that a file's suffix names; raises InvalidRequest for another suffix."""
    format = path.suffix.lower().removeprefix(".")
    if format not in SUFFIXES:
        suffixes = ", ".join(f".{each}" for each in SUFFIXES)
        raise errors.InvalidRequest(f"{path.name!r} names no format by its suffix; there are {suffixes}.")
    return format


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its name at the end of the block, and is removed where that fails."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read(file: BinaryIO) -> Vectors:
    """Return the contents of an npz, with embeddings (n, dim)."""
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
        return Vectors(stored["ids"].tolist(), stored["keys"].tolist(), stored["embeddings"])
