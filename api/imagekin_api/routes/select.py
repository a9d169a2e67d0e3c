"""Select jobs, and a contact sheet of what they chose."""

from __future__ import annotations

import itertools
from typing import Any

import flask
from sqlalchemy.orm import Session

from imagekin import errors, schemas
from imagekin.database import tables
from imagekin.jobs import results
from imagekin.schemas.kinds import JobKind
from imagekin.store import collections, images
from imagekin_api.http import bodies, operations
from imagekin_api.http.idempotency import Idempotency
from imagekin_api.http.operations import IDEMPOTENCY_KEY, operation
from imagekin_api.render import sheets
from imagekin_api.routes import intake, pictures
from imagekin_api.wiring import service


@intake.blueprint.post("/jobs/select")
@operation(
    "Choose images to look at or to label first",
    body=schemas.SelectBody,
    json=operations.MANY_NAMES,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=(*intake.REFUSED, errors.ImageNotFound),
)
def select() -> flask.Response:
    """Choose `representative` (typical) images, largest group first, or `diverse` ones, each far from the others."""
    data = bodies.read_json()
    body = bodies.parse(schemas.SelectBody, data)
    intake.check_callback(body.callback_url)
    request = Idempotency.of_json(data)
    if (answer := intake.known(request)) is not None:
        return answer
    collection, avoid = service.current().database.read(_choice, service.owner(), body)
    params = body.model_dump(mode="json", exclude={"collection", "callback_url", "avoid"})
    params["avoid"] = len(body.avoid) if isinstance(body.avoid, list) else body.avoid
    work = {"avoid": avoid}
    return intake.accept(intake.submission(JobKind.SELECT, collection, params, work, request, body.callback_url))


def _choice(session: Session, owner: str, body: schemas.SelectBody) -> tuple[tables.Collection, dict[str, Any] | None]:
    """Return the collection, and the images to avoid as a worker needs them."""
    collection = collections.get(session, owner, body.collection)
    if not collection.image_count:
        raise intake.invalid("/collection", "The collection has no images to choose from.")
    if body.avoid is None:
        return collection, None
    if isinstance(body.avoid, list):
        return collection, {"image_ids": images.all_by_id(session, collection, body.avoid)}
    avoided = collections.get(session, owner, body.avoid)
    if avoided.space_id != collection.space_id:
        raise intake.invalid(
            "/avoid", f"The collection {avoided.name} is of another space; their vectors do not compare."
        )
    if avoided.image_count > schemas.MAX_AVOID:
        raise intake.invalid("/avoid", f"A collection to avoid may have {schemas.MAX_AVOID:,} images at most.")
    return collection, {"collection_id": avoided.id}


@pictures.sheet_of(JobKind.SELECT)
def sheet(job: tables.Job, summary: dict[str, Any]) -> bytes:
    database = service.current().database
    chosen = list(itertools.islice(results.rows(database, job.id), sheets.MAX_TILES))
    found = database.read(pictures.of, job.collection_id, [row["id"] for row in chosen])
    tiles = [
        sheets.Tile(found.get(row["id"]), f"{row['rank']}  ·  {sheets.distance_title(row['distance'])}", row["key"])
        for row in chosen
    ]
    title = (
        f"{summary['method']}  ·  {summary['n']:,} chosen  ·  coverage {summary['coverage']:.4f}  ·  "
        f"{sheets.view_title(summary)}"
    )
    return sheets.selection_sheet(title, tiles, total=summary["n"])
