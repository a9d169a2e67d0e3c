"""Split jobs, and contact sheets of the shares that they made."""

from __future__ import annotations

import itertools
import math
from typing import Any

import flask

from imagekin import schemas
from imagekin.database import tables
from imagekin.jobs import results
from imagekin.schemas.kinds import JobKind
from imagekin_api.http.operations import IDEMPOTENCY_KEY, operation
from imagekin_api.render import sheets
from imagekin_api.routes import intake, pictures
from imagekin_api.wiring import service

# What a sheet of several shares shows of each.
SHOWN_OF_SHARE = 2 * sheets.MAX_COLUMNS

Row = dict[str, Any]


@intake.blueprint.post("/jobs/split")
@operation(
    "Split a collection without leaks",
    body=schemas.SplitBody,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=intake.REFUSED,
)
def split() -> flask.Response:
    """Into shares such as train, val and test; near-duplicates stay together, and verdicts on them are obeyed.

    Each image gets the name of its share as the `field` of its metadata. With `stratify`, the shares have the same
    mixture of the values of that field, as well as groups of near-duplicates allow.
    """
    return intake.on_collection(JobKind.SPLIT, schemas.SplitBody, "split")


@pictures.sheet_of(JobKind.SPLIT)
def sheet(job: tables.Job, summary: dict[str, Any]) -> bytes:
    wanted = flask.request.args.get("label")
    return _overview(job, summary) if wanted is None else _share(job, summary, wanted)


def _overview(job: tables.Job, summary: dict[str, Any]) -> bytes:
    """Draw the first images of each share."""
    shown: dict[str, list[Row]] = {share["share"]: [] for share in summary["counts"]}
    due = sum(min(SHOWN_OF_SHARE, share["images"]) for share in summary["counts"])
    for row in results.rows(service.current().database, job.id):
        if not due:
            break
        if len(shown[row["share"]]) < SHOWN_OF_SHARE:
            shown[row["share"]].append(row)
            due -= 1
    found = _thumbnails(job, list(itertools.chain.from_iterable(shown.values())))
    sections = [
        sheets.Section(_heading(share, summary), _tiles(rows, found))
        for share, rows in zip(summary["counts"], shown.values(), strict=True)
        if rows
    ]
    title = (
        f"{summary['field']}  ·  {summary['images']:,} images, {summary['grouped']:,} of them in {summary['groups']:,} "
        f"groups of near-duplicates  ·  threshold {summary['threshold']:.4f}"
    )
    return sheets.sections_sheet(title, sections)


def _share(job: tables.Job, summary: dict[str, Any], name: str) -> bytes:
    """Draw a page of one share."""
    share = next((each for each in summary["counts"] if each["share"] == name), None)
    if share is None:
        raise pictures.wrong("label", f"The result has no share {name!r}.")
    pages = max(1, math.ceil(share["images"] / sheets.MAX_TILES))
    page = pictures.page(pages)
    rows = (row for row in results.rows(service.current().database, job.id) if row["share"] == name)
    shown = list(itertools.islice(rows, (page - 1) * sheets.MAX_TILES, page * sheets.MAX_TILES))
    tiles = _tiles(shown, _thumbnails(job, shown))
    return sheets.sections_sheet(
        _heading(share, summary), [sheets.Section("", tiles)], note=pictures.page_note(page, pages)
    )


def _thumbnails(job: tables.Job, rows: list[Row]) -> dict[str, bytes]:
    return service.current().database.read(pictures.of, job.collection_id, [row["id"] for row in rows])


def _heading(share: dict[str, Any], summary: dict[str, Any]) -> str:
    part = share["images"] / summary["images"]
    return f"{share['share']}  ·  {share['images']:,} images  ·  {part:.1%} of {share['wanted']:.1%}"


def _tiles(rows: list[Row], found: dict[str, bytes]) -> list[sheets.Tile]:
    return [
        sheets.Tile(found.get(row["id"]), "" if row["group"] is None else f"group {row['group']}", row["key"])
        for row in rows
    ]
