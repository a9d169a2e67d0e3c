"""Exports: all images of a collection as one file, written while it is read, in bounded memory.

In every format, one file shows the collection at one moment, and names the space of its vectors in its metadata (an npz
has arrays of one text instead).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

from imagekin.database.engine import Database
from imagekin.store import collections
from imagekin.store.exports import (
    coco,
    imagefolder,
    labelstudio,
    lists,
    manifest,
    npz,
    parquet,
    safetensors,
    webdataset,
)
from imagekin.store.exports.contents import Contents
from imagekin.store.exports.pictures import Chosen, Reader

__all__ = ["FORMATS", "PICTURES", "Chosen", "Contents", "write"]

# Each writes the pieces of a file of that format.
FORMATS: dict[str, Callable[[Contents], Iterator[bytes]]] = {
    "npz": npz.write,
    "parquet": parquet.write,
    "safetensors": safetensors.write,
    "jsonl": lists.jsonl,
    "csv": lists.table,
    "labelstudio": labelstudio.write,
    "coco": coco.write,
    "manifest": manifest.write,
}

# Those that have the pictures, too.
PICTURES: dict[str, Callable[[Chosen, Reader], Iterator[bytes]]] = {
    "webdataset": webdataset.write,
    "imagefolder": imagefolder.write,
}


def write(
    database: Database,
    owner: str,
    name: str,
    format: str,
    field: str = "label",
    wanted: dict[str, Any] | None = None,
    split: str = "split",
) -> Generator[bytes]:
    """Yield the pieces of an export in one of FORMATS, of the images that a filter (`wanted`) chooses.

    `field` and `split` name the fields of the metadata that are the label and the split. Raises CollectionNotFound
    before the first piece.

    The database keeps what it shows for as long as the reader takes, so a reader that stalls is not waited for: after
    a minute PostgreSQL ends the transaction, and the file breaks off.
    """
    with database.snapshot() as session:
        yield from FORMATS[format](Contents(session, collections.get(session, owner, name), field, wanted, split))
