"""Import jobs: they put exported vectors, or vectors made elsewhere, into a collection of the same space."""

from __future__ import annotations

from typing import Any

import flask
from sqlalchemy.orm import Session

from imagekin import errors, schemas, sources
from imagekin.database import tables
from imagekin.enums import OnConflict
from imagekin.jobs import submit
from imagekin.schemas.kinds import JobKind
from imagekin.store import collections
from imagekin_api.http import bodies, multipart
from imagekin_api.http.idempotency import Idempotency
from imagekin_api.http.operations import BINARY, IDEMPOTENCY_KEY, Parameter, operation
from imagekin_api.routes import intake
from imagekin_api.routes.export import blueprint
from imagekin_api.routes.intake import REFUSED, Form, upload_work
from imagekin_api.wiring import service

ON_CONFLICT = Parameter(
    "on_conflict",
    "As in an embed job; for a raw body.",
    {"type": "string", "enum": [word.value for word in OnConflict], "default": OnConflict.REPLACE.value},
)
CALLBACK_URL = Parameter("callback_url", "As in an embed job; for a raw body.")


@blueprint.post("/collections/<name>/import")
@operation(
    "Import vectors into a collection",
    body=schemas.ImportBody,
    form={"file": BINARY},
    form_model=schemas.ImportForm,
    raw=True,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY, ON_CONFLICT, CALLBACK_URL),
    errors=(*REFUSED, errors.UploadNotFound, errors.TooLarge),
)
def import_(name: str) -> flask.Response:
    """Send an npz or Parquet file, as an export writes it: as the body, as a form's `file`, or as an upload by its id.

    The file's `space_id` must be the collection's. If the key is stored with the same vector, it is `reused`; with
    another one, `on_conflict` decides.
    """
    if bodies.is_json():
        return _import_upload(name)
    with intake.enclosure() as enclosed:
        form = _store_form(enclosed) if multipart.is_multipart() else _store_body(enclosed)
        if enclosed.stored is None or enclosed.stored.size == 0:
            raise multipart.invalid("file", "Send an npz or Parquet file that is not empty.")
        body = bodies.parse_form(schemas.ImportForm, form.fields)
        intake.check_callback(body.callback_url)
        request = Idempotency.of_parts(form.parts)
        if (answer := intake.known(request)) is not None:
            return answer
        return intake.accept(_submission(name, enclosed.work(), body, request, "/file"), enclosed)


def _import_upload(name: str) -> flask.Response:
    owner, data = service.owner(), bodies.read_json()
    body = bodies.parse(schemas.ImportBody, data)
    intake.check_callback(body.callback_url)
    upload = service.current().database.read(upload_work, owner, body.upload_id)
    request = Idempotency.of_json({**data, "upload_id": {"sha256": upload["sha256"]}})
    if (answer := intake.known(request)) is not None:
        return answer
    return intake.accept(_submission(name, upload, body, request, "/upload_id"))


def _store_form(enclosed: intake.Enclosure) -> Form:
    max_bytes = service.current().settings.max_upload_bytes
    form = Form()
    for part in multipart.parts(max_bytes):
        if part.filename is not None and enclosed.stored is None:
            enclosed.filename = part.filename or None
            enclosed.store(part, max_bytes)
        else:
            form.take(part)
        form.note(part)
    return form


def _store_body(enclosed: intake.Enclosure) -> Form:
    max_bytes = service.current().settings.max_upload_bytes
    if (flask.request.content_length or 0) > max_bytes:
        raise errors.TooLarge(f"The body is larger than {max_bytes:,} bytes.")
    enclosed.store(flask.request.stream, max_bytes)
    assert enclosed.stored is not None
    fields = dict(flask.request.args.items())
    said = [(field, None, text) for field, text in sorted(fields.items())]
    return Form(fields, [("file", None, enclosed.stored.sha256), *said])


def _submission(
    name: str, upload: dict[str, Any], body: schemas.ImportForm, request: Idempotency, pointer: str
) -> submit.Submission:
    """Build the job for a stored file; raises InvalidRequest if the file is not for this collection."""
    here = service.current()
    collection, dim = here.database.read(_target, service.owner(), name)
    work = {**upload, "type": "vectors", "space_id": collection.space_id, "dim": dim}
    try:
        sources.open_source(work, here.storage, here.settings).close()
    except errors.UploadExpired as error:
        raise errors.UploadNotFound() from error
    except errors.JobError as error:
        raise errors.InvalidRequest(error.detail, errors=[{"pointer": pointer, "detail": error.detail}]) from error
    return submit.Submission(
        owner=service.owner(),
        kind=JobKind.IMPORT,
        collection_id=collection.id,
        space_id=collection.space_id,
        params={
            "source": {"type": "upload", "upload_id": upload["upload_id"]},
            "on_conflict": body.on_conflict.value,
        },
        work={"source": work},
        upload_id=upload["upload_id"],
        callback_url=body.callback_url,
        idempotency_key=request.key,
        idempotency_digest=request.digest,
    )


def _target(session: Session, owner: str, name: str) -> tuple[tables.Collection, int]:
    collection = collections.get(session, owner, name)
    return collection, session.get_one(tables.Space, collection.space_id).dim
