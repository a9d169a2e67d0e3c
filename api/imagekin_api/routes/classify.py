"""Classify jobs, and a contact sheet of the labels that they suggest."""

from __future__ import annotations

import itertools
import json
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


@intake.blueprint.post("/jobs/classify")
@operation(
    "Suggest labels for unlabelled images",
    body=schemas.ClassifyBody,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=intake.REFUSED,
)
def classify() -> flask.Response:
    """Learned from the images whose metadata have `field`; how well it is known comes by cross-validation."""
    return intake.on_collection(JobKind.CLASSIFY, schemas.ClassifyBody, "classify")


@pictures.sheet_of(JobKind.CLASSIFY)
def sheet(job: tables.Job, summary: dict[str, Any]) -> bytes:
    database = service.current().database
    rows, total = results.rows(database, job.id), summary["images"]
    if (wanted := flask.request.args.get("label")) is not None:
        total = sum(_text(row["label"]) == wanted for row in rows)
        rows = (row for row in results.rows(database, job.id) if _text(row["label"]) == wanted)
    shown = list(itertools.islice(rows, sheets.MAX_TILES))
    found = database.read(pictures.of, job.collection_id, [row["id"] for row in shown])
    tiles = [
        sheets.Tile(found.get(row["id"]), f"{row['probability']:.2f}  ·  {_text(row['label'])}", row["key"])
        for row in shown
    ]
    right, low, high = (f"{100 * summary['accuracy'][name]:.1f}" for name in ("value", "low", "high"))
    title = f"{summary['field']}  ·  {total:,} suggested  ·  {right} % right ({low} to {high} %)"
    return sheets.selection_sheet(title, tiles, total=total)


def _text(label: Any) -> str:
    return label if isinstance(label, str) else json.dumps(label, ensure_ascii=False)
