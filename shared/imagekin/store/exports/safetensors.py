"""safetensors: a header of JSON, then the tensors, for PyTorch, JAX and NumPy.

The layout is that of https://huggingface.co/docs/safetensors, "Format": the header's length (8 bytes, little-endian),
the header, padded to 8 bytes with spaces, and the data, without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import accumulate, chain, islice
from typing import Any, NamedTuple

import numpy as np

from imagekin.database import tables
from imagekin.enums import DType
from imagekin.store.exports.contents import Contents

DTYPES = {DType.FLOAT32: "F32", DType.FLOAT16: "F16"}
AT_ONCE = 4096


class Tensor(NamedTuple):
    """A tensor to write: its type and shape for the header, its size in bytes, and its data."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    data: Callable[[], Iterator[bytes]]


def write(contents: Contents) -> Iterator[bytes]:
    """Yield a safetensors file: `embeddings` (n, dim), and texts as bytes, since the format does not have texts.

    `ids` (n, 32) are ASCII; text i of `keys` and `metadata` is UTF-8 from byte `..._offsets`[i] to the next offset.
    """
    tensors = _tensors(contents)
    yield _header(tensors, contents.description)
    for tensor in tensors.values():
        yield from tensor.data()


def _tensors(contents: Contents) -> dict[str, Tensor]:
    n, about = contents.count, contents.about
    n_keys, n_metadata = sum(_lengths(contents.keys())), sum(_lengths(contents.metadata()))
    return {
        # numbers of eight bytes first: so everything lies aligned
        "keys_offsets": Tensor("I64", (n + 1,), 8 * (n + 1), lambda: _offsets(contents.keys())),
        "metadata_offsets": Tensor("I64", (n + 1,), 8 * (n + 1), lambda: _offsets(contents.metadata())),
        "embeddings": Tensor(
            DTYPES[about.dtype], (n, about.dim), n * about.dim * contents.dtype.itemsize, contents.vectors
        ),
        "ids": Tensor("U8", (n, tables.ID_LENGTH), n * tables.ID_LENGTH, lambda: _bytes(contents.ids())),
        "keys": Tensor("U8", (n_keys,), n_keys, lambda: _bytes(contents.keys())),
        "metadata": Tensor("U8", (n_metadata,), n_metadata, lambda: _bytes(contents.metadata())),
    }


def _header(tensors: dict[str, Tensor], description: dict[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": description}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _lengths(texts: Iterator[str]) -> Iterator[int]:
    return (len(text.encode()) for text in texts)


def _offsets(texts: Iterator[str]) -> Iterator[bytes]:
    offsets = accumulate(chain([0], _lengths(texts)))
    while some := list(islice(offsets, AT_ONCE)):
        yield np.array(some, "<i8").tobytes()


def _bytes(texts: Iterator[str]) -> Iterator[bytes]:
    while some := list(islice(texts, AT_ONCE)):
        yield "".join(some).encode()
