"""Projections of adapted spaces: what follows the network on the way of a picture into such a space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from imagekin import catalog, errors
from imagekin.database import tables
from imagekin_worker.analysis.adaptation import Projection
from imagekin_worker.context.process_state import Node

# Each takes some megabytes.
MOST_KEPT = 4


def of(node: Node, space_id: str) -> Projection | None:
    """Return the projection of a space, None for one that the network itself embeds into."""
    if not catalog.is_adapted(space_id):
        return None
    if space_id not in node.projections:
        saved = node.database.read(_saved, space_id)
        if len(node.projections) >= MOST_KEPT:
            node.projections.clear()
        node.projections[space_id] = Projection.load(saved)
    return node.projections[space_id]


def applied(node: Node, space_id: str, embedded: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a network made of pictures (n, dim) as vectors of a space (n, dim of the space)."""
    projection = of(node, space_id)
    return embedded if projection is None else projection.apply(embedded)


def _saved(session: Session, space_id: str) -> bytes:
    saved = session.get_one(tables.Space, space_id).projection
    if saved is None:
        raise errors.JobError(f"The projection of the space {space_id} is missing.")
    return saved
