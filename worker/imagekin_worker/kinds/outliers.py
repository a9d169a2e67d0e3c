"""Outliers jobs: which images are far from all others, in slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from imagekin.jobs import fence
from imagekin.jobs.claim import Claim
from imagekin.store import images
from imagekin_worker.analysis.neighborhoods import LISTED
from imagekin_worker.analysis.outliers import Outliers
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import lists
from imagekin_worker.kinds import pinned as pins
from imagekin_worker.kinds.pinned import Pinned
from imagekin_worker.matrix.view import View
from imagekin_worker.network.devices import cores


class FindOutliers(pins.Analysis[Outliers]):
    """The images that are farthest from their nearest ones of other content."""

    def __init__(self, node: Node, claim: Claim, params: dict[str, Any]) -> None:
        self._node, self._claim, self._params = node, claim, params
        self._room: dict[str, Any] = {
            "memory_budget_bytes": node.settings.cluster_memory_bytes,
            "folder": node.settings.cache_folder,
            "threads": cores(),
        }

    def about(self) -> dict[str, Any]:
        # progress of a service that made no lists begins again
        return {"listed": LISTED}

    def begin(self, pinned: Pinned, view: View) -> Outliers:
        return Outliers(pinned.rows, view, **self._known(pinned, view), **self._room)

    def resume(self, pinned: Pinned, view: View, state: bytes) -> Outliers:
        return Outliers.resume(pinned.rows, view, state, **self._known(pinned, view), **self._room)

    def conclude(self, pinned: Pinned, work: Outliers) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        found = work.result()
        chosen = found.order[: self._params["n"]].tolist()

        def named(row: int) -> dict[str, str]:
            return {"id": pinned.ids[row], "key": pinned.keys[row]}

        rows = (
            {
                "rank": rank,
                **named(row),
                "score": round(float(found.scores[row]), 6),
                "percentile": round(float(found.percentiles[row]), 4),
                "nearest": named(int(found.nearest[row])) if found.nearest[row] >= 0 else None,
            }
            for rank, row in enumerate(chosen, 1)
        )
        return {"n": len(chosen), "images": len(pinned.ids)}, rows

    def _known(self, pinned: Pinned, view: View) -> dict[str, Any]:
        identical = self._node.database.read(_firsts, pinned.ids)
        return {"identical": identical, "memory": lists.of(self._node, self._claim, view)}


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Look for outliers for a slice; the last one writes the result.

    Raises InvalidRequest if no image passes the filter, JobError if there are more near-duplicates than memory for
    them, CollectionDeleted and LeaseLost.
    """
    (claim,) = claims
    params = node.database.read(fence.job_of, claim).params
    pins.run(node, claim, lease, params, FindOutliers(node, claim, params))


def _firsts(session: Session, ids: list[str]) -> NDArray[np.int64]:
    """Return for each image (n,) the first one that has the same bytes."""
    contents = {image.id: image.content_hash for image in images.facts(session, ids)}
    firsts: dict[str, int] = {}
    # an image that is forgotten has content of its own
    return np.array([firsts.setdefault(contents.get(id, id), row) for row, id in enumerate(ids)], np.int64)
