"""The Flask app. It has no state of its own: everything is in the database, the storage and the settings."""

from __future__ import annotations

import time

import flask
import structlog

from imagekin import errors
from imagekin.settings import Settings
from imagekin_api import metrics, routes
from imagekin_api.front import refusal
from imagekin_api.http import auth, problems
from imagekin_api.wiring import service
from imagekin_api.wiring.service import Service

log = structlog.get_logger()

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
# What an orchestrator asks every few seconds tells nothing in the log.
QUIET = frozenset({"health.live", "health.ready", "health.show_metrics"})


def create_app(settings: Settings) -> flask.Flask:
    """Build the app; it does not query the database yet."""
    app = flask.Flask("imagekin_api", static_folder=None)
    # an address is there or not: werkzeug redirects from one with two slashes, by HTML with the address inside
    app.url_map.merge_slashes = False
    app.json.ensure_ascii = False  # pyright: ignore[reportAttributeAccessIssue] - the default provider has it
    app.extensions[service.EXTENSION] = Service.open(settings)
    problems.register(app)
    metrics.register(app)
    app.before_request(_refuse_nul)
    auth.register(app)
    app.before_request(refusal.refuse)
    routes.register(app)
    app.after_request(_finish)
    return app


def _refuse_nul() -> None:
    # no address holds one, and PostgreSQL refuses to look for it
    texts = [*(flask.request.view_args or {}).values(), *flask.request.args.values()]
    if any("\0" in str(text) for text in texts):
        raise errors.NotFound()


def _finish(answer: flask.Response) -> flask.Response:
    for name, value in HEADERS.items():
        answer.headers.setdefault(name, value)
    if flask.request.endpoint not in QUIET:
        log.info(
            "request",
            method=flask.request.method,
            path=flask.request.path,
            status=answer.status_code,
            duration_ms=round(1000 * (time.perf_counter() - flask.g.started), 1),
            owner=flask.g.get("owner"),
            job_id=flask.g.get("job_id") or (flask.request.view_args or {}).get("job_id"),
        )
    return answer
