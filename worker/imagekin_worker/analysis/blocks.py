"""Raw vectors read in blocks, from memory or from a mapped file that may be larger than memory."""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imagekin import errors

if TYPE_CHECKING:
    from imagekin_worker.matrix.view import View

# A block of rows that one step of a pass works on: some milliseconds, and it stays in a core's outer cache.
BLOCK_BYTES = 8 << 20
# Rows that are copied at a time: each may bring megabytes of its neighborhood into memory, as the system maps files in
# large pages where it can.
GATHERED_ROWS = 64


class Blocks:
    """Rows (n, dim), float32 or float16, read-only, as the network made them; with `index`, only those rows.

    Raises InvalidRequest for any other array. Pages of a mapped file count as this process's memory only while their
    block is in use.
    """

    def __init__(self, array: np.ndarray, index: np.ndarray | None = None) -> None:
        if array.ndim != 2 or array.dtype not in (np.float32, np.float16) or not array.shape[1]:
            raise errors.InvalidRequest(
                f"Vectors must be a float32 or float16 array (n, dim), not {array.dtype} {array.shape}."
            )
        self._array, self._index = array, index
        self.n, self.dim = len(array) if index is None else len(index), array.shape[1]
        self._mapping = mapping_of(array)

    def __len__(self) -> int:
        return self.n

    def spans(self, rows: int | None = None, start: int = 0) -> Iterator[slice]:
        """Yield slices of at most `rows` rows from `start` on; by default of `BLOCK_BYTES` as float32."""
        step = max(1, BLOCK_BYTES // (4 * self.dim)) if rows is None else max(1, rows)
        return (slice(at, min(at + step, self.n)) for at in range(start, self.n, step))

    def read(self, span: slice) -> NDArray[np.float32]:
        """Return a copy of a block (m, dim) as float32."""
        if self._index is not None:
            return self._taken(self._index[span])
        found = np.array(self._array[span], np.float32)
        self.release()
        return found

    def take(self, index: np.ndarray) -> NDArray[np.float32]:
        """Return a copy of the rows at the given indices (m, dim) as float32, in their order."""
        return self._taken(index if self._index is None else self._index[index])

    def among(self, index: np.ndarray) -> Blocks:
        """Return only the rows at the given indices (m,), in their order."""
        return Blocks(self._array, index if self._index is None else self._index[index])

    def release(self) -> None:
        """Release the pages of a mapped file; the system keeps them cached while it has room."""
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)

    def _taken(self, index: np.ndarray) -> NDArray[np.float32]:
        if self._mapping is None:
            return self._array[index].astype(np.float32)
        gathered = np.empty((len(index), self.dim), np.float32)
        order = np.argsort(index, kind="stable")
        for start in range(0, len(order), GATHERED_ROWS):
            places = order[start : start + GATHERED_ROWS]
            gathered[places] = self._array[index[places]]
            self.release()
        return gathered


class ViewedBlocks:
    """The rows of `blocks` in a view: float32 of length 1, transformed when they are read."""

    def __init__(self, blocks: Blocks, view: View) -> None:
        self._blocks, self._view = blocks, view
        self.n, self.dim = blocks.n, blocks.dim
        self.spans = blocks.spans

    def __len__(self) -> int:
        return self.n

    def digest(self) -> str:
        """Return 32 hex digits that are equal for the same rows in the same view, read once."""
        digest = hashlib.blake2b(f"{self.n} {self.dim} {self._view.id}".encode(), digest_size=16)
        for span in self.spans():
            digest.update(self._blocks.read(span).data)
        return digest.hexdigest()

    def read(self, span: slice) -> NDArray[np.float32]:
        """Return a block (m, dim) in the view."""
        return self._view.transform(self._blocks.read(span))

    def take(self, index: np.ndarray) -> NDArray[np.float32]:
        """Return the rows at the given indices (m, dim) in the view, in their order."""
        return self._view.transform(self._blocks.take(index))

    def among(self, index: np.ndarray) -> ViewedBlocks:
        """Return only the rows at the given indices (m,), in their order."""
        return ViewedBlocks(self._blocks.among(index), self._view)


def kept(viewed: ViewedBlocks, memory_budget_bytes: int, folder: Path) -> Iterator[NDArray[np.float32] | None]:
    """Write all rows in the view to memory, or beyond the budget to a file in `folder` without a name.

    Yield None after each block and the array (n, dim) at the end: a file is read-only and disappears with its mapping.
    """
    if 4 * viewed.n * viewed.dim <= memory_budget_bytes:
        found = np.empty((viewed.n, viewed.dim), np.float32)
        for span in viewed.spans():
            found[span] = viewed.read(span)
            yield None
        yield found
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        for span in viewed.spans():
            file.write(viewed.read(span).data)
            yield None
        file.flush()
        yield np.memmap(file, np.float32, "r", shape=(viewed.n, viewed.dim))


def mapping_of(array: np.ndarray) -> mmap.mmap | None:
    """Return the mapping of the file behind an array (n, dim); None if releasing its pages could lose a change."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and owner.mode in ("r", "r+") and hasattr(mmap, "MADV_DONTNEED"):
            # numpy has no public name for it
            return getattr(owner, "_mmap", None)
        owner = owner.base
    return None
