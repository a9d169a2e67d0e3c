"""Signs of images' pictures for jobs: hashes and gray pictures of stored thumbnails, the hashes kept in SQL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.exc import IntegrityError

from imagekin.store import signs, thumbnails
from imagekin_worker.analysis.prints import Prints
from imagekin_worker.context.process_state import Node


class Kept:
    """The hashes that are kept of images, named by their places in `ids`."""

    def __init__(self, node: Node, ids: Sequence[str]) -> None:
        self._database, self._ids = node.database, ids

    def known(self, index: NDArray[np.int64]) -> NDArray[np.void]:
        """Return their records (m,)."""
        return self._database.read(signs.kept, self._named(index))

    def keep(self, index: NDArray[np.int64], records: NDArray[np.void]) -> None:
        """Keep their records (m,)."""
        try:
            self._database.write(signs.keep, self._named(index), records)
        except IntegrityError:
            # a segment was dropped at this moment: its pictures are hashed again when they are needed again
            return

    def thumbnails(self, index: NDArray[np.int64]) -> list[bytes | None]:
        """Return their JPEG thumbnails (m,), None for a missing one."""
        ids = self._named(index)
        found = self._database.read(thumbnails.in_bulk, ids)
        return [found.get(id) for id in ids]

    def _named(self, index: NDArray[np.int64]) -> list[str]:
        return [self._ids[int(row)] for row in index]


def of(node: Node, ids: Sequence[str]) -> Prints:
    """Return the signs of images by id, which are taken as far as they are not kept."""
    kept = Kept(node, ids)
    return Prints(ids, kept.thumbnails, kept)
