"""Embeddings as blobs: little-endian, one vector after another, without a header; dim and dtype stand beside them."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from imagekin.enums import DType

WIRE = {DType.FLOAT32: np.dtype("<f4"), DType.FLOAT16: np.dtype("<f2")}

Vectors = NDArray[np.float32]


def width(dim: int, dtype: DType | str) -> int:
    """Return the bytes of one vector."""
    return dim * WIRE[DType(dtype)].itemsize


def encode(vectors: Vectors, dtype: DType | str) -> bytes:
    """Return (n, dim) float32 vectors as a blob of `dtype`."""
    return np.ascontiguousarray(vectors, dtype=WIRE[DType(dtype)]).tobytes()


def stored(blob: bytes | memoryview, dim: int, dtype: DType | str) -> NDArray[np.floating]:
    """Return a blob's vectors as (n, dim) of the blob's own numbers: a read-only view."""
    return np.frombuffer(blob, dtype=WIRE[DType(dtype)]).reshape(-1, dim)


def decode(blob: bytes | memoryview, dim: int, dtype: DType | str) -> Vectors:
    """Return a blob's vectors as (n, dim) float32; read-only where nothing had to be converted."""
    return stored(blob, dim, dtype).astype(np.float32, copy=False)


def checksum(blob: bytes) -> int:
    """Return the CRC-32 that a segment's row keeps of its blob."""
    return zlib.crc32(blob)
