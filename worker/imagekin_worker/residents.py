"""Collections' vectors in memory, caught up with SQL before they answer."""

from __future__ import annotations

from collections import OrderedDict

from sqlalchemy.orm import Session

from imagekin import metrics, models, segments
from imagekin.db import Database
from imagekin_worker.neighbors import Matrix


class Residents:
    """The matrices of collections under a memory budget; the least recently used go first."""

    def __init__(self, database: Database, budget_bytes: int) -> None:
        self._database = database
        self._budget_bytes = budget_bytes
        self._matrices: OrderedDict[str, tuple[int, Matrix]] = OrderedDict()

    def get(self, collection_id: str) -> Matrix:
        """Return the collection's matrix as of its current revision, or a later one. Raises CollectionDeleted."""
        revision, matrix = self._matrices.pop(collection_id, (0, None))
        current, matrix = self._database.read(catch_up, collection_id, revision, matrix)
        self._matrices[collection_id] = (current, matrix)
        self._evict()
        metrics.WORK.matrix_bytes.set(self.nbytes)
        return matrix

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for _, matrix in self._matrices.values())

    def _evict(self) -> None:
        while len(self._matrices) > 1 and self.nbytes > self._budget_bytes:
            self._matrices.popitem(last=False)


def catch_up(
    session: Session, collection_id: str, revision: int = 0, matrix: Matrix | None = None, upto: int | None = None
) -> tuple[int, Matrix]:
    """Bring a matrix that stands at `revision` to revision `upto`, or to the current one; return that and the matrix.

    Ids and clocks would miss rows that commit late; revisions rise under the collection's lock, so they don't.
    """
    current, count = segments.head(session, collection_id)
    if upto is not None:
        current = upto
    if matrix is None or segments.forgotten(session, collection_id, revision):
        revision = 0
        space = session.get_one(models.Space, session.get_one(models.Collection, collection_id).space_id)
        matrix = Matrix(space.dim, capacity=count)
    if current > revision:
        matrix.reserve(count)
        for change in segments.changes(session, collection_id, revision, current):
            matrix.remove(change.deleted)
            if change.ids:
                matrix.upsert(change.ids, change.keys, change.vectors)
    return current, matrix
