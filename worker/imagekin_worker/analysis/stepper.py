"""Long analyses in slices: they stop when told to, continue in another process, and reach the same answer."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imagekin import errors
from imagekin_worker.analysis import blocks
from imagekin_worker.analysis.blocks import Blocks, ViewedBlocks
from imagekin_worker.matrix.view import View


class Stepper(ABC):
    """Work in steps of much less than a second; the `state` between two of them is all that another process needs."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether the result is complete."""

    @property
    @abstractmethod
    def fraction(self) -> float:
        """The share of the work that is done, 0 to 1; it never falls."""

    @abstractmethod
    def state(self) -> bytes:
        """Return all progress, from which the class's `resume` continues."""

    @abstractmethod
    def _step(self) -> None:
        """Do a little of the work."""

    def advance(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Work until `until()`, called after every step, returns True; return whether all is done."""
        while not self.finished:
            self._step()
            if until():
                break
        return self.finished


class ViewedRows:
    """Rows in a view, float32 (n, dim): in memory, or beyond the budget in a file in `folder`; made in steps.

    With `index`, only those rows. They are not part of any state: another process makes the same rows again.
    """

    def __init__(
        self, rows: np.ndarray, view: View, memory_budget_bytes: int, folder: Path, index: np.ndarray | None = None
    ) -> None:
        self._source = Blocks(rows, index)
        self.n, self.dim = self._source.n, self._source.dim
        self._making = blocks.kept(ViewedBlocks(self._source, view), memory_budget_bytes, folder)
        self._made: Blocks | None = None
        self._array: np.ndarray | None = None

    def ready(self) -> bool:
        """Return whether the rows are complete; if not, work on them for a step."""
        if self._made is None:
            self._array = next(self._making)
            self._made = None if self._array is None else Blocks(self._array)
        return self._made is not None

    @property
    def array(self) -> np.ndarray:
        """The rows (n, dim), once `ready`."""
        assert self._array is not None
        return self._array

    def spans(self, rows: int | None = None, start: int = 0) -> list[slice]:
        """Return slices of at most `rows` rows from `start` on."""
        return list(self._source.spans(rows, start))

    def tensor(self, span: slice) -> torch.Tensor:
        """Return a block (m, dim) without a copy; call `release` after use."""
        # through DLPack because torch.from_numpy warns of read-only memory
        return torch.from_dlpack(np.asarray(self.array[span]))

    def take(self, index: np.ndarray) -> torch.Tensor:
        """Return a copy of the rows at the given indices (m, dim), in their order."""
        assert self._made is not None
        return torch.from_numpy(self._made.take(index))

    def release(self) -> None:
        """Release the pages of a file."""
        if self._made is not None:
            self._made.release()


def packed(scalars: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return progress as an npz file without pickles; `shape` is that of the rows, (n, dim)."""
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, scalars=np.array(json.dumps(dict(scalars))), **arrays)
    return out.getvalue()


def unpacked(state: bytes, shape: tuple[int, int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what `packed` was given; raises JobError if its `shape`, that of the rows (n, dim), is a different one."""
    with np.load(io.BytesIO(state), allow_pickle=False) as saved:
        scalars: dict[str, Any] = json.loads(saved["scalars"].item())
        arrays = {name: saved[name] for name in saved.files if name != "scalars"}
    if tuple(scalars["shape"]) != shape:
        raise errors.JobError("The saved progress belongs to other images.")
    return scalars, arrays
