"""Pictures of results: a contact sheet for each kind of job that has one, drawn from stored thumbnails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import tables
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
    found = session.scalars(
        sa.select(tables.Image).where(
            tables.Image.id.in_(ids), tables.Image.collection_id == collection_id, tables.Image.deleted_at.is_(None)
        )
    ).all()
    return thumbnails.by_id(session, found)
