"""Assign jobs: images are put into the clusters of an earlier clustering."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer

from imagekin import errors
from imagekin.database import tables
from imagekin.enums import DType
from imagekin.jobs import checkpoint, fence, finish, results
from imagekin.jobs.claim import Claim, release
from imagekin.store import ledger, reading, vector_codec
from imagekin.store.reading import Change
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kmeans import measure
from imagekin_worker.matrix.view import RAW, View

# Searches wait for so long.
SLICE_S = 2.0

Image = tables.Image


@dataclass
class Progress:
    """How far a walk over all later images is: past which segment of those up to revision `upto`, in which part."""

    upto: int
    total: int
    segment: str = ""
    part: int = 1
    done: int = 0

    @property
    def fraction(self) -> float:
        return round(min(1.0, self.done / self.total), 4) if self.total else 1.0


class Placer:
    """The centers of a clustering, which give each image a label and a distance."""

    def __init__(self, node: Node, found: tables.Clustering) -> None:
        self.revision = found.revision
        self.metric = found.metric
        self._centers = vector_codec.decode(found.centers, found.dim, DType.FLOAT32)
        # of a clustering by a service that did not know views
        self.view = None if found.view is None else View.load(found.view)
        self._device = node.device

    def rows(self, session: Session, change: Change) -> list[dict[str, Any]]:
        """Return the result's rows for some images, in their order."""
        rows = np.ascontiguousarray(change.vectors)
        if self.view is not None and self.view.name != RAW:
            rows = self.view.transform(rows)
        labels, distances = measure.assign(rows, self._centers, self.metric, device=self._device)
        keys = reading.keys(session, change.ids)
        placed = zip(change.ids, labels.tolist(), distances.tolist(), strict=True)
        return [{"id": id, "key": keys[id], "label": at, "distance": round(far, 6)} for id, at, far in placed]


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Assign the named images, or a slice of all that came later; the last slice ends the job.

    Raises JobNotFound if the clustering is gone, InvalidRequest, LeaseLost.
    """
    (claim,) = claims
    job, found = node.database.read(_load, claim)
    placer = Placer(node, found)
    if job.work["image_ids"] is not None:
        _named(node, claim, job.work["image_ids"], placer)
    elif not _slice(node, claim, lease, placer):
        node.database.write(release, [claim])
        return
    view = None if placer.view is None else placer.view.described()
    summary = {"clustering_id": found.job_id, "metric": found.metric, "view": view}
    node.database.write(finish.result, claim, summary)


def _load(session: Session, claim: Claim) -> tuple[tables.Job, tables.Clustering]:
    job = fence.job_of(session, claim)
    all_of_it = [undefer(tables.Clustering.centers), undefer(tables.Clustering.view)]
    found = session.get(tables.Clustering, job.work["clustering_id"], options=all_of_it)
    if found is None:
        raise errors.JobNotFound("The clustering was deleted before the assign job began.")
    return job, found


def _named(node: Node, claim: Claim, ids: list[str], placer: Placer) -> None:
    """Write the rows of the images that are still there, in the order in which they were named."""
    place = {id: at for at, id in enumerate(ids)}
    with node.database.snapshot() as session:
        found = reading.named(session, claim.collection_id, ids)
        rows = [row for change in found for row in placer.rows(session, change)]
    rows.sort(key=lambda row: place[row["id"]])
    parts = [rows[at : at + results.ROWS_PER_PART] for at in range(0, len(rows), results.ROWS_PER_PART)]
    node.database.write(finish.finalize, claim, 1, parts)


def _slice(node: Node, claim: Claim, lease: Lease, placer: Placer) -> bool:
    """Work for a slice, a part in memory at a time; return whether it was the last one."""
    deadline = time.monotonic() + SLICE_S
    rows: list[dict[str, Any]] = []
    with node.database.snapshot() as session:
        progress = _resume(session, claim, placer)
        later = reading.changes(session, claim.collection_id, placer.revision, progress.upto, progress.segment)
        with closing(later):
            for change in later:
                if len(change.names):
                    rows += placer.rows(session, change)
                progress.segment = change.segment_id
                if len(rows) >= results.ROWS_PER_PART:
                    _keep(node, claim, progress, rows)
                    rows = []
                if lease.lost or time.monotonic() > deadline:
                    _keep(node, claim, progress, rows)
                    return False
        _keep(node, claim, progress, rows)
    return True


def _resume(session: Session, claim: Claim, placer: Placer) -> Progress:
    kept = checkpoint.unpacked(session, claim)
    if kept is not None:
        return Progress(**kept)
    upto, _ = reading.head(session, claim.collection_id)
    later = sa.select(sa.func.count()).where(
        Image.collection_id == claim.collection_id,
        Image.revision > placer.revision,
        Image.revision <= upto,
        Image.deleted_at.is_(None),
    )
    return Progress(upto, session.scalars(later).one())


def _keep(node: Node, claim: Claim, progress: Progress, rows: list[dict[str, Any]]) -> None:
    if not rows:  # of images that were deleted since, say
        node.database.write(checkpoint.keep, claim, ledger.pack(asdict(progress)), progress.fraction)
        return
    part = progress.part
    progress.part, progress.done = part + 1, progress.done + len(rows)
    node.database.write(finish.extend, claim, part, rows, ledger.pack(asdict(progress)), progress.fraction)
