"""Split jobs: shares without leaks, written into the images' metadata, in slices."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import tables
from imagekin.enums import ViewName
from imagekin.jobs import checkpoint, fence, finish, results
from imagekin.jobs.claim import Claim, release
from imagekin.store import bulk
from imagekin_worker.analysis.split import Split, split
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import labels
from imagekin_worker.kinds import pinned as pins
from imagekin_worker.kinds.duplicates import FindDuplicates, Search
from imagekin_worker.kinds.pinned import Pinned, Slice

# The part of the progress that is looking for near-duplicates; the rest is writing to the images.
LOOKING = 0.8


@dataclass(frozen=True)
class Writing:
    """How far the shares are written: the images of the result's first `parts` parts have theirs, `done` images."""

    summary: dict[str, Any]
    parts: int = 0
    done: int = 0

    @property
    def fraction(self) -> float:
        return LOOKING + (0.99 - LOOKING) * min(1, self.done / self.summary["images"])

    def saved(self) -> bytes:
        """Return it as a checkpoint keeps it."""
        return pins.packed({"writing": asdict(self)}, b"")

    @classmethod
    def kept(cls, session: Session, claim: Claim) -> Writing | None:
        """Return what was kept last, None while near-duplicates are looked for."""
        saved = checkpoint.kept(session, claim)
        about = {} if saved is None else pins.unpacked(saved)[0]
        return cls(**about["writing"]) if "writing" in about else None


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Look for near-duplicates, or write shares to images, for a slice; the last one writes the result's summary.

    Raises InvalidRequest if the field to stratify by holds no labels or an image has no room for its share, JobError
    where there are more pairs than memory for them, CollectionDeleted and LeaseLost.
    """
    (claim,) = claims
    params, writing = node.database.read(_load, claim)
    if writing is None:
        looking = FindDuplicates(node, claim, {"between": None, "threshold": params["threshold"]}, None)
        part = pins.worked(node, claim, lease, {"view": ViewName.RAW}, looking, share=LOOKING)
        if part is None:
            return
        writing = _placed(node, claim, params, part)
    _write(node, claim, lease, params["field"], writing)


def _load(session: Session, claim: Claim) -> tuple[dict[str, Any], Writing | None]:
    return fence.job_of(session, claim).params, Writing.kept(session, claim)


def _placed(node: Node, claim: Claim, params: dict[str, Any], part: Slice[Search]) -> Writing:
    """Give each image a share, and keep that as the result's rows: what comes now goes by them, in any process."""
    pinned, found = part.pinned, part.work.result()
    values: list[Any] = [None]
    classes = np.zeros(len(pinned.ids), np.int64)
    if params["stratify"] is not None:
        known = labels.of(node, claim, pinned, params["stratify"])
        # those without a label are a class, too
        values = [*known.classes, None]
        classes = np.where(known.numbers < 0, len(known.classes), known.numbers)
    made = split(params["shares"], len(pinned.ids), classes=classes, pairs=found.pairs, seed=params["seed"])
    pins.write_rows(node, claim, _rows(pinned, made))
    summary = {
        "field": params["field"],
        "stratify": params["stratify"],
        "seed": params["seed"],
        "threshold": round(found.threshold, 6),
        "images": len(pinned.ids),
        "groups": len(made.groups),
        "grouped": sum(map(len, made.groups)),
        "counts": _counts(params, made, values),
        "view": part.view.described(),
        "revision": pinned.revision,
    }
    writing = Writing(summary)
    node.database.write(checkpoint.keep, claim, writing.saved(), writing.fraction)
    return writing


def _rows(pinned: Pinned, made: Split) -> Iterator[dict[str, Any]]:
    group = np.full(len(pinned.ids), -1)
    for number, members in enumerate(made.groups):
        group[members] = number
    for row, (id, key) in enumerate(zip(pinned.ids, pinned.keys, strict=True)):
        number = int(group[row])
        yield {"id": id, "key": key, "share": made.names[made.side[row]], "group": None if number < 0 else number}


def _counts(params: dict[str, Any], made: Split, values: list[Any]) -> list[dict[str, Any]]:
    """Return what is in each share; classes that no image has are left out, such as that of the unlabelled."""
    present = np.flatnonzero(made.counts.sum(0))
    return [
        {
            "share": name,
            "wanted": params["shares"][name],
            "images": int(counts.sum()),
            "classes": [] if params["stratify"] is None else [
                {"label": values[label], "count": int(counts[label])} for label in present.tolist()
            ],
        }
        for name, counts in zip(made.names, made.counts, strict=True)
    ]  # fmt: skip


def _write(node: Node, claim: Claim, lease: Lease, field: str, writing: Writing) -> None:
    """Write the shares to the images that are still there, a part of the result in a transaction."""
    deadline = time.monotonic() + pins.SLICE_S
    while writing.done < writing.summary["images"]:
        writing = node.database.write(_written, claim, field, writing)
        if lease.lost:
            raise errors.LeaseLost
        if time.monotonic() > deadline:
            node.database.write(release, [claim])
            return
    node.database.write(finish.result, claim, writing.summary)


def _written(session: Session, claim: Claim, field: str, writing: Writing) -> Writing:
    rows = results.part(session, claim.job_id, writing.parts + 1)
    writing = replace(writing, parts=writing.parts + 1, done=writing.done + len(rows))
    # the fence, and the job's row before that of its collection
    checkpoint.keep(session, claim, writing.saved(), round(writing.fraction, 4))
    collection = session.get_one(tables.Collection, claim.collection_id)
    by_share: dict[str, list[str]] = {}
    for row in rows:
        by_share.setdefault(row["share"], []).append(row["id"])
    for share, ids in by_share.items():
        bulk.merge(session, collection, ids, {field: share})
    return writing
