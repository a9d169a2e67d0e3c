"""Chunks of an import: vectors that were made elsewhere become images without pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import structlog

from imagekin import errors, sources
from imagekin.database import tables
from imagekin.enums import DType, OnConflict
from imagekin.jobs import finish
from imagekin.jobs.claim import Claim
from imagekin.store import ledger, vector_codec
from imagekin.store.segments import Item
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import embed
from imagekin_worker.matrix import lengths

log = structlog.get_logger()

# Of vectors as long as this, searches and clusterings can still square differences in float32.
LONGEST = 1e18
_DIGEST_BYTES = 28


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Store a chunk's vectors; raises JobError if the upload is gone or cut off, LeaseLost."""
    (claim,) = claims
    job, collection, manifest = node.database.read(embed.load, claim)
    source = sources.open_source(job.work["source"], node.storage, node.settings)
    try:
        items = [embed.refused(entry) or _item(entry, source, collection) for entry in ledger.unpack(manifest)]
    finally:
        source.close()
    finish.chunk(node.database, claim, items, OnConflict(job.params["on_conflict"]))


def _item(entry: dict[str, Any], source: sources.Source, collection: tables.Collection) -> Item:
    item = Item(entry["key"], entry.get("metadata"))
    try:
        vector = np.frombuffer(source.read(entry["ref"]), "<f4")
        with np.errstate(over="ignore"):
            stored = vector_codec.encode(vector, collection.dtype)
        _check(vector_codec.decode(stored, len(vector), collection.dtype)[0], DType(collection.dtype))
    except errors.ItemError as error:
        item.error = (error.code, error.detail)
    else:
        item.vector, item.content_hash = vector, content_hash(stored)
    return item


def _check(vector: vector_codec.Vectors, dtype: DType) -> None:
    if not np.isfinite(vector).all():
        raise errors.DecodeError(f"The embedding has numbers that are not finite in {dtype}.")
    if not lengths.of(vector[None].astype(np.float64))[0] <= LONGEST:
        raise errors.DecodeError(f"The embedding is longer than {LONGEST:g}.")


def content_hash(stored: bytes) -> str:
    """Return what stands for the content of an imported vector, by the bytes that are stored of it.

    Its prefix keeps it from ever being a picture's: embedding the picture later under the same key replaces it.
    """
    return f"vector:{hashlib.blake2b(stored, digest_size=_DIGEST_BYTES).hexdigest()}"
