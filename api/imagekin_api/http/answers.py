"""Successful answers."""

from __future__ import annotations

import flask
from pydantic import BaseModel

from imagekin import schemas

MEDIA_TYPE = "application/json"
POLL_AFTER_S = 1


def of(model: BaseModel, status: int = 200) -> flask.Response:
    """Answer with a model of the schemas as JSON."""
    return flask.Response(model.model_dump_json(), status, mimetype=MEDIA_TYPE)


def accepted(job: schemas.Job) -> flask.Response:
    """Answer 202 with a job, its address and when to poll it."""
    answer = of(job, 202)
    answer.headers["Location"] = job.links.self
    answer.headers["Retry-After"] = str(POLL_AFTER_S)
    flask.g.job_id = job.id
    return answer


def nothing() -> flask.Response:
    """Answer 204."""
    answer = flask.Response(status=204)
    del answer.headers["Content-Type"]
    return answer


def best_media_type(*offered: str) -> str:
    """Return what the request's `Accept` prefers among `offered`.

    If nothing matches it is the first one, not an error.
    """
    return flask.request.accept_mimetypes.best_match(offered, offered[0])
