"""Columns: chosen properties of all images of a collection at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import flask
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import tables
from imagekin.enums import TERMINAL
from imagekin.jobs import results, view
from imagekin.store import collections, columns
from imagekin.store.columns import Found
from imagekin_api.http.operations import BINARY, Parameter, operation
from imagekin_api.wiring import service

blueprint = flask.Blueprint("columns", __name__)

MEDIA_TYPE = "application/vnd.imagekin.columns"
DEFAULT_NAMES = "id,key"
NAMES = Parameter(
    "names",
    f"Separated by commas: `{'`, `'.join([*columns.TEXTS, *columns.NUMBERS])}`, `metadata.FIELD`, `result.JOB.FIELD`.",
    {"type": "string", "default": DEFAULT_NAMES},
)


@blueprint.get("/collections/<name>/columns")
@operation(
    "Get columns of all images",
    parameters=(NAMES,),
    media={MEDIA_TYPE: BINARY},
    errors=(errors.CollectionNotFound, errors.JobNotFound, errors.JobNotFinished, errors.ResultExpired),
)
def show(name: str) -> flask.Response:
    """A compact binary form, for programs that show or compare very many images; row i of each column is one image.

    `result.JOB.FIELD` is a field of the rows of a job over this collection, such as `x` and `y` of a map or `label` of
    a clustering. The `ETag` changes with the collection's revision. The bytes are `IKC1`, the length of the head
    (uint32, little-endian like all numbers), the head as JSON (`count`, `revision`, `columns` with `name`, `type`,
    `bytes` and, for choices, `values`), and then the columns, each from a multiple of 8 bytes on: `text` is
    uint32[count + 1] offsets and then UTF-8, `number` is float32[count] (NaN: none), `choice` is uint32[count], an
    index into `values` (4294967295: none).
    """
    names = list(dict.fromkeys(flask.request.args.get("names", DEFAULT_NAMES).split(",")))
    for each in names:
        if not columns.known(each):
            raise _invalid(f"There is no column {each!r}.")
    if len(names) > columns.MAX_NAMES:
        raise _invalid(f"At most {columns.MAX_NAMES} columns are given at once.")
    here = service.current()
    jobs = {each: here.database.read(_job, service.owner(), name, each) for each in names if each.startswith("result.")}
    etag = here.database.read(_etag, service.owner(), name, names)
    if etag in flask.request.if_none_match:
        answer = flask.Response(status=304)
    else:
        found = {each: _found(each, job) for each, job in jobs.items()}
        etag, pieces = here.database.read(_columns, service.owner(), name, names, found)
        answer = flask.Response(pieces, mimetype=MEDIA_TYPE)
    answer.headers["Cache-Control"] = "private, no-cache"
    answer.set_etag(etag)
    return answer


def _invalid(detail: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(detail, errors=[{"pointer": "/names", "in": "query", "detail": detail}])


def _job(session: Session, owner: str, collection: str, name: str) -> str:
    """Return the id of the job that a column's name has, which must have ended with rows of this collection."""
    job_id, _, field = name.removeprefix(columns.RESULT).partition(".")
    here = collections.get(session, owner, collection)
    job = view.get(session, owner, job_id)
    if job.collection_id != here.id or not field:
        raise _invalid(f"{name!r} is not a field of a job over {collection!r}.")
    if job.status not in TERMINAL:
        raise errors.JobNotFinished()
    if view.expired(session, job):
        raise errors.ResultExpired()
    return job.id


def _found(name: str, job_id: str) -> Found:
    field = name.removeprefix(columns.RESULT).partition(".")[2]
    found = Found.of(results.rows(service.current().database, job_id), field)
    if not len(found.ids):
        raise _invalid(f"The rows of that job have no {field!r}.")
    return found


def _etag(session: Session, owner: str, name: str, names: list[str]) -> str:
    return _tag(collections.get(session, owner, name), names)


def _tag(collection: tables.Collection, names: list[str]) -> str:
    # a collection that was deleted and made again counts from 0
    digest = hashlib.sha256(",".join([collection.id, *names]).encode()).hexdigest()[:16]
    return f"{collection.revision}-{digest}"


def _columns(
    session: Session, owner: str, name: str, names: list[str], found: dict[str, Found]
) -> tuple[str, Iterator[bytes]]:
    collection = collections.get(session, owner, name)
    return _tag(collection, names), columns.write(session, collection, names, found)
