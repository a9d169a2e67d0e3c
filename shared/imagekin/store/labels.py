"""Labels: the values of one metadata field, with the number of images that have each."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from imagekin import schemas
from imagekin.database import tables

Image = tables.Image


def page(
    session: Session, collection: tables.Collection, field: str, skip: int, limit: int
) -> tuple[list[schemas.LabelCount], int | None]:
    """Return up to `limit` values after the first `skip`, most frequent first, and where to continue if there are more.

    Images without the field, and those where it is null, are not counted.
    """
    values = _postgresql(field) if session.get_bind().dialect.name == "postgresql" else _sqlite(field)
    mine = values.where(Image.collection_id == collection.id, Image.deleted_at.is_(None)).subquery()
    images = sa.func.count().label("images")
    # by bytes on both databases
    text = sa.collate(mine.c.text, "C" if session.get_bind().dialect.name == "postgresql" else "BINARY")
    counted = sa.select(mine.c.text, images).group_by(mine.c.text).order_by(images.desc(), text)
    found = session.execute(counted.offset(skip).limit(limit + 1)).all()
    shown = [schemas.LabelCount(value=json.loads(row.text), count=row.images) for row in found[:limit]]
    return shown, skip + limit if len(found) > limit else None


def _postgresql(field: str) -> sa.Select[Any]:
    value = sa.type_coerce(Image.metadata_, postgresql.JSONB)[field]
    text = sa.cast(value, sa.Text)
    return sa.select(text.label("text")).where(text != "null")


def _sqlite(field: str) -> sa.Select[Any]:
    # its JSON paths cannot say every name, so all fields are gone through
    fields = sa.func.json_each(Image.metadata_).table_valued("key", "value", "type", name="fields")
    text = sa.case(
        (fields.c.type.in_(["true", "false"]), fields.c.type),
        (fields.c.type.in_(["array", "object"]), fields.c.value),
        else_=sa.func.json_quote(fields.c.value),
    )
    rows = sa.select(sa.cast(text, sa.Text).label("text")).select_from(Image).join(fields, sa.true())
    return rows.where(fields.c.key == field, fields.c.type != "null")
