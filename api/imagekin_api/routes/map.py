"""Map jobs, and the picture of a map."""

from __future__ import annotations

from typing import Any

import flask

from imagekin import schemas
from imagekin.database import tables
from imagekin.jobs import results
from imagekin.schemas.kinds import JobKind
from imagekin_api.http.operations import IDEMPOTENCY_KEY, operation
from imagekin_api.render import maps
from imagekin_api.routes import intake, pictures
from imagekin_api.wiring import service


@intake.blueprint.post("/jobs/map", endpoint="map")
@operation(
    "Lay a collection out in the plane",
    body=schemas.MapBody,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=intake.REFUSED,
)
def map_() -> flask.Response:
    """Lay out the images by t-SNE, x and y of each, so that similar ones lie together, deterministic by `seed`."""
    return intake.on_collection(JobKind.MAP, schemas.MapBody, "lay out")


@pictures.sheet_of(JobKind.MAP)
def sheet(job: tables.Job, summary: dict[str, Any]) -> bytes:
    database = service.current().database
    images = "image" if summary["images"] == 1 else "images"
    return maps.picture(
        f"map  ·  {summary['images']:,} {images}  ·  {summary['view']['name']} view",
        lambda: results.rows(database, job.id),
        summary["images"],
        lambda ids: database.read(pictures.of, job.collection_id, ids),
    )
