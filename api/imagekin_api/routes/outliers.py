"""Outliers jobs, and a contact sheet of what they found."""

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

# Each is shown with its nearest one.
OUTLIERS_PER_PAGE = sheets.MAX_TILES // 2


@intake.blueprint.post("/jobs/outliers")
@operation(
    "Find outliers",
    body=schemas.OutliersBody,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=intake.REFUSED,
)
def outliers() -> flask.Response:
    """The images that are farthest from their nearest ones, strangest first; near-duplicates count as one."""
    return intake.on_collection(JobKind.OUTLIERS, schemas.OutliersBody, "look at")


@pictures.sheet_of(JobKind.OUTLIERS)
def sheet(job: tables.Job, summary: dict[str, Any]) -> bytes:
    database = service.current().database
    pages = max(1, math.ceil(summary["n"] / OUTLIERS_PER_PAGE))
    page = pictures.page(pages)
    first = (page - 1) * OUTLIERS_PER_PAGE
    shown = list(itertools.islice(results.rows(database, job.id), first, first + OUTLIERS_PER_PAGE))
    ids = {id for row in shown for id in (row["id"], (row["nearest"] or row)["id"])}
    found = database.read(pictures.of, job.collection_id, sorted(ids))
    tiles = []
    for row in shown:
        title = f"{row['rank']}  ·  {row['score']:.4f}"
        tiles.append(sheets.Tile(found.get(row["id"]), title, row["key"], marked=True))
        nearest = row["nearest"] or {"id": "", "key": ""}
        tiles.append(sheets.Tile(found.get(nearest["id"]), "nearest", nearest["key"]))
    title = f"{summary['n']:,} strangest of {summary['images']:,}  ·  {summary['view']['name']} view"
    return sheets.outliers_sheet(title, tiles, note=pictures.page_note(page, pages))
