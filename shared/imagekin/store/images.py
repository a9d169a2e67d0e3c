"""Images of a collection: the rows beside their vectors."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import InstrumentedAttribute, Session

from imagekin import errors, schemas
from imagekin.database import sql, tables
from imagekin.database.sql import moment
from imagekin.schemas import keys
from imagekin.store import collections, filters


def get(session: Session, collection: tables.Collection, image_id: str) -> tables.Image:
    """Return the collection's image by its id; raises ImageNotFound."""
    return _one(session, collection, id=image_id)


def by_key(session: Session, collection: tables.Collection, key: str) -> tables.Image:
    """Return the collection's image by the client's key, in any spelling of it; raises ImageNotFound, InvalidKey."""
    return _one(session, collection, key=keys.normalize(key))


def _one(session: Session, collection: tables.Collection, **by: str) -> tables.Image:
    found = session.scalar(sa.select(tables.Image).filter_by(collection_id=collection.id, deleted_at=None, **by))
    if found is None:
        named = ", ".join(f"{name} {value!r}" for name, value in by.items())
        raise errors.ImageNotFound(f"The collection {collection.name!r} has no image with the {named}.")
    return found


def all_by_id(session: Session, collection: tables.Collection, ids: Sequence[str]) -> list[str]:
    """Return the ids, each once, if all are images of the collection; raises ImageNotFound with the first missing."""
    return list(_all(session, collection, tables.Image.id, list(dict.fromkeys(ids))))


def all_by_key(session: Session, collection: tables.Collection, names: Sequence[str]) -> list[str]:
    """Return the ids of the images with these keys, each once; raises ImageNotFound, InvalidKey."""
    return list(_all(session, collection, tables.Image.key, list(dict.fromkeys(map(keys.normalize, names)))))


def _all(
    session: Session, collection: tables.Collection, column: InstrumentedAttribute[str], values: Sequence[str]
) -> Iterator[str]:
    here = sa.select(column, tables.Image.id).filter_by(collection_id=collection.id, deleted_at=None)
    for some in sql.batches(values):
        found = dict(session.execute(here.where(column.in_(some))).all())
        for value in some:
            if value not in found:
                raise errors.ImageNotFound(
                    f"The collection {collection.name!r} has no image with the {column.key} {value!r}."
                )
            yield found[value]


def known(
    session: Session, collection: tables.Collection, contents: Sequence[schemas.Content]
) -> list[schemas.KnownImage]:
    """Return those that the collection has with the same key and content; an invalid key is not in it."""
    spelled = {content: key for content in contents if (key := _key(content.key)) is not None}
    columns = sa.select(tables.Image.key, tables.Image.content_hash, tables.Image.id)
    mine = columns.where(tables.Image.collection_id == collection.id, tables.Image.deleted_at.is_(None))
    found: dict[tuple[str, str], str] = {}
    for some in sql.batches(list(dict.fromkeys(spelled.values()))):
        found |= {
            (row.key, row.content_hash): row.id for row in session.execute(mine.where(tables.Image.key.in_(some)))
        }
    return [
        schemas.KnownImage(key=content.key, content_hash=content.content_hash, id=id)
        for content, key in spelled.items()
        if (id := found.get((key, content.content_hash))) is not None
    ]


def _key(name: str) -> str | None:
    try:
        return keys.normalize(name)
    except errors.InvalidKey:
        return None


def annotate(session: Session, collection: tables.Collection, image_id: str, metadata: dict[str, Any]) -> tables.Image:
    """Replace the image's metadata; raises ImageNotFound."""
    # the collection's row lock comes first: whoever else touches the image holds it too
    collections.touch(session, collection.id)
    image = get(session, collection, image_id)
    image.metadata_ = metadata
    session.flush()
    return image


def delete(session: Session, collection: tables.Collection, image_id: str) -> None:
    """Mark the image as deleted; the sweep compacts its segment. Raises ImageNotFound."""
    revision = collections.touch(session, collection.id, images=-1)
    image = get(session, collection, image_id)
    session.execute(
        sa.update(tables.Image)
        .where(tables.Image.id == image.id)
        .values(deleted_at=sql.clock(), revision=revision)
        .execution_options(synchronize_session=False)
    )


FACTS: tuple[InstrumentedAttribute[Any], ...] = (
    tables.Image.id, tables.Image.content_hash, tables.Image.width, tables.Image.height, tables.Image.format,
    tables.Image.nbytes, tables.Image.metadata_, tables.Image.created_at,
)  # fmt: skip


def facts(session: Session, ids: Sequence[str]) -> Iterator[Any]:
    """Yield rows of FACTS of images by id, also of those that were deleted and are not forgotten, in any order."""
    for some in sql.batches(ids):
        yield from session.execute(sa.select(*FACTS).where(tables.Image.id.in_(some)))


def view(image: tables.Image) -> schemas.Image:
    """Return the image as a client sees it."""
    return schemas.Image(
        id=image.id,
        key=image.key,
        content_hash=image.content_hash,
        width=image.width,
        height=image.height,
        format=image.format,
        metadata=image.metadata_,
        created_at=moment(image.created_at),
    )


def values(session: Session, collection_id: str, field: str) -> Generator[tuple[str, Any]]:
    """Yield the id of each image whose metadata have a field, null excepted, and the field's value."""
    Image = tables.Image
    metadata: sa.ColumnElement[Any] = sa.type_coerce(Image.metadata_, sa.JSON)
    whole = session.get_bind().dialect.name != "postgresql"
    if not whole:
        metadata = sa.type_coerce(Image.metadata_, postgresql.JSONB)[field]
    query = sa.select(Image.id, metadata).where(Image.collection_id == collection_id, Image.deleted_at.is_(None))
    with session.execute(query.execution_options(yield_per=4096)) as rows:
        for id, found in rows:
            value = found.get(field) if whole else found
            if value is not None:
                yield id, value


def matching(session: Session, collection_id: str, wanted: dict[str, Any]) -> set[str]:
    """Return the ids of the collection's images whose metadata pass a filter (`imagekin.store.filters`)."""
    Image = tables.Image
    mine = sa.select(Image.id).where(Image.collection_id == collection_id, Image.deleted_at.is_(None))
    return set(session.scalars(mine.where(filters.clause(session, wanted))))
