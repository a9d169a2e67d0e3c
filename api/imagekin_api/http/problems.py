"""Errors as `application/problem+json` (RFC 9457), all of them, from imagekin and from the libraries."""

from __future__ import annotations

from typing import Any

import flask
import structlog
from pydantic import ValidationError
from sqlalchemy import exc
from werkzeug.exceptions import HTTPException

from imagekin import errors
from imagekin.database import engine

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
UNAVAILABLE_RETRY_AFTER_S = 5
# What is read of a body that nobody wants, so that the client gets to read the answer instead of a broken pipe.
MAX_DRAINED_BYTES = 64 << 20
# Past these, no client reads them one by one.
MOST_FAULTS = 1_000
_DRAIN_PIECE_BYTES = 1 << 20
# The names that the contract has for them; the others go by their HTTP names.
_CODES = {413: errors.TooLarge.code, 500: errors.ImagekinError.code, 503: errors.Unavailable.code}
# pydantic speaks of Python's types.
_AS_JSON: dict[str, str] = {
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "Input should be an object"),
    "list_type": "Input should be an array",
}


class UnsupportedMediaType(errors.ImagekinError):
    """This address does not accept the body's Content-Type."""

    code = "unsupported_media_type"
    http_status = 415


class RequestTimeout(errors.ImagekinError):
    """The body arrived too slowly: send at least 1 KiB a second, without pauses of 30 seconds."""

    code = "request_timeout"
    http_status = 408


class MethodNotAllowed(errors.ImagekinError):
    """This address does not accept that method; `Allow` lists the methods that it accepts."""

    code = "method_not_allowed"
    http_status = 405


def response(
    status: int, code: str, detail: str, *, pointers: list[dict[str, Any]] | None = None, **members: Any
) -> flask.Response:
    """Build the answer; `type` links to the code's description in the documentation."""
    body = {
        "type": f"/docs#{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
        **members,
    }
    if pointers:
        body["errors"] = pointers
    answer = flask.Response(flask.json.dumps(body), status, mimetype=MEDIA_TYPE)
    if status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def of_error(error: errors.ImagekinError) -> flask.Response:
    """Answer with an error of the tree; the details of an internal error stay in the log."""
    if error.http_status == 500:
        log.error("request_failed", exc_info=error)
        return response(500, errors.ImagekinError.code, errors.ImagekinError().detail)
    answer = response(error.http_status, error.code, error.detail, pointers=error.errors)
    if error.http_status in (429, 503):
        answer.headers["Retry-After"] = str(error.retry_after_s or UNAVAILABLE_RETRY_AFTER_S)
    return answer


def invalid(error: ValidationError, data: Any) -> errors.InvalidRequest:
    """Return an InvalidRequest with a JSON pointer for each field in which pydantic found an error in `data`."""
    if (count := error.error_count()) > MOST_FAULTS:
        raise errors.InvalidRequest(f"The request is not valid: it has {count:,} faults.")
    # each once, as the members of a union find the same faults
    found = dict.fromkeys(
        (pointer(_location(each), data), _AS_JSON.get(each["type"], each["msg"]))
        for each in _nearest(error.errors(include_url=False, include_context=False, include_input=False), data)
    )
    pointers = [{"pointer": at, "detail": detail} for at, detail in found]
    first = pointers[0]
    return errors.InvalidRequest(
        f"The request is not valid: {first['pointer'] or 'the body'}: {first['detail']}.", errors=pointers
    )


def _location(found: Any) -> tuple[int | str, ...]:
    """Return where pydantic found an error; for a union discriminated by `type`, pydantic names only the union."""
    return (*found["loc"], "type") if found["type"].startswith("union_tag_") else found["loc"]


def pointer(location: tuple[int | str, ...], data: Any) -> str:
    """Return pydantic's location as a JSON pointer (RFC 6901) into `data`, without the names of union members."""
    parts: list[str] = []
    for at, part in enumerate(location):
        last = at == len(location) - 1
        if isinstance(part, str) and isinstance(data, dict) and (part in data or last):
            data = data.get(part)
        elif isinstance(part, int) and isinstance(data, list):
            data = data[part] if part < len(data) else None
        elif not (last and data is None):
            continue
        parts.append(str(part).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{part}" for part in parts)


def _nearest(found: list[Any], data: Any) -> list[Any]:
    """Keep, of a union's errors, those of the member that the request matches best."""
    by_member: dict[str | None, list[Any]] = {}
    for each in found:
        member = next((part for part in each["loc"] if isinstance(part, str) and part[:1].isupper()), None)
        by_member.setdefault(member, []).append(each)
    plain = by_member.pop(None, [])
    if not by_member:
        return plain
    fewest = min(len(group) for group in by_member.values())
    nearest = [each for group in by_member.values() if len(group) == fewest for each in group]
    return plain + nearest


def register(app: flask.Flask) -> None:
    """Make the app answer every error as a problem."""

    @app.errorhandler(errors.ImagekinError)
    def _known(error: errors.ImagekinError) -> flask.Response:
        return of_error(error)

    @app.errorhandler(HTTPException)
    def _http(error: HTTPException) -> flask.Response | HTTPException:
        status = error.code or 500
        if status < 400:  # a redirect
            return error
        if status == 404:
            return of_error(errors.NotFound())
        code = _CODES.get(status, error.name.lower().replace(" ", "_"))
        detail = MethodNotAllowed().detail if status == 405 else error.description or error.name
        answer = response(status, code, detail)
        for name, value in error.get_headers():
            if name not in ("Content-Type", "Content-Length"):
                answer.headers[name] = value
        return answer

    @app.errorhandler(exc.OperationalError)
    @app.errorhandler(exc.InterfaceError)
    @app.errorhandler(exc.TimeoutError)
    def _database(error: exc.SQLAlchemyError) -> flask.Response:
        log.error("database_unavailable", exc_info=error)
        return of_error(errors.Unavailable("The database cannot be reached at the moment; try again later."))

    @app.errorhandler(Exception)
    def _unexpected(error: Exception) -> flask.Response:
        log.error("request_failed", exc_info=error)
        return response(500, errors.ImagekinError.code, errors.ImagekinError().detail)

    @app.errorhandler(exc.ProgrammingError)
    def _unmigrated(error: exc.ProgrammingError) -> flask.Response:
        return _database(error) if engine.lacks_tables(error) else _unexpected(error)

    @app.after_request
    def _drain(answer: flask.Response) -> flask.Response:
        if answer.status_code >= 400 and flask.request.method in ("POST", "PUT", "PATCH"):
            _drain_body()
        return answer


def _drain_body() -> None:
    stream, left = flask.request.stream, MAX_DRAINED_BYTES
    if (flask.request.content_length or 0) > MAX_DRAINED_BYTES:
        return
    try:
        while left > 0 and (piece := stream.read(_DRAIN_PIECE_BYTES)):
            left -= len(piece)
    except (OSError, HTTPException, ValueError):  # the client is gone: so nobody reads the answer
        return
