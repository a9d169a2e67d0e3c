"""A matrix at one moment, for a thread that writes it to a file while the matrix changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from imagekin_worker.matrix.file import CHECKED_ROWS, MatrixFile
from imagekin_worker.matrix.id_index import Names


@dataclass(frozen=True)
class Snapshot:
    """A matrix's live rows as they are now, for another thread to read while the matrix changes.

    It is valid as long as `Matrix.overwrites` has not changed: new rows are added at the end.
    """

    overwrites: int
    edits: int
    file: MatrixFile | None
    dead: Tensor | None
    names: Names
    rows: Tensor
    reciprocals: Tensor
    # of the view, as its file keeps them
    sums: bytes = b""

    def pieces(self) -> Iterator[tuple[Names, np.ndarray, np.ndarray]]:
        """Yield (names, rows, reciprocals), a few megabytes at a time."""
        if self.file is not None:
            for start, stop in self.file.pieces():
                alive = np.ones(stop - start, np.bool_) if self.dead is None else ~self.dead[start:stop].numpy()
                yield (
                    self.file.names(start, stop)[alive],
                    self.file.vectors(start, stop)[alive],
                    self.file.reciprocals(start, stop)[alive],
                )
                self.file.release(start, stop)
        for start in range(0, len(self.names), CHECKED_ROWS):
            span = slice(start, min(start + CHECKED_ROWS, len(self.names)))
            yield self.names[span], self.rows[span].cpu().numpy(), self.reciprocals[span].cpu().numpy()
