"""Duplicates jobs, and contact sheets of the groups that they found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import flask
from sqlalchemy.orm import Session

from imagekin import schemas
from imagekin.database import tables
from imagekin.jobs import results
from imagekin.schemas.kinds import JobKind
from imagekin.store import collections
from imagekin_api.http import bodies
from imagekin_api.http.idempotency import Idempotency
from imagekin_api.http.operations import IDEMPOTENCY_KEY, operation
from imagekin_api.render import sheets
from imagekin_api.routes import intake, pictures
from imagekin_api.wiring import service

# What a sheet of several groups shows: so many of them, and so many pictures of each.
GROUPS_PER_PAGE = 10
SHOWN_OF_GROUP = sheets.MAX_COLUMNS

Row = dict[str, Any]


@intake.blueprint.post("/jobs/duplicates")
@operation(
    "Find near-duplicates",
    body=schemas.DuplicatesBody,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=intake.REFUSED,
)
def duplicates() -> flask.Response:
    """In groups, with the image of each to keep and a reason for each other one.

    `identical`: the same bytes; `same`: perceptual hash and thumbnails agree; `mirrored`; `edited`: close for the
    network, or cut out of it; `verdict`: a person said so. `look` has pairs that are close by one sign only.
    """
    data = bodies.read_json()
    body = bodies.parse(schemas.DuplicatesBody, data)
    intake.check_callback(body.callback_url)
    if body.against is not None and body.between is not None:
        raise intake.invalid("/between", "Give against or between, not both.")
    request = Idempotency.of_json(data)
    if (answer := intake.known(request)) is not None:
        return answer
    collection, against = service.current().database.read(_chosen, service.owner(), body)
    params = body.model_dump(mode="json", exclude={"collection", "callback_url"})
    work = {"against": against}
    return intake.accept(intake.submission(JobKind.DUPLICATES, collection, params, work, request, body.callback_url))


def _chosen(session: Session, owner: str, body: schemas.DuplicatesBody) -> tuple[tables.Collection, str | None]:
    """Return the collection, and the id of the one that it is held against."""
    collection = collections.get(session, owner, body.collection)
    if not collection.image_count:
        raise intake.invalid("/collection", "The collection has no images to look at.")
    if body.against is None:
        return collection, None
    against = collections.get(session, owner, body.against)
    if against.id == collection.id:
        raise intake.invalid("/against", "This is the collection itself; leave it out to look for duplicates within.")
    if against.space_id != collection.space_id:
        raise intake.invalid(
            "/against", f"The collection {against.name} is of another space; their vectors do not compare."
        )
    return collection, against.id


@pictures.sheet_of(JobKind.DUPLICATES)
def sheet(job: tables.Job, summary: dict[str, Any]) -> bytes:
    number = pictures.number("group")
    rows = results.rows(service.current().database, job.id)
    return _overview(job, summary, rows) if number is None else _group(job, rows, number)


def _overview(job: tables.Job, summary: dict[str, Any], rows: Iterable[Row]) -> bytes:
    """Draw a page of groups, some pictures of each."""
    pages = max(1, math.ceil(summary["group_count"] / GROUPS_PER_PAGE))
    page = pictures.page(pages)
    first = (page - 1) * GROUPS_PER_PAGE
    groups = list(itertools.islice(rows, first, first + GROUPS_PER_PAGE))
    shown = [group["members"][:SHOWN_OF_GROUP] for group in groups]
    found = _thumbnails(job, itertools.chain.from_iterable(shown))
    sections = [
        sheets.Section(_heading(group), list(_tiles(group, members, found)))
        for group, members in zip(groups, shown, strict=True)
    ]
    title = (
        f"{summary['group_count']:,} groups  ·  {summary['duplicates']:,} of {summary['images']:,} images could go  ·  "
        f"threshold {summary['threshold']:.4f}"
    )
    return sheets.groups_sheet(title, sections, note=pictures.page_note(page, pages))


def _group(job: tables.Job, rows: Iterable[Row], number: int) -> bytes:
    """Draw a page of all that is in one group."""
    group = next((row for row in rows if row["group"] == number), None)
    if group is None:
        raise pictures.wrong("group", f"The result has no group {number}.")
    pages = math.ceil(group["size"] / sheets.MAX_TILES)
    page = pictures.page(pages)
    members = group["members"][(page - 1) * sheets.MAX_TILES : page * sheets.MAX_TILES]
    tiles = list(_tiles(group, members, _thumbnails(job, members)))
    return sheets.groups_sheet(_heading(group), [sheets.Section("", tiles)], note=pictures.page_note(page, pages))


def _thumbnails(job: tables.Job, members: Iterable[Row]) -> dict[str, bytes]:
    return service.current().database.read(pictures.of_owner, job.owner, [member["id"] for member in members])


def _heading(group: Row) -> str:
    return f"group {group['group']}  ·  {group['size']:,} images  ·  kept: {group['keep']['because']}"


def _tiles(group: Row, members: Iterable[Row], found: dict[str, bytes]) -> Iterator[sheets.Tile]:
    for member in members:
        kept = member["id"] == group["keep"]["id"]
        title = group["keep"]["because"] if kept else f"{member['reason']}  ·  {member['score']:.4f}"
        yield sheets.Tile(found.get(member["id"]), title, member["key"], marked=kept)
