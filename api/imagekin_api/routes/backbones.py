"""The networks that a collection can use."""

from __future__ import annotations

from collections.abc import Callable

import flask

from imagekin import catalog, errors, schemas
from imagekin.enums import Library
from imagekin_api.http import answers, pagination
from imagekin_api.http.operations import PAGED, Parameter, operation
from imagekin_api.wiring import service

blueprint = flask.Blueprint("backbones", __name__)

_DIM_DIGITS = 9
FILTERS = (
    Parameter("name", "Only those with this in their names."),
    Parameter(
        "source",
        "Only those of this library, or `own`: files of your own.",
        {"type": "string", "enum": [library.value for library in Library]},
    ),
    Parameter(
        "dim",
        "Only those with embeddings of this length.",
        {"type": "integer", "minimum": 0, "maximum": 10**_DIM_DIGITS - 1},
    ),
    Parameter("license", "Only those whose default weights have this license, such as `apache-2.0`."),
)

# the networks of the class that this service grew out of
ORIGINAL = frozenset({"efficientnet_b0", "resnet50", "vgg19"})


@blueprint.get("/backbones")
@operation("List the backbones", returns=schemas.Page[schemas.Backbone], parameters=(*PAGED, *FILTERS))
def index() -> flask.Response:
    """List the networks without their heads, with the length of their embeddings and the available weights.

    The default comes first, then `resnet50`, `vgg19` and `efficientnet_b0`, then the networks of your own that this
    machine has below IMAGEKIN_WEIGHTS_DIR, then torchvision's others by name, then timm's. `name`: a part of the name.
    Workers need the extra `timm` for networks of that source.
    """
    after, limit = pagination.cursor("backbones"), pagination.limit()
    wanted = _wanted()
    own = catalog.own_backbones(service.current().settings.weights_dir)
    listed = sorted(
        (each for each in (*catalog.backbones().values(), *own) if not each.hidden and wanted(each)),
        key=lambda each: _rank(each.name),
    )
    following = [each for each in listed if after is None or _rank(each.name) > _rank(after)]
    shown = following[:limit]
    items = [
        schemas.Backbone(
            name=backbone.name,
            dim=backbone.dim,
            weights=list(backbone.weights),
            default=backbone.name == catalog.DEFAULT_BACKBONE,
            source=backbone.source,
            license=backbone.license,
            non_commercial=backbone.license in catalog.NON_COMMERCIAL,
        )
        for backbone in shown
    ]
    cursor = pagination.encode("backbones", shown[-1].name if len(following) > limit else None)
    return answers.of(schemas.Page[schemas.Backbone](items=items, next_cursor=cursor))


def _rank(name: str) -> tuple[bool, bool, bool, bool, str]:
    return (
        name != catalog.DEFAULT_BACKBONE,
        name not in ORIGINAL,
        not name.startswith(catalog.OWN),
        name.startswith(catalog.TIMM),
        name,
    )


def _wanted() -> Callable[[catalog.Backbone], bool]:
    given = flask.request.args
    name, license_, source, dim = given.get("name", "").lower(), given.get("license"), _source(), _dim()
    return lambda each: (
        name in each.name.lower()
        and source in (None, each.source)
        and dim in (None, each.dim)
        and license_ in (None, each.license)
    )


def _source() -> Library | None:
    text = flask.request.args.get("source")
    if text is not None and text not in list(Library):
        raise _invalid("source", f"source must be one of {', '.join(Library)}.")
    return None if text is None else Library(text)


def _dim() -> int | None:
    text = flask.request.args.get("dim")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) <= _DIM_DIGITS):
        raise _invalid("dim", "dim must be a whole number.")
    return None if text is None else int(text)


def _invalid(name: str, detail: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(detail, errors=[{"pointer": f"/{name}", "in": "query", "detail": detail}])
