"""Adapt jobs: a new collection of the same images, in a space that their labels made better."""

from __future__ import annotations

import flask
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import catalog, errors, schemas
from imagekin.database import tables
from imagekin.schemas.kinds import JobKind
from imagekin.store import collections
from imagekin_api.http import bodies
from imagekin_api.http.idempotency import Idempotency
from imagekin_api.http.operations import IDEMPOTENCY_KEY, operation
from imagekin_api.routes import intake
from imagekin_api.wiring import service


@intake.blueprint.post("/jobs/adapt")
@operation(
    "Adapt a collection to its labels",
    body=schemas.AdaptBody,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=(*intake.REFUSED, errors.CollectionExists),
)
def adapt() -> flask.Response:
    """Into a new collection, without running the network again; images embedded into it later are adapted, too."""
    data = bodies.read_json()
    body = bodies.parse(schemas.AdaptBody, data)
    intake.check_callback(body.callback_url)
    request = Idempotency.of_json(data)
    if (answer := intake.known(request)) is not None:
        return answer
    collection = service.current().database.read(_source, service.owner(), body)
    params = body.model_dump(mode="json", exclude={"collection", "callback_url"})
    return intake.accept(intake.submission(JobKind.ADAPT, collection, params, {}, request, body.callback_url))


def _source(session: Session, owner: str, body: schemas.AdaptBody) -> tables.Collection:
    """Return the collection to learn from."""
    collection = collections.get(session, owner, body.collection)
    if not collection.image_count:
        raise intake.invalid("/collection", "The collection has no images to learn from.")
    if catalog.is_adapted(collection.space_id):
        raise intake.invalid(
            "/collection", "The collection is adapted already; adapt the one that it was made from, with its labels."
        )
    taken = sa.select(tables.Collection.id).filter_by(owner=owner, name=body.name, deleted_at=None)
    if session.scalar(taken) is not None:
        raise errors.CollectionExists(f"A collection named {body.name!r} exists already.")
    return collection
