"""Exports: all images of a collection as one file, written while it is read, in bounded memory.

In every format, one file shows the collection at one moment, and names the space of its vectors in its metadata (an npz
has arrays of one text instead).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from imagekin.database.engine import Database
from imagekin.store import collections
from imagekin.store.exports import coco, labelstudio, lists, npz, parquet, safetensors
from imagekin.store.exports.contents import Contents

__all__ = ["FORMATS", "Contents", "write"]

# Each writes the pieces of a file of that format.
FORMATS: dict[str, Callable[[Contents], Iterator[bytes]]] = {
    "npz": npz.write,
    "parquet": parquet.write,
    "safetensors": safetensors.write,
    "jsonl": lists.jsonl,
    "csv": lists.table,
    "labelstudio": labelstudio.write,
    "coco": coco.write,
}


def write(database: Database, owner: str, name: str, format: str, field: str = "label") -> Generator[bytes]:
    """Yield the pieces of an export in one of FORMATS; raises CollectionNotFound before the first.

    The database keeps what it shows for as long as the reader takes, so a reader that stalls is not waited for: after
    a minute PostgreSQL ends the transaction, and the file breaks off.
    """
    with database.snapshot() as session:
        yield from FORMATS[format](Contents(session, collections.get(session, owner, name), field))
