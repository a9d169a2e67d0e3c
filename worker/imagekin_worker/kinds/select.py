"""Select jobs: which images to look at or to label first, in slices."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.enums import SelectMethod
from imagekin.jobs import fence
from imagekin.jobs.claim import Claim
from imagekin.schemas import MAX_AVOID
from imagekin.store import reading
from imagekin_worker.analysis.selection import Diverse, Representative
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import pinned as pins
from imagekin_worker.kinds.pinned import Pinned
from imagekin_worker.matrix.view import View

METHODS = {SelectMethod.REPRESENTATIVE: Representative, SelectMethod.DIVERSE: Diverse}


class Select(pins.Analysis[Representative | Diverse]):
    """A choice of images; `avoid` (a, dim) are raw vectors to stay away from, or None."""

    def __init__(self, node: Node, params: dict[str, Any], avoid: np.ndarray | None) -> None:
        self._params, self._avoid = params, avoid
        self._method = METHODS[SelectMethod(params["method"])]
        settings = node.settings
        self._room: dict[str, Any] = {
            "memory_budget_bytes": settings.cluster_memory_bytes,
            "folder": settings.cache_folder,
        }

    def about(self) -> dict[str, Any]:
        data = b"" if self._avoid is None else self._avoid.tobytes()
        return {"avoid": hashlib.blake2b(data, digest_size=16).hexdigest()}

    def begin(self, pinned: Pinned, view: View) -> Representative | Diverse:
        return self._method(pinned.rows, view, self._params["n"], avoid=self._avoid, **self._room)

    def resume(self, pinned: Pinned, view: View, state: bytes) -> Representative | Diverse:
        return self._method.resume(pinned.rows, view, state, avoid=self._avoid, **self._room)

    def conclude(
        self, pinned: Pinned, work: Representative | Diverse
    ) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        found = work.result()
        rows = (
            {"rank": rank, "id": pinned.ids[row], "key": pinned.keys[row], "distance": round(far, 6)}
            for rank, (row, far) in enumerate(zip(found.indices.tolist(), found.distances.tolist(), strict=True), 1)
        )
        summary = {"method": self._params["method"], "n": len(found.indices), "coverage": round(found.coverage, 6)}
        return summary, rows


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Choose for a slice; the last one writes the result.

    Raises InvalidRequest if nothing is left to choose from or there is too much to avoid, CollectionDeleted and
    LeaseLost.
    """
    (claim,) = claims
    params, avoid = node.database.read(_load, claim)
    pins.run(node, claim, lease, params, Select(node, params, avoid))


def _load(session: Session, claim: Claim) -> tuple[dict[str, Any], np.ndarray | None]:
    job = fence.job_of(session, claim)
    avoid = job.work["avoid"]
    if avoid is None:
        return job.params, None
    if "image_ids" in avoid:
        changes = reading.named(session, claim.collection_id, avoid["image_ids"])
    else:
        revision, count = reading.head(session, avoid["collection_id"])
        if count > MAX_AVOID:
            raise errors.InvalidRequest(f"The collection to avoid has {count:,} images; at most {MAX_AVOID:,} may be.")
        changes = reading.changes(session, avoid["collection_id"], 0, revision)
    found = [(change.ids, change.vectors) for change in changes if len(change.names)]
    if not found:
        return job.params, None
    # by id: compaction changes the order of segments
    order = np.argsort(np.concatenate([np.array(ids) for ids, _ in found]))
    return job.params, np.concatenate([vectors for _, vectors in found])[order]
