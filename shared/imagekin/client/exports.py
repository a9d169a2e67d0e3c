"""Exports on this side: files that appear when they are whole, and what is in them."""

from __future__ import annotations

import json
import tarfile
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagekin import errors
from imagekin.client.transport import Received

__all__ = ["FORMATS", "LeftOut", "Received", "Vectors", "format_of", "left_out", "read", "whole"]

FORMATS = (
    *("npz", "parquet", "safetensors", "jsonl", "csv", "labelstudio", "coco", "manifest"),
    *("webdataset", "imagefolder"),
)
# The formats that a suffix names; the others are JSON of one kind or another.
SUFFIXES = {name: name for name in FORMATS[:5]} | {"tar": "webdataset", "zip": "imagefolder"}
# Which of their members lists what is not in an export of pictures.
LEFT_OUT = {"webdataset": "__left-out__", "imagefolder": "left-out.jsonl"}


class Vectors(NamedTuple):
    """The vectors of a collection: ids and keys, and embeddings (N, dim) in the same order."""

    ids: list[str]
    keys: list[str]
    embeddings: NDArray[Any]


def format_of(path: Path) -> str:
    """Return the format that a file's suffix names; raises InvalidRequest for another suffix."""
    format = SUFFIXES.get(path.suffix.lower().removeprefix("."))
    if format is None:
        suffixes = ", ".join(f".{each}" for each in SUFFIXES)
        raise errors.InvalidRequest(f"{path.name!r} names no format by its suffix; there are {suffixes}.")
    return format


def left_out(path: Path, format: str) -> list[LeftOut]:
    """Return the images that an export with pictures is without; none for other formats."""
    if format not in LEFT_OUT:
        return []
    lines = _last_of_tar(path) if format == "webdataset" else _of_zip(path)
    return [LeftOut(**json.loads(line)) for line in lines.splitlines()]


def _last_of_tar(path: Path) -> bytes:
    with tarfile.open(path) as tar:
        last = None
        while (member := tar.next()) is not None:
            last = member
            # else all of them are kept
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
        listed = None if last is None else tar.extractfile(last)
        return b"" if listed is None else listed.read()


def _of_zip(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        name = LEFT_OUT["imagefolder"]
        return archive.read(name) if name in archive.NameToInfo else b""


class LeftOut(NamedTuple):
    """An image that an export has no picture of, and why."""

    id: str
    key: str
    reason: str


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
