"""Map jobs: a collection laid out in the plane, in slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from imagekin.jobs import fence
from imagekin.jobs.claim import Claim
from imagekin_worker.analysis.layout import Layout
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import pinned as pins
from imagekin_worker.kinds.pinned import Pinned
from imagekin_worker.matrix.view import View


class Map(pins.Analysis[Layout]):
    """Where the images lie."""

    def __init__(self, node: Node, params: dict[str, Any]) -> None:
        self._seed = params["seed"]
        settings = node.settings
        self._room: dict[str, Any] = {
            "memory_budget_bytes": settings.cluster_memory_bytes,
            "folder": settings.cache_folder,
        }

    def begin(self, pinned: Pinned, view: View) -> Layout:
        return Layout(pinned.rows, view, seed=self._seed, **self._room)

    def resume(self, pinned: Pinned, view: View, state: bytes) -> Layout:
        return Layout.resume(pinned.rows, view, state, **self._room)

    def conclude(self, pinned: Pinned, work: Layout) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        places = work.result()
        rows = (
            {"id": id, "key": key, "x": round(float(x), 6), "y": round(float(y), 6)}
            for id, key, (x, y) in zip(pinned.ids, pinned.keys, places, strict=True)
        )
        return {"seed": self._seed, "images": len(pinned.ids)}, rows


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Lay out for a slice; the last one writes the result.

    Raises InvalidRequest if no image passes the filter, CollectionDeleted and LeaseLost.
    """
    (claim,) = claims
    params = node.database.read(fence.job_of, claim).params
    pins.run(node, claim, lease, params, Map(node, params))
