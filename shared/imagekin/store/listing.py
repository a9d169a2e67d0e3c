"""Images of a collection by the page: in an order, with keys of one prefix, with metadata that a filter wants."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import schemas
from imagekin.database import tables
from imagekin.enums import ImageOrder
from imagekin.store import filters, images

Image = tables.Image

_LAST_CODE_POINT = chr(sys.maxunicode)


@dataclass(frozen=True)
class Listing:
    """What a list shows, and in which order; an empty `wanted` or `prefix` leaves nothing out."""

    order: ImageOrder = ImageOrder.CREATED
    prefix: str = ""
    wanted: dict[str, Any] | None = None


def page(
    session: Session, collection: tables.Collection, listing: Listing, after: str | None, limit: int
) -> tuple[list[schemas.Image], str | None]:
    """Return up to `limit` images of a listing from the first past `after`, and the last one's place if there are more.

    A place is an id, or a key where the order is by key.
    """
    column = Image.key if listing.order is ImageOrder.KEY else Image.id
    newest = listing.order is ImageOrder.NEWEST
    query = sa.select(Image).where(*_conditions(session, collection, listing))
    query = query.order_by(column.desc() if newest else column)
    if after is not None:
        query = query.where(column < after if newest else column > after)
    found = session.scalars(query.limit(limit + 1)).all()
    shown = found[:limit]
    last = getattr(shown[-1], column.key) if len(found) > limit else None
    return [images.view(image) for image in shown], last


def total(session: Session, collection: tables.Collection, listing: Listing) -> int:
    """Return how many images a listing has."""
    if not listing.prefix and not listing.wanted:
        return collection.image_count
    where = _conditions(session, collection, listing)
    return session.scalars(sa.select(sa.func.count()).select_from(Image).where(*where)).one()


def _conditions(session: Session, collection: tables.Collection, listing: Listing) -> Iterator[sa.ColumnElement[bool]]:
    yield Image.collection_id == collection.id
    yield Image.deleted_at.is_(None)
    if listing.prefix:
        yield beginning(listing.prefix)
    if listing.wanted:
        yield filters.clause(session, listing.wanted)


def beginning(prefix: str) -> sa.ColumnElement[bool]:
    """Return the condition that a key begins with `prefix`, in a form that the index on keys answers."""
    from_here = Image.key >= prefix
    past = _past(prefix)
    return from_here if past is None else sa.and_(from_here, Image.key < past)


def _past(prefix: str) -> str | None:
    """Return the first text by code points after all that begin with `prefix`; None if no text comes after them."""
    stem = prefix.rstrip(_LAST_CODE_POINT)
    if not stem:
        return None
    # between these lie the surrogates, which no text has
    following = 0xE000 if stem[-1] == "\ud7ff" else ord(stem[-1]) + 1
    return stem[:-1] + chr(following)
