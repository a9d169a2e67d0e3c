"""The addresses: a blueprint for each noun."""

from __future__ import annotations

import flask

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


def register(app: flask.Flask) -> None:
    """Put all addresses into the app."""
    for module in VERSIONED:
        app.register_blueprint(module.blueprint, url_prefix="/v1")
    for module in (health, docs):
        app.register_blueprint(module.blueprint)
