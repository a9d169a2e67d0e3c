"""The networks that a collection can use."""

from __future__ import annotations

import flask

from imagekin import catalog, schemas
from imagekin_api.http import answers, pagination
from imagekin_api.http.operations import PAGED, operation

blueprint = flask.Blueprint("backbones", __name__)

# the networks of the class that this service grew out of
ORIGINAL = frozenset({"efficientnet_b0", "resnet50", "vgg19"})


@blueprint.get("/backbones")
@operation("List the backbones", returns=schemas.Page[schemas.Backbone], parameters=PAGED)
def index() -> flask.Response:
    """List the networks without their heads, with the length of their embeddings and the available weights.

    The default comes first, then `resnet50`, `vgg19` and `efficientnet_b0`, then the others by name.
    """
    after, limit = pagination.cursor("backbones"), pagination.limit()
    listed = sorted(
        (each for each in catalog.backbones().values() if not each.hidden), key=lambda each: _rank(each.name)
    )
    following = [each for each in listed if after is None or _rank(each.name) > _rank(after)]
    shown = following[:limit]
    items = [
        schemas.Backbone(
            name=backbone.name,
            dim=backbone.dim,
            weights=list(backbone.weights),
            default=backbone.name == catalog.DEFAULT_BACKBONE,
        )
        for backbone in shown
    ]
    cursor = pagination.encode("backbones", shown[-1].name if len(following) > limit else None)
    return answers.of(schemas.Page[schemas.Backbone](items=items, next_cursor=cursor))


def _rank(name: str) -> tuple[bool, bool, str]:
    return name != catalog.DEFAULT_BACKBONE, name not in ORIGINAL, name
