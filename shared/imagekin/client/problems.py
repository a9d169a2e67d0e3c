"""The service's errors as exceptions: `imagekin.errors` by their code, and what only a client can meet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx2

from imagekin import errors, schemas
from imagekin.net import retry_after


class Unreachable(errors.Unavailable):
    """The server could not be reached, or the connection to it broke."""

    code = "unreachable"


class UnreadableAnswer(errors.ImagekinError):
    """The answer is not one of imagekin's; is another server listening at this address?"""

    code = "unreadable_answer"
    http_status = 502


class WaitTimeout(errors.ImagekinError, TimeoutError):
    """The job is not finished yet; it continues, so wait again or look at it later."""

    code = "wait_timeout"
    http_status = 504
    retryable = True


def from_response(response: httpx2.Response) -> errors.ImagekinError:
    """Turn an error response, already read, into the exception of its `code`; an unknown code keeps its status."""
    problem = _problem(response)
    code, detail = problem.get("code"), problem.get("detail")
    if not isinstance(detail, str) or not detail:
        detail = f"The server answered {response.status_code} {response.reason_phrase}.".replace(" .", ".")
    known = _request_errors().get(code) if isinstance(code, str) else None
    kind = known or _unknown(errors.ImagekinError, code, response.status_code)
    pointers = problem.get("errors")
    return kind(
        detail,
        errors=pointers if isinstance(pointers, list) else None,
        retry_after_s=retry_after.seconds(response.headers.get("retry-after", "")),
    )


def from_job(error: schemas.Error) -> errors.ImagekinError:
    """Turn the error that ended a job into the exception of its `code`."""
    kind = _job_errors().get(error.code) or _unknown(errors.JobError, error.code, errors.JobError.http_status)
    return kind(error.detail)


def _problem(response: httpx2.Response) -> dict[str, Any]:
    try:
        problem = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return problem if isinstance(problem, dict) else {}


def _unknown(base: type[errors.ImagekinError], code: object, status: int) -> type[errors.ImagekinError]:
    named = code if isinstance(code, str) and code else "http_error"
    return type(
        base.__name__, (base,), {"code": named, "http_status": status, "retryable": status in (429, 502, 503, 504)}
    )


@cache
def _request_errors() -> dict[str, type[errors.ImagekinError]]:
    # Errors of jobs and items share some codes with errors of requests, and never answer a request.
    return {kind.code: kind for kind in _family(errors.ImagekinError, without=(errors.JobError, errors.ItemError))}


@cache
def _job_errors() -> dict[str, type[errors.ImagekinError]]:
    # A job of one picture, a search, fails with that picture's error.
    families = (*_family(errors.ItemError), *_family(errors.JobError))
    return {kind.code: kind for kind in families}


def _family(
    kind: type[errors.ImagekinError], without: tuple[type[errors.ImagekinError], ...] = ()
) -> Iterator[type[errors.ImagekinError]]:
    yield kind
    for child in kind.__subclasses__():
        if child not in without and child.__module__ == errors.__name__:
            yield from _family(child, without)
