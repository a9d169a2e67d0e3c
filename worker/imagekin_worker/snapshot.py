"""What a matrix is at one moment, for a thread that writes it down while the matrix goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from imagekin_worker.matrix_file import CHECKED_ROWS, MatrixFile


@dataclass(frozen=True)
class Snapshot:
    """A matrix's live rows as they are now, to be read by another thread while the matrix goes on.

    Good as long as `Matrix.overwrites` is what it was: what comes later is added behind.
    """

    overwrites: int
    edits: int
    file: MatrixFile | None
    dead: Tensor | None
    ids: list[str]
    keys: list[str]
    rows: Tensor
    reciprocals: Tensor

    def pieces(self) -> Iterator[tuple[list[str], list[str], np.ndarray, np.ndarray]]:
        """Yield (ids, keys, rows, reciprocals), a few megabytes at a time."""
        if self.file is not None:
            for start, stop in self.file.pieces():
                alive = np.ones(stop - start, np.bool_) if self.dead is None else ~self.dead[start:stop].numpy()
                ids, keys = self.file.names(start, stop)
                kept = np.flatnonzero(alive).tolist()
                yield (
                    [ids[at] for at in kept],
                    [keys[at] for at in kept],
                    self.file.vectors(start, stop)[alive],
                    self.file.reciprocals(start, stop)[alive],
                )
                self.file.release(start, stop)
        for start in range(0, len(self.ids), CHECKED_ROWS):
            span = slice(start, min(start + CHECKED_ROWS, len(self.ids)))
            yield self.ids[span], self.keys[span], self.rows[span].cpu().numpy(), self.reciprocals[span].cpu().numpy()
