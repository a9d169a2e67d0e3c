"""Adapt jobs: a projection learned from labels, and a collection of the same images in the space that it makes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.catalog import Space
from imagekin.database import tables
from imagekin.enums import DType, OnConflict, ViewName
from imagekin.jobs import checkpoint, fence, finish
from imagekin.jobs.claim import Claim, release
from imagekin.store import blobs, collections, reading, segments, thumbnails
from imagekin.store.segments import Item
from imagekin_worker.analysis.adaptation import Adaptation, Adapted, Figures
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import labels, projections
from imagekin_worker.kinds import pinned as pins
from imagekin_worker.kinds.labels import Labels
from imagekin_worker.kinds.pinned import Pinned
from imagekin_worker.matrix.view import View

# The part of the progress that is learning; the rest is filling the new collection.
LEARNING = 0.3
# Images of one transaction, about: a segment more or less.
IMAGES_PER_COMMIT = 1024


class Learning(Adaptation):
    """The first part of the work, with the labels that it learns from."""

    known: Labels

    def state(self) -> bytes:
        return pins.packed({"labels": self.known.digest}, super().state())


class Adapt(pins.Analysis[Learning]):
    """What the labels teach."""

    def __init__(self, node: Node, claim: Claim, params: dict[str, Any]) -> None:
        self._node, self._claim, self._params = node, claim, params
        self._budget = node.settings.cluster_memory_bytes

    def begin(self, pinned: Pinned, view: View) -> Learning:
        return self._begun(pinned, view, labels.of(self._node, self._claim, pinned, self._params["field"]))

    def resume(self, pinned: Pinned, view: View, state: bytes) -> Learning:
        known = labels.of(self._node, self._claim, pinned, self._params["field"])
        about, progress = pins.unpacked(state)
        if about["labels"] != known.digest:
            return self._begun(pinned, view, known)
        work = Learning.resume(pinned.rows, view, known.numbers, progress, memory_budget_bytes=self._budget)
        work.known = known
        return work

    def _begun(self, pinned: Pinned, view: View, known: Labels) -> Learning:
        seed = self._params["seed"]
        work = Learning(pinned.rows, view, known.numbers, seed=seed, memory_budget_bytes=self._budget)
        work.known = known
        return work

    def conclude(self, pinned: Pinned, work: Learning) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return what the labels gain; there are no rows. Raises NotBetter."""
        found = work.result(force=self._params["force"])
        return {
            "collection": self._params["name"],
            "field": self._params["field"],
            "before": _known(found.before),
            "after": _known(found.after),
            "gain": {
                "precision_at_5": _numbers(found.precision_gain),
                "map": _numbers(found.map_gain),
                "examples": _numbers(found.examples_gain or (math.nan, math.nan)),
            },
            "better": found.better,
        }, []


@dataclass(frozen=True)
class Filling:
    """How far the new collection is filled: all segments up to `cursor` are in it, `done` images of about `total`."""

    collection_id: str
    space_id: str
    summary: dict[str, Any]
    total: int
    cursor: str = ""
    done: int = 0

    @property
    def fraction(self) -> float:
        return LEARNING + (0.99 - LEARNING) * min(1, self.done / max(1, self.total))

    def saved(self) -> bytes:
        """Return it as a checkpoint keeps it."""
        return pins.packed({"filling": asdict(self)}, b"")

    @classmethod
    def kept(cls, session: Session, claim: Claim) -> Filling | None:
        """Return what was kept last, None while there is still to learn."""
        saved = checkpoint.kept(session, claim)
        about = {} if saved is None else pins.unpacked(saved)[0]
        return cls(**about["filling"]) if "filling" in about else None


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Learn, or fill the new collection, for a slice; the last one writes the result.

    Raises TooFewLabels, NotBetter, CollectionExists if the name was taken meanwhile, InvalidRequest if the field holds
    no labels, CollectionDeleted and LeaseLost.
    """
    (claim,) = claims
    params, filling = node.database.read(_load, claim)
    if filling is None:
        analysis = Adapt(node, claim, params)
        part = pins.worked(node, claim, lease, {"view": ViewName.CALIBRATED}, analysis, share=LEARNING)
        if part is None:
            return
        summary, _ = analysis.conclude(part.pinned, part.work)
        summary |= {"view": part.view.described(), "revision": part.pinned.revision}
        filling = node.database.write(_made, claim, part.work.result(force=True), summary)
    _fill(node, claim, lease, filling)


def _load(session: Session, claim: Claim) -> tuple[dict[str, Any], Filling | None]:
    return fence.job_of(session, claim).params, Filling.kept(session, claim)


def _made(session: Session, claim: Claim, found: Adapted, summary: dict[str, Any]) -> Filling:
    """Create the collection and note it in the checkpoint. Raises CollectionExists and LeaseLost."""
    if (known := Filling.kept(session, claim)) is not None:  # our own commit whose answer got lost
        return known
    job = fence.hold(session, claim)
    source = session.get_one(tables.Collection, claim.collection_id)
    base = Space.from_json(session.get_one(tables.Space, source.space_id).description)
    space = base.adapted(found.projection.fingerprint, found.projection.dim)
    name = summary["collection"]
    collections.create(session, job.owner, name, space, DType(source.dtype), found.projection.saved())
    made = collections.get(session, job.owner, name)
    summary = summary | {"dim": space.dim, "space_id": space.fingerprint}
    filling = Filling(made.id, space.fingerprint, summary, source.image_count)
    checkpoint.keep(session, claim, filling.saved(), round(filling.fraction, 4))
    return filling


def _fill(node: Node, claim: Claim, lease: Lease, filling: Filling) -> None:
    deadline = time.monotonic() + pins.SLICE_S
    while True:
        cursor, items = node.database.read(_next, claim, filling.cursor)
        if not cursor:
            node.database.write(_finished, claim, filling)
            return
        for item in items:
            assert item.vector is not None
            item.vector = projections.applied(node, filling.space_id, item.vector[None])[0]
        filling = replace(filling, cursor=cursor, done=filling.done + len(items))
        try:
            drafted = segments.prepare(node.database, filling.collection_id, items, OnConflict.REPLACE)
            node.database.write(_stored, claim, filling, drafted)
        except segments.Stale:
            # somebody is at the new collection already
            node.database.write(_stored, claim, filling, items)
        if lease.lost:
            raise errors.LeaseLost
        if time.monotonic() > deadline:
            node.database.write(release, [claim])
            return


def _next(session: Session, claim: Claim, cursor: str) -> tuple[str, list[Item]]:
    """Return the images of the next segments, and the last of these; none after the last image.

    An image that was replaced since stands in a segment to come. Raises CollectionDeleted.
    """
    upto, _ = reading.head(session, claim.collection_id)
    last, items = "", []
    with closing(reading.changes(session, claim.collection_id, 0, upto, cursor)) as changes:
        for change in changes:
            last = change.segment_id
            items += _items(session, change)
            if len(items) >= IMAGES_PER_COMMIT:
                break
    return last, items


def _items(session: Session, change: reading.Change) -> list[Item]:
    Image, Pack = tables.Image, tables.Thumbnails
    live = sa.select(Image).where(Image.segment_id == change.segment_id, Image.deleted_at.is_(None))
    images = {image.id: image for image in session.scalars(live)}
    columns = sa.select(Pack.offsets, Pack.blob, Pack.data)
    pack = session.execute(columns.where(Pack.segment_id == change.segment_id)).first()
    pictures = []
    if pack is not None:
        [packed] = blobs.whole(session, blobs.Kind.THUMBNAILS, [(pack.blob, pack.data)])
        pictures = thumbnails.unpack(pack.offsets, packed)
    found = []
    for id, vector in zip(change.ids, change.vectors, strict=True):
        if (image := images.get(id)) is not None:
            found.append(
                Item(
                    image.key,
                    image.metadata_,
                    vector=vector,
                    content_hash=image.content_hash,
                    width=image.width,
                    height=image.height,
                    format=image.format,
                    nbytes=image.nbytes,
                    thumbnail=pictures[image.row] if pictures else None,
                )
            )
    return found


def _stored(session: Session, claim: Claim, filling: Filling, made: segments.Draft | list[Item]) -> None:
    """Store images, prepared or not, and how far that is.

    Raises LeaseLost, CollectionDeleted if the new collection is gone, and segments.Stale.
    """
    checkpoint.keep(session, claim, filling.saved(), round(filling.fraction, 4))
    if isinstance(made, segments.Draft):
        segments.write(session, made)
    else:
        segments.store(session, filling.collection_id, made, OnConflict.REPLACE)


def _finished(session: Session, claim: Claim, filling: Filling) -> None:
    _, images = reading.head(session, filling.collection_id)
    finish.result(session, claim, {**filling.summary, "images": images})


def _known(figures: Figures) -> dict[str, float | None]:
    return {"precision_at_5": _number(figures.precision_at_5), "map": _number(figures.map)}


def _numbers(values: tuple[float, float]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    """Return a figure as JSON has it: null if there was nothing to tell it from."""
    return round(value, 6) if math.isfinite(value) else None
