"""Collections, images and segments: every image's vector resolves and is what was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import catalog, errors
from imagekin.database import sql, tables
from imagekin.doctor.checks import Batch, Check, Finding, System, walk
from imagekin.maintenance import expiry, upkeep
from imagekin.store import blobs as store
from imagekin.store import segments, thumbnails
from imagekin.store import vector_codec as codec

Collection, Image, LooseBlob, Segment, Space, Thumbnails = (
    tables.Collection, tables.Image, tables.LooseBlob, tables.Segment, tables.Space, tables.Thumbnails
)  # fmt: skip

COLLECTIONS_PER_BATCH = 20
IMAGES_PER_BATCH = 4096
SEGMENTS_PER_BATCH = 16
DUPLICATES_NAMED = 5


def spaces(system: System) -> Iterator[Batch]:
    """Hold every space's id against its description."""
    return walk(system, _spaces, "")


def _spaces(session: Session, batch: Batch, after: str, _: System) -> str | None:
    found = session.scalars(sa.select(Space).where(Space.id > after).order_by(Space.id).limit(100)).all()
    for space in found:
        try:
            said = catalog.Space.from_json(space.description)
            same = said.fingerprint == space.id
            same = same and (said.dim, said.backbone, said.precision) == (space.dim, space.backbone, space.precision)
        except (KeyError, TypeError, ValueError):
            same = False
        batch.hold("spaces", same, f"space {space.id} ({space.backbone}) is not what its description says", space.id)
    return found[-1].id if found else None


def collections(system: System) -> Iterator[Batch]:
    """Hold every collection's own numbers against its images."""
    return walk(system, _collections, "")


def _collections(session: Session, batch: Batch, after: str, _: System) -> str | None:
    query = sa.select(Collection).where(Collection.id > after, Collection.deleted_at.is_(None))
    found = session.scalars(query.order_by(Collection.id).limit(COLLECTIONS_PER_BATCH)).all()
    for one in found:
        live = session.scalars(_count(one.id)).one()
        batch.hold("image_count", live == one.image_count, f"{one.name!r} counts {one.image_count}, has {live}", one.id)
        newest = session.scalar(sa.select(sa.func.max(Image.revision)).where(Image.collection_id == one.id)) or 0
        batch.hold(
            "revisions",
            max(newest, one.pruned_revision) <= one.revision,
            f"{one.name!r} is at revision {one.revision}, its images at {max(newest, one.pruned_revision)}",
        )
        batch.examined["unique_keys"] += live
        for key, count in session.execute(_duplicates(one.id)):
            batch.findings.append(Finding("unique_keys", (), f"{one.name!r} has the key {key!r} {count} times"))
    return found[-1].id if found else None


def _count(collection_id: str) -> sa.Select[int]:
    return sa.select(sa.func.count()).where(Image.collection_id == collection_id, Image.deleted_at.is_(None))


def _duplicates(collection_id: str) -> sa.Select[str, int]:
    return (
        sa.select(Image.key, sa.func.count())
        .where(Image.collection_id == collection_id, Image.deleted_at.is_(None))
        .group_by(Image.key)
        .having(sa.func.count() > 1)
        .limit(DUPLICATES_NAMED)
    )


def images(system: System) -> Iterator[Batch]:
    """Find every live image's segment and row."""
    return walk(system, _images, "")


def _images(session: Session, batch: Batch, after: str, _: System) -> str | None:
    page = sa.select(Image.id, Image.collection_id, Image.segment_id, Image.row, Image.deleted_at)
    page = page.where(Image.id > after).order_by(Image.id).limit(IMAGES_PER_BATCH).subquery()
    last = None
    rows = session.execute(
        sa.select(page, Segment.collection_id.label("owner_id"), Segment.count.label("rows"))
        .join(Collection, sa.and_(Collection.id == page.c.collection_id, Collection.deleted_at.is_(None)), isouter=True)
        .join(Segment, Segment.id == page.c.segment_id, isouter=True)
        .add_columns(Collection.id.label("alive"))
        .order_by(page.c.id)
    )
    for image in rows:
        last = image.id
        if image.alive is None or image.deleted_at is not None:
            continue
        if image.rows is None:
            why = "is not there"
        elif image.owner_id != image.collection_id:
            why = "is another collection's"
        else:
            why = f"has {image.rows} rows" if not 0 <= image.row < image.rows else ""
        detail = f"image {image.id} stands in row {image.row} of segment {image.segment_id}, which {why}"
        batch.hold("images_resolve", not why, detail)
    return last


def blobs(system: System) -> Iterator[Batch]:
    """Read every segment and its thumbnails."""
    return walk(system, _blobs, "")


def _blobs(session: Session, batch: Batch, after: str, system: System) -> str | None:
    used = sa.not_(expiry.segment_abandoned(system.patience_s + upkeep.SELDOM_S))
    query = (
        sa.select(Segment, Space.dim, Collection.dtype, Collection.id.label("collection_id"), used.label("used"))
        .join(Collection, Collection.id == Segment.collection_id)
        .join(Space, Space.id == Collection.space_id)
        .where(Segment.id > after, Collection.deleted_at.is_(None))
    )
    found = session.execute(query.order_by(Segment.id).limit(SEGMENTS_PER_BATCH)).all()
    for segment, dim, dtype, collection_id, is_used in found:
        name = f"segment {segment.id}"
        batch.hold("segments_used", is_used, f"{name} has no image", collection_id, segment.id)
        _blob(session, batch, segment, dim, dtype)
        _pack(session, batch, segment)
    _shared(session, batch, [row[0].id for row in found])
    return found[-1][0].id if found else None


def _blob(session: Session, batch: Batch, segment: tables.Segment, dim: int, dtype: str) -> None:
    # read by itself, not as the object's attribute, so that one blob is in memory at a time
    data = session.scalars(sa.select(Segment.data).where(Segment.id == segment.id)).one()
    name = f"segment {segment.id}"
    size = segment.count * codec.width(dim, dtype)
    if not _there(session, batch, store.Kind.VECTORS, segment.id, segment.blob, size):
        return
    [data] = store.whole(session, store.Kind.VECTORS, [(segment.blob, data)])
    fits = batch.hold(
        "segment_shape",
        (segment.dim, segment.dtype) == (dim, dtype) and len(data) == segment.count * codec.width(dim, dtype),
        f"{name} has {len(data)} bytes for {segment.count} x {segment.dim} {segment.dtype},"
        f" in a collection of {dim} {dtype}",
    )
    batch.hold("segment_checksum", codec.checksum(data) == segment.checksum, f"{name} is not what was written")
    if fits:
        rows = np.isfinite(codec.decode(data, dim, dtype)).all(axis=1)
        batch.hold(
            "vectors_finite", bool(rows.all()), f"{name} has {np.count_nonzero(~rows)} vectors that are not finite"
        )


def _pack(session: Session, batch: Batch, segment: tables.Segment) -> None:
    columns = sa.select(Thumbnails.offsets, Thumbnails.checksum, Thumbnails.data, Thumbnails.blob)
    packed = session.execute(columns.where(Thumbnails.segment_id == segment.id)).one_or_none()
    if packed is None:
        return
    name = f"the thumbnails of segment {segment.id}"
    size = thumbnails.size(packed.offsets) if packed.offsets else 0
    if not _there(session, batch, store.Kind.THUMBNAILS, segment.id, packed.blob, size):
        return
    [data] = store.whole(session, store.Kind.THUMBNAILS, [(packed.blob, packed.data)])
    holds = thumbnails.holds(packed.offsets, segment.count, len(data))
    batch.hold("thumbnail_offsets", holds, f"{name} do not add up")
    if packed.checksum is not None:
        batch.hold("thumbnail_checksum", codec.checksum(data) == packed.checksum, f"{name} are not what was written")


def _there(session: Session, batch: Batch, kind: store.Kind, segment_id: str, blob: str | None, size: int) -> bool:
    """Hold a blob that should be in the storage against what is there; return whether it can be read."""
    storage = store.of(session)
    if blob is None:
        return True
    if storage is None:
        return batch.hold(
            "blobs_there", False, f"the {kind} of segment {segment_id} are in a storage; set IMAGEKIN_BLOB_URL"
        )
    found = storage.size(kind, blob)
    why = f"the {kind} of segment {segment_id} have {found} bytes in the storage, not {size}"
    if found is None:
        why = f"the {kind} of segment {segment_id} are not in the storage"
    batch.hold("blobs_there", found == size, why)
    return found is not None


def loose(system: System) -> Iterator[Batch]:
    """Find blobs that the sweep should have removed from the storage."""
    return walk(system, _loose, "")


def _loose(session: Session, batch: Batch, after: str, system: System) -> str | None:
    past = LooseBlob.since < sql.clock() - expiry.STAGED_S - system.patience_s - upkeep.SELDOM_S
    query = sa.select(LooseBlob.id, past).where(LooseBlob.id > after).order_by(LooseBlob.id)
    found = session.execute(query.limit(IMAGES_PER_BATCH)).all()
    for id, is_past in found:
        batch.hold("loose_blobs", not is_past, f"what the storage has under {id} is there still")
    return found[-1][0] if found else None


def unknown(system: System) -> Iterator[Batch]:
    """Look through the storage of blobs for what no row knows."""
    storage = system.database.blobs
    if not isinstance(storage, store.Blobs):
        return
    for folder in storage.listing():
        for start in range(0, len(folder), IMAGES_PER_BATCH):
            some = folder[start : start + IMAGES_PER_BATCH]
            batch = Batch(Counter(unknown_blobs=len(some)))
            unknown: set[str] = set()
            # what is younger may be just being written
            old = [one for one in some if one.age_s > expiry.STAGED_S]
            for names in sql.batches([one.name for one in old]):
                unknown |= system.database.read(store.unknown, names)
            for one in old:
                # the sweep may have removed it since it was listed
                if one.name in unknown and storage.there(one.path):
                    detail = f"no row knows {one.path} of {one.size:,} bytes"
                    batch.findings.append(Finding("unknown_blobs", (one,), detail, one.size))
            yield batch


def release(system: System, finding: Finding) -> bool:
    """Hand what no row knows over to the sweep, which removes it an hour later; a file that was not finished goes."""
    storage = system.database.blobs
    [one] = finding.subject
    assert isinstance(storage, store.Blobs)
    if one.is_unfinished:
        storage.discard(one.path)
    elif one.is_blob:
        system.database.write(_release, one.name)
    return True


def _release(session: Session, id: str) -> None:
    if store.unknown(session, [id]):
        store.release(session, id)


def _shared(session: Session, batch: Batch, segment_ids: list[str]) -> None:
    rows = session.execute(
        sa.select(Image.segment_id, Image.row, sa.func.count())
        .where(Image.segment_id.in_(segment_ids), Image.deleted_at.is_(None))
        .group_by(Image.segment_id, Image.row)
        .having(sa.func.count() > 1)
    )
    for segment_id, row, count in rows:
        detail = f"row {row} of segment {segment_id} belongs to {count} images"
        batch.findings.append(Finding("images_resolve", (), detail))


def recount(system: System, finding: Finding) -> bool:
    """Count a collection's images again."""
    return system.database.write(_recount, *finding.subject)


def _recount(session: Session, collection_id: str) -> bool:
    try:
        collection = segments.lock(session, collection_id)
    except errors.CollectionDeleted:
        return True
    collection.image_count = session.scalars(_count(collection_id)).one()
    return True


def drop_unused(system: System, finding: Finding) -> bool:
    """Delete a segment that no image points to."""
    return system.database.write(_drop_unused, *finding.subject)


def _drop_unused(session: Session, collection_id: str, segment_id: str) -> bool:
    try:
        segments.lock(session, collection_id)
    except errors.CollectionDeleted:
        return True
    segments.drop_unused(session, [segment_id])
    return True


CHECKS = (
    Check("spaces", "every space's id is the fingerprint of its description"),
    Check("image_count", "every collection counts its live images", recount),
    Check("revisions", "no image is at a later revision than its collection"),
    Check("unique_keys", "no two live images of a collection have one key"),
    Check("images_resolve", "every live image has a row of its own in a segment of its collection"),
    Check("segments_used", "every segment that is not just being written has an image", drop_unused),
    Check("segment_shape", "every segment has its collection's dim and dtype, and bytes for its count"),
    Check("segment_checksum", "every segment is what was written"),
    Check("vectors_finite", "no vector has a number that is not finite"),
    Check("thumbnail_offsets", "the thumbnails of every segment add up"),
    Check("thumbnail_checksum", "the thumbnails of every segment are what was written"),
    Check("blobs_there", "vectors and thumbnails that are not in the database are in the storage of blobs, as a whole"),
    Check("unknown_blobs", "what lies in the storage of blobs for more than an hour is known to a row", release),
    Check("loose_blobs", "nothing stays in the storage of blobs for longer than the sweep needs once no row names it"),
)
SCANS = (spaces, collections, images, blobs, loose, unknown)
