"""The API's description as OpenAPI 3.1 and as a page to read, made from local files only."""

from __future__ import annotations

import flask

from imagekin_api.documents import openapi, reference
from imagekin_api.http import auth

blueprint = flask.Blueprint(
    "docs",
    __name__,
    template_folder="../web/templates",
    static_folder="../web/static/docs",
    static_url_path="/docs/static",
)


@blueprint.get("/openapi.json")
@auth.public
def document() -> flask.Response:
    """Answer with the OpenAPI document."""
    return flask.jsonify(openapi.document(flask.current_app))


@blueprint.get("/docs")
@auth.public
def page() -> flask.Response:
    """Answer with the documentation page."""
    shown = reference.page(openapi.document(flask.current_app))
    types = {*shown["types"], *shown["words"]}
    text = flask.render_template("docs.html", page=shown, types=types, html=reference.html)
    answer = flask.Response(text, mimetype="text/html")
    answer.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'self'; frame-ancestors 'none'"
    return answer
