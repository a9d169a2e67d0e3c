"""Lists of the nearest rows of every row, kept on this machine for the next job on the same vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from imagekin.jobs.claim import Claim
from imagekin_worker.analysis.neighborhoods import Lists
from imagekin_worker.context.process_state import Node
from imagekin_worker.matrix import list_file
from imagekin_worker.matrix.file_cache import MatrixCache
from imagekin_worker.matrix.view import View


class Kept:
    """The lists of a collection in a view, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def known(self, digest: Callable[[], str]) -> Lists | None:
        """Return the lists of the rows with this digest."""
        found = list_file.read(self._path, digest)
        return None if found is None else Lists(*found)

    def keep(self, digest: str, lists: Lists) -> None:
        """Keep the lists of the rows with this digest, in the place of any others."""
        list_file.write(self._path, digest, *lists)


def of(node: Node, claim: Claim, view: View) -> Kept | None:
    """Return where lists of the claim's collection are kept, None for a worker without files."""
    if not node.settings.matrix_cache_bytes:
        return None
    return Kept(MatrixCache.of(node.settings).nearest(claim.collection_id, view.name))
