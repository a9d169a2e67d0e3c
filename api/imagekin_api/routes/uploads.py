"""Uploads: raw bytes for jobs to come."""

from __future__ import annotations

from typing import IO

import flask
from sqlalchemy.exc import DBAPIError
from werkzeug.http import parse_options_header

from imagekin import errors, schemas
from imagekin.database import tables
from imagekin.schemas import keys
from imagekin.uploads import rows
from imagekin_api.http import answers, multipart, problems
from imagekin_api.http.operations import Parameter, operation
from imagekin_api.routes import intake
from imagekin_api.wiring import service

blueprint = flask.Blueprint("uploads", __name__)

MAX_FILENAME_CHARS = 1024


@blueprint.post("/uploads")
@operation(
    "Upload a file",
    raw=True,
    returns=schemas.Upload,
    status=201,
    parameters=(
        Parameter(
            "filename",
            "The file's name: the key of a single image.",
            {"type": "string", "maxLength": MAX_FILENAME_CHARS},
        ),
    ),
    errors=(errors.TooLarge, errors.QuotaExceeded, errors.Unavailable),
)
def create() -> flask.Response:
    """Send the file itself as the body: a zip, tar or tar.gz, one image, or a manifest, detected by its content.

    It is kept while an unexpired job refers to it, otherwise for a day.
    """
    here = service.current()
    if multipart.is_multipart():
        raise problems.UnsupportedMediaType("Send the file itself as the body, without a form around it.")
    max_bytes = here.settings.max_upload_bytes
    if (flask.request.content_length or 0) > max_bytes:
        raise errors.TooLarge(f"The upload is larger than {max_bytes:,} bytes.")
    intake.check_room()
    filename = _filename()
    upload_id = tables.new_id()
    path = rows.path(upload_id)
    body = _Counted(flask.request.stream)
    stored = here.storage.write(path, body, max_bytes)
    try:
        if body.size == 0:
            detail = "The upload is empty; send the file as the body."
            raise errors.InvalidRequest(detail, errors=[{"pointer": "", "detail": detail}])
        here.database.write(rows.add, service.owner(), upload_id, stored, filename, here.settings, size=body.size)
    except DBAPIError:
        # the commit may have arrived and its answer not; bytes without a row are found by the doctor
        raise
    except BaseException:
        here.storage.delete(path)
        raise
    return answers.of(schemas.Upload(id=upload_id, sha256=stored.sha256, size=body.size), 201)


class _Counted:
    """A stream that counts the bytes read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.size = 0

    def read(self, size: int, /) -> bytes:
        piece = self._stream.read(size)
        self.size += len(piece)
        return piece


def _filename() -> str | None:
    # WSGI hands over the bytes of a header as Latin-1 (PEP 3333)
    header = flask.request.headers.get("Content-Disposition", "").encode("latin-1")
    _, options = parse_options_header(keys.of_bytes(header))
    name = flask.request.args.get("filename") or options.get("filename")
    if name is not None and (len(name) > MAX_FILENAME_CHARS or not name.isprintable()):
        detail = f"A file name has at most {MAX_FILENAME_CHARS} printable characters."
        raise errors.InvalidRequest(detail, errors=[{"pointer": "/filename", "in": "query", "detail": detail}])
    return name or None


@blueprint.delete("/uploads/<upload_id>")
@operation("Delete an upload", status=204, errors=(errors.UploadNotFound, errors.Conflict))
def delete(upload_id: str) -> flask.Response:
    """An upload that an unfinished job reads cannot be deleted."""
    here = service.current()
    path = here.database.write(rows.delete, service.owner(), upload_id)
    here.storage.delete(path)
    return answers.nothing()
