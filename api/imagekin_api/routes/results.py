"""What jobs found: numbers as JSON, lines or CSV, and contact sheets to look at."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

import flask
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors, schemas
from imagekin.database import tables
from imagekin.enums import STORING, TERMINAL, JobKind
from imagekin.jobs import results, view
from imagekin.jobs.view import expired
from imagekin.store import thumbnails
from imagekin_api.documents.operations import BINARY, Parameter, operation
from imagekin_api.http import answers
from imagekin_api.render import renditions, sheets
from imagekin_api.render.renditions import Result
from imagekin_api.wiring import service

blueprint = flask.Blueprint("results", __name__)

UNFINISHED = (errors.JobNotFound, errors.JobNotFinished, errors.ResultExpired, errors.Conflict)
COLUMNS = {
    JobKind.SEARCH: ("rank", "id", "key", "score", "metadata"),
    JobKind.CLUSTER: ("id", "key", "label", "distance"),
    JobKind.ASSIGN: ("id", "key", "label", "distance"),
}
ROWS = {JobKind.SEARCH: "neighbors", JobKind.CLUSTER: "assignments", JobKind.ASSIGN: "assignments"}


@blueprint.get("/jobs/<job_id>/result")
@operation(
    "Get a job's result",
    returns=schemas.SearchResult | schemas.ClusterResult | schemas.AssignResult | schemas.EmbedResult,
    media={renditions.NDJSON: {"type": "string"}, renditions.CSV: {"type": "string"}},
    errors=UNFINISHED,
)
def show(job_id: str) -> flask.Response:
    """As JSON, or its rows as `application/x-ndjson` or `text/csv`: neighbors, assignments, or the embed summary."""
    job, summary = service.current().database.read(_finished, service.owner(), job_id)
    media_type = answers.best_media_type(*renditions.MEDIA_TYPES)
    return flask.Response(renditions.render(_result(job, summary), media_type), content_type=_content_type(media_type))


def _content_type(media_type: str) -> str:
    return f"{media_type}; charset=utf-8" if media_type == renditions.CSV else media_type


def _finished(session: Session, owner: str, job_id: str) -> tuple[tables.Job, dict[str, Any]]:
    """Return a finished job and the summary of its result; raises why there is none."""
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
    database, kind = service.current().database, JobKind(job.kind)
    if kind not in ROWS:
        return Result(summary, None, tuple(summary), lambda: [summary])
    name = ROWS[kind]
    # a search's neighbors are few and stand in its summary
    rows = (lambda: summary[name]) if name in summary else (lambda: results.rows(database, job.id))
    return Result(summary, name, COLUMNS[kind], rows)


@blueprint.get("/jobs/<job_id>/sheet")
@operation(
    "Get a contact sheet of a job's result",
    parameters=(Parameter("label", "Which cluster; by default 0, the largest.", {"type": "integer", "minimum": 0}),),
    media={"image/png": BINARY},
    errors=UNFINISHED,
)
def sheet(job_id: str) -> flask.Response:
    """As PNG. Of a search: the query, then each neighbor with its similarity. Of a clustering: one cluster."""
    job, summary = service.current().database.read(_finished, service.owner(), job_id)
    match job.kind:
        case JobKind.SEARCH:
            picture = _search_sheet(job, summary)
        case JobKind.CLUSTER:
            picture = _cluster_sheet(job, summary)
        case _:
            raise errors.NotFound(f"A job of kind {job.kind} has no contact sheet.")
    return flask.Response(picture, mimetype="image/png")


def _search_sheet(job: tables.Job, summary: dict[str, Any]) -> bytes:
    database, neighbors = service.current().database, summary["neighbors"]
    # the query takes the first place
    shown = neighbors[: sheets.MAX_TILES - 1]
    query, pictures = database.read(_search_pictures, job, [neighbor["id"] for neighbor in shown])
    tiles = [
        sheets.Tile(pictures.get(neighbor["id"]), sheets.similarity_title(neighbor["score"]), neighbor["key"])
        for neighbor in shown
    ]
    return sheets.search_sheet(query, tiles, query_caption=_query_caption(job), total=len(neighbors))


def _query_caption(job: tables.Job) -> str:
    query = job.params["query"]
    return next((query[name] for name in ("image_key", "image", "image_id") if query.get(name)), "")


def _search_pictures(session: Session, job: tables.Job, ids: list[str]) -> tuple[bytes | None, dict[str, bytes]]:
    queried = job.work.get("query", {}).get("image_id")
    image = session.get(tables.Image, queried) if queried else None
    if image is not None and image.deleted_at is None:
        return thumbnails.of(session, image), _pictures(session, job.collection_id, ids)
    return results.thumbnail(session, job.id), _pictures(session, job.collection_id, ids)


def _cluster_sheet(job: tables.Job, summary: dict[str, Any]) -> bytes:
    database, label = service.current().database, _label()
    cluster = next((each for each in summary["clusters"] if each["label"] == label), None)
    if cluster is None:
        raise _invalid_label(f"The result has no cluster {label}; it has {len(summary['clusters'])}, from 0.")
    members = nearest(results.rows(database, job.id), label)
    pictures = database.read(_pictures, job.collection_id, [member["id"] for member in members])
    tiles = [
        sheets.Tile(
            pictures.get(member["id"]),
            sheets.distance_title(member["distance"]),
            member["key"],
            marked=member["id"] == cluster["medoid"]["id"],
        )
        for member in members
    ]
    title = sheets.cluster_title(label, cluster["size"], cluster["cohesion"])
    return sheets.cluster_sheet(title, tiles, total=cluster["size"])


def nearest(rows: Iterable[dict[str, Any]], label: int) -> list[dict[str, Any]]:
    """Return the members of a cluster that are nearest to its centroid, as many as a sheet shows, the nearest first."""
    members = (row for row in rows if row["label"] == label)
    return heapq.nsmallest(sheets.MAX_TILES, members, key=lambda row: (row["distance"], row["key"]))


def _pictures(session: Session, collection_id: str, ids: list[str]) -> dict[str, bytes]:
    found = session.scalars(
        sa.select(tables.Image).where(
            tables.Image.id.in_(ids), tables.Image.collection_id == collection_id, tables.Image.deleted_at.is_(None)
        )
    ).all()
    return thumbnails.by_id(session, found)


def _label() -> int:
    text = flask.request.args.get("label", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise _invalid_label("The label must be a whole number from 0.")
    return int(text)


def _invalid_label(detail: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(detail, errors=[{"pointer": "/label", "in": "query", "detail": detail}])
