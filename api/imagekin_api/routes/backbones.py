"""The networks that a collection can be made with."""

from __future__ import annotations

import flask

from imagekin import catalog, schemas
from imagekin_api import answers
from imagekin_api.operations import operation

blueprint = flask.Blueprint("backbones", __name__)


@blueprint.get("/backbones")
@operation("List the backbones", returns=schemas.Page[schemas.Backbone])
def index() -> flask.Response:
    """The networks without their heads, with the length of their embeddings and the weights there are for them."""
    items = [
        schemas.Backbone(
            name=backbone.name,
            dim=backbone.dim,
            weights=list(backbone.weights),
            default=backbone.name == catalog.DEFAULT_BACKBONE,
        )
        for backbone in catalog.backbones().values()
        if not backbone.hidden
    ]
    return answers.of(schemas.Page[schemas.Backbone](items=items))
