"""Accepting a job: what all job requests share, from the upload that they carry to the ring after the commit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import flask
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from imagekin import errors, schemas
from imagekin.database import tables
from imagekin.jobs import submit, view
from imagekin.jobs.submit import lane
from imagekin.net import webhooks
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from imagekin.store import collections
from imagekin.uploads import rows
from imagekin.uploads.files import Readable, Stored
from imagekin_api.http import answers, bodies, idempotency, multipart
from imagekin_api.http.idempotency import Idempotency
from imagekin_api.wiring import service

# A module of routes for each kind of job adds its address.
blueprint = flask.Blueprint("submissions", __name__)

REFUSED = (errors.IdempotencyMismatch, errors.CollectionNotFound, errors.QuotaExceeded, errors.Backlog)
JSON_OR_FORM = "Send JSON or multipart/form-data."

Parts = list[tuple[str, str | None, str]]


@dataclass
class Form:
    """The text fields of a multipart request, and all of its parts in order."""

    fields: dict[str, Any] = field(default_factory=dict)
    parts: Parts = field(default_factory=list)
    size: int = 0

    def take(self, part: multipart.Part) -> None:
        """Read a text field; raises InvalidRequest for a file or a repeated field, and TooLarge."""
        if part.filename is not None:
            raise multipart.invalid(part.field, "This form does not accept a file in that field.")
        if part.field in self.fields:
            raise multipart.invalid(part.field, "The field was sent twice.")
        self.fields[part.field] = part.text()
        self.size += len(part.field.encode()) + part.size
        if self.size > multipart.MAX_FIELDS_BYTES:
            raise errors.TooLarge(f"The form's fields are larger than {multipart.MAX_FIELDS_BYTES:,} bytes.")

    def note(self, part: multipart.Part) -> None:
        """Record a part that was read, for the idempotency digest."""
        self.parts.append((part.field, part.filename, part.sha256))


@dataclass
class Enclosure:
    """A file that was sent with a job request: stored at once, kept if the job is new."""

    id: str
    filename: str | None
    stored: Stored | None = None
    kept: bool = False

    @property
    def path(self) -> str:
        """The file's name in the storage."""
        return rows.path(self.id)

    def store(self, stream: Readable | IO[bytes], max_bytes: int) -> None:
        """Store the file's bytes; raises TooLarge, QuotaExceeded and Unavailable."""
        check_room()
        self.stored = service.current().storage.write(self.path, stream, max_bytes)

    def work(self) -> dict[str, str | None]:
        """Return where a worker finds the file."""
        return {"upload_id": self.id, "path": self.path, "filename": self.filename}


@contextlib.contextmanager
def enclosure(filename: str | None = None) -> Iterator[Enclosure]:
    """Yield an enclosure whose bytes are removed at the end, unless a new job took it."""
    enclosed = Enclosure(tables.new_id(), filename)
    try:
        yield enclosed
    finally:
        if enclosed.stored is not None and not enclosed.kept:
            service.current().storage.delete(enclosed.path)


def check_room() -> None:
    """Raise QuotaExceeded, before anything is read, if the request does not fit into its owner's quota."""
    here = service.current()
    here.database.read(rows.check_room, service.owner(), flask.request.content_length or 1, here.settings)


def known(request: Idempotency) -> flask.Response | None:
    """Answer with the job that the same request created earlier; raises IdempotencyMismatch."""
    if request.key is None:
        return None
    job = service.current().database.read(_known, service.owner(), request)
    return None if job is None else answers.accepted(job)


def _known(session: Session, owner: str, request: Idempotency) -> schemas.Job | None:
    job = submit.find_idempotent(session, owner, request.key, request.digest)
    return None if job is None else view.view(session, job)


def accept(submission: submit.Submission, enclosed: Enclosure | None = None) -> flask.Response:
    """Write the job with its enclosure, ring, and answer 202."""
    here = service.current()
    try:
        job, new = here.database.write(_submit, submission, enclosed, here.settings)
    except DBAPIError:
        # the commit may have arrived and its answer not; bytes without a row are found by the doctor
        if enclosed is not None:
            enclosed.kept = True
        raise
    if new:
        if enclosed is not None:
            enclosed.kept = True
        here.doorbell.ring(lane(job.kind))
    return answers.accepted(job)


def _submit(
    session: Session, submission: submit.Submission, enclosed: Enclosure | None, settings: Settings
) -> tuple[schemas.Job, bool]:
    job, new = submit.submit(session, submission, settings)
    if new and enclosed is not None and enclosed.stored is not None:
        rows.add(session, submission.owner, enclosed.id, enclosed.stored, enclosed.filename, settings)
    elif new and submission.upload_id is not None:
        rows.get(session, submission.owner, submission.upload_id, lock=True)
    return view.view(session, job), new


def on_collection(kind: JobKind, model: type[schemas.JobBody], purpose: str) -> flask.Response:
    """Accept a job on a collection with images; what its body says beside that are its parameters.

    `purpose` ends the sentence that refuses an empty collection. Raises InvalidRequest and what REFUSED names.
    """
    data = bodies.read_json()
    body = bodies.parse(model, data)
    check_callback(body.callback_url)
    request = Idempotency.of_json(data)
    if (answer := known(request)) is not None:
        return answer
    collection = service.current().database.read(collections.get, service.owner(), body.collection)
    if not collection.image_count:
        raise invalid("/collection", f"The collection has no images to {purpose}.")
    params = body.model_dump(mode="json", exclude={"collection", "callback_url"})
    return accept(submission(kind, collection, params, {}, request, body.callback_url))


def check_callback(url: str | None) -> None:
    """Raise InvalidRequest for a callback address that webhooks are not sent to."""
    if url is None:
        return
    try:
        webhooks.check(url, service.current().settings)
    except errors.InvalidRequest as error:
        pointer = {"pointer": "/callback_url", "detail": error.detail}
        raise errors.InvalidRequest(f"callback_url: {error.detail}", errors=[pointer]) from error


def upload_work(session: Session, owner: str, upload_id: str) -> dict[str, Any]:
    """Return an upload as workers need it; raises UploadNotFound."""
    try:
        upload = rows.get(session, owner, upload_id)
    except errors.UploadNotFound:
        # a repeated request is the same one also when its upload was deleted since
        if (key := idempotency.read_key()) is None:
            raise
        earlier = sa.select(tables.Job).filter_by(owner=owner, idempotency_key=key, upload_id=upload_id)
        if (job := session.scalar(earlier)) is None or "sha256" not in job.work.get("source", {}):
            raise
        return job.work["source"]
    return {
        "type": "upload",
        "upload_id": upload.id,
        "path": upload.path,
        "filename": upload.filename,
        "sha256": upload.sha256,
    }


def submission(
    kind: JobKind,
    collection: tables.Collection,
    params: dict[str, Any],
    work: dict[str, Any],
    request: Idempotency,
    callback_url: str | None,
    upload_id: str | None = None,
) -> submit.Submission:
    """Build what a client asks for: `params` is what it sees again, `work` what a worker needs beside it."""
    return submit.Submission(
        owner=service.owner(),
        kind=kind,
        collection_id=collection.id,
        space_id=collection.space_id,
        params=params,
        work=work,
        upload_id=upload_id,
        callback_url=callback_url,
        idempotency_key=request.key,
        idempotency_digest=request.digest,
    )


def invalid(pointer: str, detail: str) -> errors.InvalidRequest:
    """Return the error of one field of a body."""
    return errors.InvalidRequest(detail, errors=[{"pointer": pointer, "detail": detail}])
