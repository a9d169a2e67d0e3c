"""Jobs: their state, their images one by one, and how to cancel, retry and delete them."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

import flask
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors, schemas
from imagekin.database import tables
from imagekin.enums import ItemStatus, JobStatus
from imagekin.jobs import callbacks, end, submit, view
from imagekin.jobs import items as job_items
from imagekin.jobs.submit import lane
from imagekin.jobs.view import expired
from imagekin.schemas.kinds import JobKind
from imagekin_api.http import answers, bodies, pagination
from imagekin_api.http.idempotency import Idempotency
from imagekin_api.http.operations import IDEMPOTENCY_KEY, PAGED, WAIT, Parameter, operation
from imagekin_api.routes import intake
from imagekin_api.wiring import service, waiting

blueprint = flask.Blueprint("jobs", __name__)

Word = TypeVar("Word", bound=StrEnum)


def _words(name: str, words: type[StrEnum], description: str) -> Parameter:
    return Parameter(name, description, {"type": "string", "enum": [word.value for word in words]})


@blueprint.get("/jobs")
@operation(
    "List the jobs",
    returns=schemas.Page[schemas.Job],
    parameters=(
        *PAGED,
        _words("status", JobStatus, "Only those with this status."),
        _words("kind", JobKind, "Only those of this kind."),
        Parameter("collection", "Only those of this collection."),
        Parameter("idempotency_key", "Only the job that was posted under this key."),
    ),
)
def index() -> flask.Response:
    """List jobs, newest first."""
    status, kind = _word("status", JobStatus), _word("kind", JobKind)
    after, limit = pagination.cursor("jobs"), pagination.limit()
    name, key = flask.request.args.get("collection"), flask.request.args.get("idempotency_key")
    items, last = service.current().database.read(_page, service.owner(), status, kind, name, key, after, limit)
    return answers.of(schemas.Page[schemas.Job](items=items, next_cursor=pagination.encode("jobs", last)))


def _page(
    session: Session,
    owner: str,
    status: JobStatus | None,
    kind: JobKind | None,
    name: str | None,
    key: str | None,
    after: str | None,
    limit: int,
) -> tuple[list[schemas.Job], str | None]:
    query = sa.select(tables.Job).filter_by(owner=owner).order_by(tables.Job.id.desc())
    if status is not None:
        query = query.filter_by(status=status)
    if kind is not None:
        query = query.filter_by(kind=kind)
    if name is not None:
        named = sa.select(tables.Collection.id).filter_by(owner=owner, name=name, deleted_at=None)
        query = query.where(tables.Job.collection_id == named.scalar_subquery())
    if key is not None:
        query = query.filter_by(idempotency_key=key)
    if after is not None:
        query = query.where(tables.Job.id < after)
    found = session.scalars(query.limit(limit + 1)).all()
    shown = found[:limit]
    return view.views(session, shown), shown[-1].id if len(found) > limit else None


def _word(name: str, words: type[Word]) -> Word | None:
    text = flask.request.args.get(name)
    if text is None:
        return None
    try:
        return words(text)
    except ValueError:
        detail = f"{name} must be one of {', '.join(words)}."
        raise errors.InvalidRequest(detail, errors=[{"pointer": f"/{name}", "in": "query", "detail": detail}]) from None


@blueprint.get("/jobs/<id:job_id>")
@operation("Show a job", returns=schemas.Job, parameters=(WAIT,), errors=(errors.JobNotFound,))
def show(job_id: str) -> flask.Response:
    """Poll this until the status is terminal: succeeded, partial, failed or cancelled."""
    here, owner = service.current(), service.owner()
    job = here.database.read(_view, owner, job_id)
    wait_s = waiting.preferred_wait_s(flask.request.headers.getlist("Prefer"))
    applied = wait_s is not None
    if wait_s and not job.status.terminal:
        applied = here.watcher.wait(job_id, wait_s)
        if applied:
            job = here.database.read(_view, owner, job_id)
    answer = answers.of(job)
    if applied:
        answer.headers["Preference-Applied"] = f"wait={wait_s}"
    return answer


def _view(session: Session, owner: str, job_id: str) -> schemas.Job:
    job = view.get(session, owner, job_id)
    return view.view(session, job).model_copy(update={"deliveries": callbacks.attempts(session, job)})


@blueprint.delete("/jobs/<id:job_id>")
@operation("Delete a job", status=204, errors=(errors.JobNotFound, errors.JobNotFinished))
def delete(job_id: str) -> flask.Response:
    """Delete a finished job with its ledger and result; the images that it embedded stay."""
    service.current().database.write(end.delete, service.owner(), job_id)
    return answers.nothing()


@blueprint.get("/jobs/<job_id>/items")
@operation(
    "List a job's images",
    returns=schemas.Page[schemas.Item],
    parameters=(*PAGED, _words("status", ItemStatus, "Only those with this status.")),
    errors=(errors.JobNotFound, errors.ResultExpired),
)
def items(job_id: str) -> flask.Response:
    """List the outcome of each image in the order of the source; images still in progress are not listed yet."""
    listing = f"items:{job_id}"
    status = _word("status", ItemStatus)
    after, limit = pagination.item_cursor(listing), pagination.limit()
    page, following = service.current().database.read(_items, service.owner(), job_id, status, after, limit)
    cursor = pagination.encode(listing, following)
    return answers.of(schemas.Page[schemas.Item](items=page, next_cursor=cursor))


def _items(
    session: Session, owner: str, job_id: str, status: ItemStatus | None, after: tuple[int, int] | None, limit: int
) -> tuple[list[schemas.Item], tuple[int, int] | None]:
    job = view.get(session, owner, job_id)
    if expired(session, job):
        raise errors.ResultExpired()
    return job_items.page(session, job, status, after, limit)


@blueprint.post("/jobs/<job_id>/cancel")
@operation("Cancel a job", returns=schemas.Job, status=202, errors=(errors.JobNotFound, errors.JobFinished))
def cancel(job_id: str) -> flask.Response:
    """Finished images stay, and the job writes nothing more."""
    return answers.accepted(service.current().database.write(_cancel, service.owner(), job_id))


def _cancel(session: Session, owner: str, job_id: str) -> schemas.Job:
    return view.view(session, end.cancel(session, owner, job_id))


@blueprint.post("/jobs/<job_id>/retry")
@operation(
    "Repeat a job",
    body=schemas.RetryBody,
    body_required=False,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=(errors.JobNotFound, errors.JobNotFinished, errors.SourceExpired, errors.IdempotencyMismatch),
)
def retry(job_id: str) -> flask.Response:
    """Put the images that failed, or all, into a new job that names this one as its parent."""
    here = service.current()
    empty = flask.request.content_length in (None, 0) and not flask.request.mimetype
    data = {} if empty else bodies.read_json()
    body = bodies.parse(schemas.RetryBody, data)
    intake.check_callback(body.callback_url)
    request = Idempotency.of_json(data)
    job, new = here.database.write(_retry, service.owner(), job_id, body, request)
    if new:
        here.doorbell.ring(lane(job.kind))
    return answers.accepted(job)


def _retry(
    session: Session, owner: str, job_id: str, body: schemas.RetryBody, request: Idempotency
) -> tuple[schemas.Job, bool]:
    settings = service.current().settings
    job, new = submit.retry(
        session, owner, job_id, body.items, settings, request.key, request.digest, body.callback_url
    )
    return view.view(session, job), new
