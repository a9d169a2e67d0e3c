"""NumPy's npz: a zip of arrays, for `numpy.load(file, allow_pickle=False)`."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from itertools import islice

import numpy as np

from imagekin.database import tables
from imagekin.store.exports.contents import Contents
from imagekin.store.exports.sink import Archive

TEXTS_PER_PIECE = 4096


def write(contents: Contents) -> Iterator[bytes]:
    """Yield an npz: `ids`, `keys` (text), `embeddings` (n, dim), and an array of one text for each of its metadata.

    `metadata.jsonl` has a line of JSON for each image; NumPy gives it as bytes. The embeddings alone are not
    compressed: that gains nothing, and leaves them where they can be read from any row on.
    """
    shape = (contents.count,)
    key_type = np.dtype(f"<U{max(1, contents.longest_key())}")
    id_type = np.dtype(f"<U{tables.ID_LENGTH}")
    archive = Archive()
    for name, text in contents.description.items():
        yield from archive.add(f"{name}.npy", _texts(np.dtype(f"<U{len(text) or 1}"), (), iter([text])))
    yield from archive.add("ids.npy", _texts(id_type, shape, contents.ids()))
    yield from archive.add("keys.npy", _texts(key_type, shape, contents.keys()))
    embeddings = _array(contents.dtype, (contents.count, contents.about.dim), contents.vectors())
    yield from archive.add("embeddings.npy", embeddings, zipfile.ZIP_STORED)
    yield from archive.add("metadata.jsonl", _lines(contents.metadata()))
    yield from archive.finish()


def _array(dtype: np.dtype, shape: tuple[int, ...], data: Iterator[bytes]) -> Iterator[bytes]:
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    yield header.getvalue()
    yield from data


def _texts(dtype: np.dtype, shape: tuple[int, ...], texts: Iterator[str]) -> Iterator[bytes]:
    # a key of 1,024 characters makes every key 4 KiB wide
    at_once = max(1, min(TEXTS_PER_PIECE, (1 << 20) // dtype.itemsize))
    pieces = iter(lambda: list(islice(texts, at_once)), [])
    return _array(dtype, shape, (np.array(piece, dtype).tobytes() for piece in pieces))


def _lines(texts: Iterator[str]) -> Iterator[bytes]:
    while some := list(islice(texts, TEXTS_PER_PIECE)):
        yield "".join(f"{text}\n" for text in some).encode()
