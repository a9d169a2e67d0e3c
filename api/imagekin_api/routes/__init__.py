"""The addresses: a module for each noun and for each kind of job."""

from __future__ import annotations

from importlib import import_module

import flask
from werkzeug.routing import BaseConverter

from imagekin.schemas.kinds import JobKind
from imagekin_api.routes import (
    backbones,
    collections,
    columns,
    docs,
    export,
    health,
    images,
    intake,
    jobs,
    page,
    results,
    session,
    uploads,
    verdicts,
)

for kind in JobKind:
    import_module(f"imagekin_api.routes.{kind.module}")

VERSIONED = (backbones, collections, images, columns, verdicts, uploads, intake, jobs, results, export)


class Id(BaseConverter):
    """The id of a job or an image, and no other word: so each address has its own methods."""

    regex = rf"(?!(?:{'|'.join([*JobKind, 'known'])})$)[^/]+"


def register(app: flask.Flask) -> None:
    """Register all addresses with the app."""
    app.url_map.converters["id"] = Id
    for module in VERSIONED:
        app.register_blueprint(module.blueprint, url_prefix="/v1")
    for module in (health, docs, page, session):
        app.register_blueprint(module.blueprint)
