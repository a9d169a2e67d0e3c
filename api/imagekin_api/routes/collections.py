"""Collections: images in one space."""

from __future__ import annotations

import flask
from sqlalchemy.orm import Session

from imagekin import catalog, errors, schemas
from imagekin.maintenance import collection_deletion
from imagekin.store import collections
from imagekin_api.http import answers, bodies, pagination
from imagekin_api.http.operations import PAGED, operation
from imagekin_api.wiring import service

blueprint = flask.Blueprint("collections", __name__)


@blueprint.post("/collections")
@operation(
    "Create a collection",
    body=schemas.CollectionBody,
    returns=schemas.Collection,
    status=201,
    errors=(errors.CollectionExists, errors.UnknownBackbone, errors.UnknownWeights),
)
def create() -> flask.Response:
    """Create a collection.

    Backbone, weights, precision, colors and fit determine its space, which never changes: vectors of different spaces
    are never mixed. Without `fit` pictures come into the network's input as its weights want it, mostly cropped.
    """
    here = service.current()
    body = bodies.parse(schemas.CollectionBody, bodies.read_json())
    space = catalog.resolve_space(
        body.backbone, body.weights, body.precision, here.settings.weights_dir, body.colors, body.fit
    )
    created = here.database.write(collections.create, service.owner(), body.name, space, body.dtype)
    answer = answers.of(created, 201)
    answer.headers["Location"] = f"/v1/collections/{created.name}"
    return answer


@blueprint.get("/collections")
@operation("List the collections", returns=schemas.Page[schemas.Collection], parameters=PAGED)
def index() -> flask.Response:
    """List the collections by name."""
    after, limit = pagination.cursor("collections"), pagination.limit()
    items, last = service.current().database.read(collections.page, service.owner(), after, limit)
    cursor = pagination.encode("collections", last)
    return answers.of(schemas.Page[schemas.Collection](items=items, next_cursor=cursor))


@blueprint.get("/collections/<name>")
@operation("Show a collection", returns=schemas.Collection, errors=(errors.CollectionNotFound,))
def show(name: str) -> flask.Response:
    """Return the collection with its number of images."""
    return answers.of(service.current().database.read(_view, service.owner(), name))


def _view(session: Session, owner: str, name: str) -> schemas.Collection:
    return collections.view(session, collections.get(session, owner, name))


@blueprint.delete("/collections/<name>")
@operation("Delete a collection", status=204, errors=(errors.CollectionNotFound,))
def delete(name: str) -> flask.Response:
    """Its name is free at once and its unfinished jobs are cancelled; the images are removed in the background."""
    service.current().database.write(collection_deletion.delete, service.owner(), name)
    return answers.nothing()
