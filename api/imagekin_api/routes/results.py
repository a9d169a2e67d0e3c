"""What jobs found: numbers as JSON, lines or CSV, and contact sheets to look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from operator import or_
from typing import Any

import flask
from sqlalchemy.orm import Session

from imagekin import errors, schemas
from imagekin.database import tables
from imagekin.enums import TERMINAL
from imagekin.jobs import results, view
from imagekin.jobs.view import expired
from imagekin.schemas.kinds import STORING, TRAITS, JobKind
from imagekin.schemas.results import RESULTS
from imagekin_api.http import answers
from imagekin_api.http.operations import BINARY, Parameter, operation
from imagekin_api.render import renditions
from imagekin_api.render.renditions import Result
from imagekin_api.routes import pictures
from imagekin_api.wiring import service

blueprint = flask.Blueprint("results", __name__)

# Kinds whose rows are images in clusters.
CLUSTERED = (JobKind.CLUSTER, JobKind.ASSIGN)
NO_RESULT = (errors.JobNotFound, errors.JobNotFinished, errors.ResultExpired, errors.Conflict)


@blueprint.get("/jobs/<job_id>/result")
@operation(
    "Get a job's result",
    returns=reduce(or_, RESULTS.values()),
    media={renditions.NDJSON: {"type": "string"}, renditions.CSV: {"type": "string"}},
    errors=NO_RESULT,
)
def show(job_id: str) -> flask.Response:
    """Return JSON, or only the rows as `application/x-ndjson` or `text/csv`: neighbors, assignments or the summary."""
    job, summary = service.current().database.read(finished, service.owner(), job_id)
    media_type = answers.best_media_type(*renditions.MEDIA_TYPES)
    return flask.Response(renditions.render(_result(job, summary), media_type), content_type=_content_type(media_type))


def _content_type(media_type: str) -> str:
    return f"{media_type}; charset=utf-8" if media_type == renditions.CSV else media_type


def finished(session: Session, owner: str, job_id: str) -> tuple[tables.Job, dict[str, Any]]:
    """Return a finished job and its result's summary; raises JobNotFinished, ResultExpired, Conflict."""
    job = view.get(session, owner, job_id)
    if job.status not in TERMINAL:
        raise errors.JobNotFinished()
    if expired(session, job):
        raise errors.ResultExpired()
    summary = _embed_summary(session, job) if job.kind in STORING else results.summary(session, job_id)
    if summary is None:
        reason = f": {job.error_detail}" if job.error_detail else "."
        raise errors.Conflict(f"The job has no result, because it ended as {job.status}{reason}")
    return job, summary


def _embed_summary(session: Session, job: tables.Job) -> dict[str, Any]:
    seen = view.view(session, job)
    counts = seen.progress.model_dump(include=set(schemas.EmbedResult.model_fields))
    return {"collection": seen.collection, **counts}


def _result(job: tables.Job, summary: dict[str, Any]) -> Result:
    database, traits = service.current().database, TRAITS[JobKind(job.kind)]
    name = traits.rows
    if name is None:
        return Result(summary, None, tuple(summary), lambda: [summary])
    # a search's neighbors are few and stand in its summary
    rows = (lambda: summary[name]) if name in summary else (lambda: results.rows(database, job.id))
    if job.kind in CLUSTERED:
        names = database.read(results.cluster_names, summary.get("clustering_id", job.id))
        return Result(summary, name, traits.columns, lambda: _named(rows(), names))
    return Result(summary, name, traits.columns, rows, traits.members)


def _named(rows: Iterable[dict[str, Any]], names: Mapping[int, str | None]) -> Iterator[dict[str, Any]]:
    """Yield the images, each with the name of its cluster."""
    return ({**row, "name": names.get(row["label"])} for row in rows)


@blueprint.get("/jobs/<job_id>/sheet")
@operation(
    "Get a contact sheet of a job's result",
    parameters=(
        Parameter(
            "label",
            "Of a clustering: which cluster, by default 0, the largest. Of a classification: only this label. "
            "Of a split: only this share.",
        ),
        Parameter(
            "group", "Which group of duplicates; by default a page of groups.", {"type": "integer", "minimum": 0}
        ),
        Parameter("page", "Which page, from 1; clamped to those there are.", {"type": "integer", "default": 1}),
    ),
    media={"image/png": BINARY},
    drawn=True,
    errors=NO_RESULT,
)
def sheet(job_id: str) -> flask.Response:
    """Return a PNG. For a search: the query, then each neighbor with its similarity. For a clustering: one cluster.

    For duplicates: a page of groups, the image to keep marked and a reason under each other one; or one group. For a
    split: the first images of each share, or one share.
    """
    job, summary = service.current().database.read(finished, service.owner(), job_id)
    draw = pictures.SHEETS.get(JobKind(job.kind))
    if draw is None:
        raise errors.NotFound(f"A job of kind {job.kind} has no contact sheet.")
    return flask.Response(draw(job, summary), mimetype="image/png")
