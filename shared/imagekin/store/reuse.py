"""Reuse: which files need no embedding, because their key or their content is stored already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql, tables
from imagekin.database.tables import COLLECTIONS, IMAGES, SEGMENTS, THUMBNAILS
from imagekin.enums import ItemStatus, OnConflict
from imagekin.store import blobs, thumbnails, vector_codec
from imagekin.store.ledger import Record

# What each chunk runs is made once, of tables rather than classes: making a statement costs several times what
# running it does, and the session would make an object's worth of each row.
_HERE = sa.select(IMAGES.c.key, IMAGES.c.id, IMAGES.c.content_hash, IMAGES.c.segment_id, IMAGES.c.metadata).where(
    IMAGES.c.collection_id == sa.bindparam("collection"), IMAGES.c.deleted_at.is_(None)
)
_BY_KEY = _HERE.where(IMAGES.c.key.in_(sa.bindparam("keys", expanding=True)))
# One list instead of a parameter for each key, and each key by itself in the index of keys: two thirds of the time.
_KEYS = sa.bindparam("keys", type_=postgresql.ARRAY(sa.Text))
_GIVEN = sa.func.unnest(_KEYS).table_valued("key").render_derived("given")
_FOUND = _HERE.where(IMAGES.c.key == _GIVEN.c.key).limit(1).lateral("found")
_BY_KEY_POSTGRESQL = sa.select(_FOUND).select_from(_GIVEN.join(_FOUND, sa.true()))

# Materialized: SQLite would rather walk through all images of the owner's collections.
_SAME = (
    sa.select(IMAGES.c.content_hash, IMAGES.c.id, IMAGES.c.collection_id)
    .where(IMAGES.c.content_hash.in_(sa.bindparam("contents", expanding=True)), IMAGES.c.deleted_at.is_(None))
    .cte("same")
    .prefix_with("MATERIALIZED")
)
_COPIED = (
    sa.select(_SAME.c.content_hash, _SAME.c.id)
    .join(COLLECTIONS, COLLECTIONS.c.id == _SAME.c.collection_id)
    .where(
        COLLECTIONS.c.owner == sa.bindparam("owner"),
        COLLECTIONS.c.space_id == sa.bindparam("space"),
        COLLECTIONS.c.dtype == sa.bindparam("dtype"),
        COLLECTIONS.c.deleted_at.is_(None),
    )
)

_WIDTH = SEGMENTS.c.dim * sa.bindparam("number_bytes", type_=sa.Integer())
_STORED = (
    sa.select(
        IMAGES.c.content_hash, IMAGES.c.width, IMAGES.c.height, IMAGES.c.format, IMAGES.c.segment_id, IMAGES.c.row,
        SEGMENTS.c.dim, SEGMENTS.c.blob, sql.cut(SEGMENTS.c.data, IMAGES.c.row * _WIDTH, _WIDTH).label("data"),
        THUMBNAILS.c.offsets, THUMBNAILS.c.blob.label("pack"),
    )
    .join(SEGMENTS, SEGMENTS.c.id == IMAGES.c.segment_id)
    .outerjoin(THUMBNAILS, THUMBNAILS.c.segment_id == SEGMENTS.c.id)
    .where(IMAGES.c.id.in_(sa.bindparam("ids", expanding=True)))
)  # fmt: skip


@dataclass(frozen=True)
class Copy:
    """A vector of the same content in the same space, found elsewhere among the owner's collections."""

    vector: vector_codec.Vectors = field(repr=False)
    width: int | None
    height: int | None
    format: str | None
    thumbnail: bytes | None = field(repr=False)


def known(
    session: Session, collection: tables.Collection, contents: Sequence[tuple[str, str]], on_conflict: OnConflict
) -> list[Record | Copy | None]:
    """Look up what need not be computed, for each (key, content_hash).

    A Record is final: the same content is under that key, or other content that stays. A Copy is the vector of the
    same content from another place. None: compute it.
    """
    here = by_key(session, collection.id, [key for key, _ in contents])
    elsewhere = _copies(session, collection, {content for _, content in contents})
    answers: list[Record | Copy | None] = []
    for key, content in contents:
        image = here.get(key)
        if image is not None and image.content_hash == content:
            answers.append(Record(key, ItemStatus.REUSED, image.id))
        elif image is not None and on_conflict != OnConflict.REPLACE:
            answers.append(refusal(key, image.id, on_conflict))
        else:
            answers.append(elsewhere.get(content))
    return answers


def refusal(key: str, image_id: str, on_conflict: OnConflict) -> Record:
    """Return what becomes of other content under a key that `image_id` has, where it may not replace that."""
    if on_conflict == OnConflict.SKIP:
        return Record(key, ItemStatus.SKIPPED, image_id)
    detail = "The key is in the collection with other content."
    return Record(key, ItemStatus.FAILED, image_id, errors.DuplicateKey.code, detail)


def by_key(session: Session, collection_id: str, keys: Sequence[str]) -> dict[str, sa.Row]:
    """Return (key, id, content_hash, segment_id, metadata) of the collection's images with these keys, by key."""
    found: dict[str, sa.Row] = {}
    statement = _BY_KEY_POSTGRESQL if session.get_bind().dialect.name == "postgresql" else _BY_KEY
    for some in sql.batches(keys):
        rows = session.execute(statement, {"collection": collection_id, "keys": some})
        found |= {row.key: row for row in rows}
    return found


def _copies(session: Session, collection: tables.Collection, contents: set[str]) -> dict[str, Copy]:
    where = {"owner": collection.owner, "space": collection.space_id, "dtype": collection.dtype}
    ids: dict[str, str] = {}
    for some in sql.batches(sorted(contents)):
        ids |= dict(session.execute(_COPIED, {"contents": some, **where}).all())
    found: dict[str, Copy] = {}
    number_bytes = vector_codec.width(1, collection.dtype)
    for some in sql.batches(sorted(ids.values())):
        images = session.execute(_STORED, {"ids": some, "number_bytes": number_bytes}).all()
        widths = [image.dim * number_bytes for image in images]
        places = [
            (blobs.Part(image.blob, image.row * width, (image.row + 1) * width), image.data)
            for image, width in zip(images, widths, strict=True)
        ]
        vectors = blobs.parts(session, blobs.Kind.VECTORS, places)
        cuts = [thumbnails.Cut(image.segment_id, image.row, image.offsets, image.pack) for image in images]
        pictures = thumbnails.cut(session, cuts)
        for image, data, picture in zip(images, vectors, pictures, strict=True):
            vector = vector_codec.decode(data, image.dim, collection.dtype)[0]
            found[image.content_hash] = Copy(vector, image.width, image.height, image.format, picture)
    return found
