"""Verdicts: what people said of two images, kept by their contents, so that it lasts when images come and go.

A pair of contents is kept with the smaller hash first. Two images with the same bytes are one content, of which there
is nothing to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors, schemas
from imagekin.database import sql, tables
from imagekin.database.sql import moment
from imagekin.enums import VerdictWord

Collection, Image, Verdict = tables.Collection, tables.Image, tables.Verdict

ROWS_PER_STATEMENT = 100
HASH_CHARS = 64


def give(session: Session, collection: tables.Collection, pairs: Sequence[schemas.VerdictGiven]) -> int:
    """Keep verdicts, each in place of an earlier one on the same pair; return how many.

    Raises ImageNotFound if a pair has no image of the collection, or one of no collection of its owner.
    """
    contents = _contents(session, collection, pairs)
    rows = {}
    for pair in pairs:
        first, second = sorted((contents[pair.a], contents[pair.b]))
        if first != second:
            same = pair.verdict is VerdictWord.SAME
            rows[first, second] = {"owner": collection.owner, "first": first, "second": second, "same": same}
    # in one order, so that two requests do not wait for each other
    kept = [rows[key] for key in sorted(rows)]
    for at in range(0, len(kept), ROWS_PER_STATEMENT):
        insert = sql.insert(session, Verdict).values(
            [{**row, "created_at": sql.clock()} for row in kept[at : at + ROWS_PER_STATEMENT]]
        )
        session.execute(
            insert.on_conflict_do_update(
                index_elements=["owner", "first", "second"],
                set_={"same": insert.excluded.same, "created_at": insert.excluded.created_at},
            )
        )
    return len(kept)


def take_back(session: Session, collection: tables.Collection, pairs: Sequence[schemas.PairNamed]) -> int:
    """Delete the verdicts on pairs; return how many there were. Raises ImageNotFound as `give` does."""
    contents = _contents(session, collection, pairs)
    keys = sorted({tuple(sorted((contents[pair.a], contents[pair.b]))) for pair in pairs})
    found = 0
    for first, second in keys:
        gone = sa.delete(Verdict).where(
            Verdict.owner == collection.owner, Verdict.first == first, Verdict.second == second
        )
        found += len(session.execute(gone.returning(Verdict.first)).all())
    return found


def page(
    session: Session, collection: tables.Collection, after: str | None, limit: int
) -> tuple[list[schemas.Verdict], str | None]:
    """Return up to `limit` verdicts on contents of the collection, from the first past `after`, and where they end."""
    here = sa.exists().where(
        Image.collection_id == collection.id,
        Image.deleted_at.is_(None),
        Image.content_hash.in_([Verdict.first, Verdict.second]),
    )
    query = sa.select(Verdict).where(Verdict.owner == collection.owner, here).order_by(Verdict.first, Verdict.second)
    if after is not None:
        first, second = after[:HASH_CHARS], after[HASH_CHARS:]
        query = query.where(sa.or_(Verdict.first > first, sa.and_(Verdict.first == first, Verdict.second > second)))
    found = session.scalars(query.limit(limit + 1)).all()
    shown = found[:limit]
    images = _images(session, collection, {content for verdict in shown for content in (verdict.first, verdict.second)})
    items = [
        schemas.Verdict(
            a=images.get(verdict.first),
            b=images.get(verdict.second),
            verdict=VerdictWord.SAME if verdict.same else VerdictWord.DIFFERENT,
            created_at=moment(verdict.created_at),
        )
        for verdict in shown
    ]
    return items, shown[-1].first + shown[-1].second if len(found) > limit else None


def among(session: Session, owner: str, contents: Set[str]) -> Iterator[tuple[str, str, bool]]:
    """Yield (first, second, same) of an owner's verdicts on two of these contents, in one order."""
    mine = sa.select(Verdict.first, Verdict.second, Verdict.same).where(Verdict.owner == owner)
    ordered = mine.order_by(Verdict.first, Verdict.second).execution_options(yield_per=4096)
    with session.execute(ordered) as rows:
        for first, second, same in rows:
            if first in contents and second in contents:
                yield first, second, same


def _contents(session: Session, collection: tables.Collection, pairs: Sequence[schemas.PairNamed]) -> dict[str, str]:
    """Return the contents of the images of pairs by id."""
    ids = list(dict.fromkeys(id for pair in pairs for id in (pair.a, pair.b)))
    owned = (
        sa.select(Image.id, Image.content_hash, Image.collection_id)
        .join(Collection, Collection.id == Image.collection_id)
        .where(Collection.owner == collection.owner, Collection.deleted_at.is_(None), Image.deleted_at.is_(None))
    )
    found = {row.id: row for some in sql.batches(ids) for row in session.execute(owned.where(Image.id.in_(some)))}
    here = {id for id, row in found.items() if row.collection_id == collection.id}
    for pair in pairs:
        missing = next((id for id in (pair.a, pair.b) if id not in found), None)
        if missing is None and not here & {pair.a, pair.b}:
            missing = pair.a
        if missing is not None:
            raise errors.ImageNotFound(f"The collection {collection.name!r} has no image with the id {missing!r}.")
    return {id: row.content_hash for id, row in found.items()}


def _images(session: Session, collection: tables.Collection, contents: Set[str]) -> dict[str, schemas.ImageNamed]:
    """Return an image for each content that its owner has: of the collection if there is one, the oldest."""
    owned = (
        sa.select(Image.id, Image.key, Image.content_hash, Collection.name, Image.collection_id)
        .join(Collection, Collection.id == Image.collection_id)
        .where(Collection.owner == collection.owner, Collection.deleted_at.is_(None), Image.deleted_at.is_(None))
        .order_by(Image.collection_id != collection.id, Image.id)
    )
    images: dict[str, schemas.ImageNamed] = {}
    for some in sql.batches(sorted(contents)):
        for row in session.execute(owned.where(Image.content_hash.in_(some))):
            images.setdefault(row.content_hash, schemas.ImageNamed(id=row.id, key=row.key, collection=row.name))
    return images
