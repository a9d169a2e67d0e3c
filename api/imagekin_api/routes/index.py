"""Index jobs: how a collection is searched, and how well its index does."""

from __future__ import annotations

import flask
from sqlalchemy.orm import Session

from imagekin import errors, schemas
from imagekin.database import tables
from imagekin.enums import IndexMethod
from imagekin.schemas.kinds import JobKind
from imagekin.store import collections, indexes
from imagekin_api.http import bodies
from imagekin_api.http.idempotency import Idempotency
from imagekin_api.http.operations import IDEMPOTENCY_KEY, operation
from imagekin_api.routes import intake
from imagekin_api.wiring import service


@intake.blueprint.post("/collections/<name>/index")
@operation(
    "Build or remove an index of vectors",
    body=schemas.IndexBody,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=intake.REFUSED,
)
def index(name: str) -> flask.Response:
    """Choose how a collection is searched: by all vectors (`exact`), or by those that an index leads to (`hnsw`).

    The index is built beside everything else, and searches use it when the job has succeeded; one that is there is
    built again. Images that come later are found, too. `exact` removes it.
    """
    data = bodies.read_json()
    body = bodies.parse(schemas.IndexBody, data)
    if body.index is IndexMethod.HNSW and (reason := service.current().database.write(indexes.why_not)) is not None:
        raise intake.invalid("/index", reason)
    return _accepted(name, data, body, needs_index=False)


@intake.blueprint.post("/collections/<name>/index/check")
@operation(
    "Check an index of vectors",
    body=schemas.IndexCheckBody,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=(*intake.REFUSED, errors.Conflict),
)
def check_index(name: str) -> flask.Response:
    """Search for some of the collection's images by its index and exactly, and compare answers and times."""
    data = bodies.read_json()
    return _accepted(name, data, bodies.parse(schemas.IndexCheckBody, data), needs_index=True)


def _accepted(
    name: str, data: object, body: schemas.IndexBody | schemas.IndexCheckBody, *, needs_index: bool
) -> flask.Response:
    intake.check_callback(body.callback_url)
    request = Idempotency.of_json(data)
    if (answer := intake.known(request)) is not None:
        return answer
    collection = service.current().database.read(_collection, service.owner(), name, needs_index)
    params = body.model_dump(mode="json", exclude={"callback_url"})
    return intake.accept(intake.submission(JobKind.INDEX, collection, params, {}, request, body.callback_url))


def _collection(session: Session, owner: str, name: str, needs_index: bool) -> tables.Collection:
    collection = collections.get(session, owner, name)
    if needs_index and indexes.ready(session, collection.id) is None:
        raise errors.Conflict("The collection has no index to check: it is searched exactly, so nothing is missed.")
    return collection
