"""The addresses: a blueprint for each noun."""

from __future__ import annotations

import flask
from werkzeug.routing import BaseConverter

from imagekin_api.routes import (
    backbones,
    collections,
    docs,
    health,
    images,
    jobs,
    results,
    submissions,
    uploads,
    vectors,
)

VERSIONED = (backbones, collections, images, uploads, submissions, jobs, results, vectors)


class Id(BaseConverter):
    """The id of a job or an image, not a word that stands in its place: so each address has its own methods."""

    regex = r"(?!(?:assign|cluster|embed|known|search)$)[^/]+"


def register(app: flask.Flask) -> None:
    """Put all addresses into the app."""
    app.url_map.converters["id"] = Id
    for module in VERSIONED:
        app.register_blueprint(module.blueprint, url_prefix="/v1")
    for module in (health, docs):
        app.register_blueprint(module.blueprint)
