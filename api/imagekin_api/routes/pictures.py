"""Pictures of results: a contact sheet for each kind of job that has one, drawn from stored thumbnails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql, tables
from imagekin.schemas.kinds import JobKind
from imagekin.store import thumbnails

# Draws a PNG of a finished job and the summary of its result; the request's query says which part.
Sheet = Callable[[tables.Job, dict[str, Any]], bytes]
SHEETS: dict[JobKind, Sheet] = {}


def sheet_of(kind: JobKind) -> Callable[[Sheet], Sheet]:
    """Register the function that draws the sheets of a kind of job."""

    def note(sheet: Sheet) -> Sheet:
        SHEETS[kind] = sheet
        return sheet

    return note


def of(session: Session, collection_id: str, ids: list[str]) -> dict[str, bytes]:
    """Return by id the thumbnails of those images that are still in the collection and have one."""
    return thumbnails.by_id(session, _there(session, ids, tables.Image.collection_id == collection_id))


def of_owner(session: Session, owner: str, ids: list[str]) -> dict[str, bytes]:
    """Return by id the thumbnails of those images that are still in one of the owner's collections and have one."""
    theirs = sa.select(tables.Collection.id).filter_by(owner=owner, deleted_at=None)
    return thumbnails.by_id(session, _there(session, ids, tables.Image.collection_id.in_(theirs)))


def _there(session: Session, ids: list[str], where: sa.ColumnElement[bool]) -> list[tables.Image]:
    images = sa.select(tables.Image).where(where, tables.Image.deleted_at.is_(None))
    return [image for some in sql.batches(ids) for image in session.scalars(images.where(tables.Image.id.in_(some)))]


def number(name: str) -> int | None:
    """Return a whole number of the request's query, None if it is missing; raises InvalidRequest."""
    text = flask.request.args.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise wrong(name, f"The {name} must be a whole number from 0.")
    return int(text)


def wrong(name: str, detail: str) -> errors.InvalidRequest:
    """Return the error of a parameter in the query."""
    return errors.InvalidRequest(detail, errors=[{"pointer": f"/{name}", "in": "query", "detail": detail}])


def page(pages: int) -> int:
    """Return the page that the request's query asks for, clamped to 1 and the number of pages; 1 by default."""
    return max(1, min(number("page") or 1, pages))


def page_note(page: int, pages: int) -> str:
    """Return what a sheet says of its page; nothing if there is one only."""
    return f"page {page} of {pages}" if pages > 1 else ""
