"""Collections: images in one space, under a name that is unique for its owner."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import catalog, errors, schemas
from imagekin.catalog import Space
from imagekin.database import sql, tables
from imagekin.database.sql import moment
from imagekin.enums import DType, IndexMethod, IndexStatus, Precision
from imagekin.store import indexes


def create(
    session: Session, owner: str, name: str, space: Space, dtype: DType, projection: bytes | None = None
) -> schemas.Collection:
    """Create an empty collection in `space`; raises CollectionExists."""
    _ensure_space(session, space, projection)
    inserted = session.execute(
        sql.insert(session, tables.Collection)
        .values(id=tables.new_id(), owner=owner, name=name, space_id=space.fingerprint, dtype=dtype.value)
        .on_conflict_do_nothing()
        .returning(tables.Collection.id)
    ).scalar()
    if inserted is None:
        raise errors.CollectionExists(f"A collection named {name!r} exists already.")
    return view(session, session.get_one(tables.Collection, inserted))


def _ensure_space(session: Session, space: Space, projection: bytes | None) -> None:
    session.execute(
        sql.insert(session, tables.Space)
        .values(
            id=space.fingerprint,
            backbone=space.backbone,
            weights=space.weights,
            dim=space.dim,
            precision=space.precision.value,
            description=space.to_json(),
            projection=projection,
        )
        .on_conflict_do_nothing()
    )


def get(session: Session, owner: str, name: str) -> tables.Collection:
    """Return the owner's collection; raises CollectionNotFound."""
    found = session.scalar(sa.select(tables.Collection).filter_by(owner=owner, name=name, deleted_at=None))
    if found is None:
        raise errors.CollectionNotFound(f"There is no collection named {name!r}.")
    return found


def page(session: Session, owner: str, after: str | None, limit: int) -> tuple[list[schemas.Collection], str | None]:
    """Return up to `limit` collections by name, from the first past `after`, and the last name if there are more."""
    query = sa.select(tables.Collection).filter_by(owner=owner, deleted_at=None).order_by(tables.Collection.name)
    if after is not None:
        query = query.where(tables.Collection.name > after)
    found = session.scalars(query.limit(limit + 1)).all()
    shown = found[:limit]
    return views(session, shown), shown[-1].name if len(found) > limit else None


def touch(session: Session, collection_id: str, *, images: int = 0) -> int:
    """Raise the collection's revision, which locks its row, and return it; `images` is added to its count."""
    return session.execute(
        sa.update(tables.Collection)
        .where(tables.Collection.id == collection_id)
        .values(revision=tables.Collection.revision + 1, image_count=tables.Collection.image_count + images)
        .returning(tables.Collection.revision)
        .execution_options(synchronize_session=False)
    ).scalar_one()


def view(session: Session, collection: tables.Collection) -> schemas.Collection:
    """Return the collection as a client sees it."""
    return views(session, [collection])[0]


def views(session: Session, collections: Iterable[tables.Collection]) -> list[schemas.Collection]:
    """Return the collections as a client sees them."""
    collections = list(collections)
    ids = {collection.space_id for collection in collections}
    spaces = {space.id: space for space in session.scalars(sa.select(tables.Space).where(tables.Space.id.in_(ids)))}
    indexed = indexes.of(session, [collection.id for collection in collections])
    return [
        _view(collection, spaces[collection.space_id], indexed.get(collection.id, ())) for collection in collections
    ]


def _view(
    collection: tables.Collection, space: tables.Space, indexed: Sequence[tables.VectorIndex]
) -> schemas.Collection:
    preprocess = Space.from_json(space.description).preprocess
    license_ = catalog.license_of(space.backbone, space.weights)
    return schemas.Collection(
        name=collection.name,
        backbone=space.backbone,
        weights=space.weights,
        dim=space.dim,
        dtype=DType(collection.dtype),
        precision=Precision(space.precision),
        colors=preprocess.colors,
        fit=preprocess.fit,
        license=license_,
        non_commercial=license_ in catalog.NON_COMMERCIAL,
        space_id=space.id,
        image_count=collection.image_count,
        index=IndexMethod.HNSW if any(one.status == IndexStatus.READY for one in indexed) else IndexMethod.EXACT,
        index_state=_index_state(indexed),
        created_at=moment(collection.created_at),
    )


def _index_state(indexed: Sequence[tables.VectorIndex]) -> schemas.IndexState | None:
    """Return the state of the newest index, None without one."""
    if not indexed:
        return None
    newest = max(indexed, key=lambda one: one.created_at)
    return schemas.IndexState(
        status=IndexStatus(newest.status),
        images=newest.images,
        revision=newest.revision,
        ready_at=None if newest.ready_at is None else moment(newest.ready_at),
    )
