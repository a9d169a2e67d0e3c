"""The ids of a matrix's rows, in fixed-width arrays: a string for each would take as much memory as a small vector."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from imagekin.store.reading import ID

Names = NDArray[np.bytes_]
Rows = NDArray[np.int64]

# The order is made anew once so many rows came since, in all and of all.
FEWEST_NEW, SHARE_OF_NEW = 4096, 8
# No image has it: what is asked for and cannot be an id.
NOBODY = b""


def encoded(ids: Collection[str]) -> Names:
    """Return ids (n,) as fixed-width ASCII, `NOBODY` in place of a text that cannot be an id."""
    fits = (id if len(id) <= ID.itemsize and id.isascii() else "" for id in ids)
    return np.array(list(fits), ID)


def bisected(names: Names, order: Rows, wanted: Names) -> Rows:
    """Return the row (m,) of each wanted name, -1 if it is not among `names` (n,), whose ascending `order` is given."""
    if not len(names) or not len(wanted):
        return np.full(len(wanted), -1, np.int64)
    places = np.searchsorted(names, wanted, sorter=order)
    rows = order[np.minimum(places, len(names) - 1)]
    return np.where((names[rows] == wanted) & (wanted != NOBODY), rows, -1)


def ordered(names: Names) -> Rows:
    """Return the rows (n,) in the ascending order of their names (n,)."""
    return np.argsort(names, kind="stable").astype(np.int64, copy=False)


class Roster:
    """Which image each row is, and which row each image has.

    Rows are found by bisection in an order that is built on first use; later changes are kept next to it.
    """

    def __init__(self) -> None:
        self._names: Names = np.empty(0, ID)
        self._count = 0
        # the rows as they were when the order was made, and where the images are that came, moved or went since
        self._ordered: Names = np.empty(0, ID)
        self._order: Rows = np.empty(0, np.int64)
        self._moved: dict[bytes, int] = {}
        self._seen = 0

    def __len__(self) -> int:
        return self._count

    @property
    def names(self) -> Names:
        """A view of the ids (n,) of the rows."""
        return self._names[: self._count]

    def extend(self, names: Names) -> None:
        """Add rows (n,) after the others; the images must be new."""
        count = self._count + len(names)
        if count > len(self._names):
            grown = np.empty(max(count, len(self._names) * 3 // 2), ID)
            grown[: self._count] = self.names
            self._names = grown
        self._names[self._count : count] = names
        self._count = count

    def drop(self, row: int) -> None:
        """Remove a row; the image of the last row takes its number."""
        self._note()
        self._moved[self._names[row]] = -1
        last = self._count - 1
        if row != last:
            self._names[row] = self._names[last]
            self._moved[self._names[row]] = row
        self._count = self._seen = last

    def find(self, names: Names) -> Rows:
        """Return the row (m,) of each image, -1 for an unknown one."""
        self._note()
        rows = bisected(self._ordered, self._order, names)
        for at, name in enumerate(names.tolist() if self._moved else ()):
            if name in self._moved:
                rows[at] = self._moved[name]
        return rows

    def _note(self) -> None:
        """Put all rows into the order."""
        fresh = self.names[self._seen :]
        if len(fresh) + len(self._moved) > max(FEWEST_NEW, len(self._ordered) // SHARE_OF_NEW):
            self._ordered, self._moved = self.names.copy(), {}
            self._order = ordered(self._ordered)
        elif len(fresh):
            self._moved |= zip(fresh.tolist(), range(self._seen, self._count), strict=True)
        self._seen = self._count
