"""Assign jobs: they put images into the clusters of an earlier clustering."""

from __future__ import annotations

import flask
from sqlalchemy.orm import Session

from imagekin import errors, schemas
from imagekin.database import tables
from imagekin.enums import TERMINAL
from imagekin.jobs import view
from imagekin.schemas.kinds import JobKind
from imagekin.store import images
from imagekin_api.http import bodies, operations
from imagekin_api.http.idempotency import Idempotency
from imagekin_api.http.operations import IDEMPOTENCY_KEY, operation
from imagekin_api.routes import intake
from imagekin_api.wiring import service


@intake.blueprint.post("/jobs/assign")
@operation(
    "Put images into the clusters of an earlier clustering",
    body=schemas.AssignBody,
    json=operations.MANY_NAMES,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=(*intake.REFUSED, errors.JobNotFound, errors.JobNotFinished, errors.ImageNotFound, errors.Conflict),
)
def assign() -> flask.Response:
    """Assign the images in `image_ids` or `image_keys`, or by default all that were added or changed later."""
    data = bodies.read_json()
    body = bodies.parse(schemas.AssignBody, data)
    intake.check_callback(body.callback_url)
    if body.image_ids is not None and body.image_keys is not None:
        raise intake.invalid("/image_keys", "Name the images by their ids or by their keys, not by both.")
    request = Idempotency.of_json(data)
    if (answer := intake.known(request)) is not None:
        return answer
    collection, ids = service.current().database.read(_assigned, service.owner(), body)
    params = {"clustering_id": body.clustering_id, "images": None if ids is None else len(ids)}
    work = {"clustering_id": body.clustering_id, "image_ids": ids}
    return intake.accept(intake.submission(JobKind.ASSIGN, collection, params, work, request, body.callback_url))


def _assigned(session: Session, owner: str, body: schemas.AssignBody) -> tuple[tables.Collection, list[str] | None]:
    """Return the clustering's collection, and the ids of the named images, each once."""
    job = view.get(session, owner, body.clustering_id)
    if job.kind != JobKind.CLUSTER:
        raise intake.invalid("/clustering_id", f"This is a job of kind {job.kind}; name a job of kind cluster.")
    if job.status not in TERMINAL:
        raise errors.JobNotFinished("The clustering is not finished yet; poll its job until its status is terminal.")
    if session.get(tables.Clustering, job.id) is None:
        raise errors.Conflict(f"The job found no clusters, because it ended as {job.status}.")
    collection = session.get_one(tables.Collection, job.collection_id)
    if collection.deleted_at is not None:
        raise errors.CollectionNotFound("The clustering's collection was deleted.")
    if body.image_ids is not None:
        return collection, images.all_by_id(session, collection, body.image_ids)
    if body.image_keys is not None:
        return collection, images.all_by_key(session, collection, body.image_keys)
    return collection, None
