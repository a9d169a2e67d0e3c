"""Whether the process is alive, whether the service is ready, and its numbers for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import flask
import redis
import sqlalchemy as sa
from sqlalchemy import exc

from imagekin import errors, presence
from imagekin.database import engine
from imagekin.enums import Lane
from imagekin.store import blobs, indexes
from imagekin_api import metrics
from imagekin_api.http import auth, problems
from imagekin_api.wiring import service

blueprint = flask.Blueprint("health", __name__)

REDIS_TIMEOUT_S = 0.5
UNREACHABLE = "The database cannot be reached; check that it is running, and IMAGEKIN_DATABASE_URL."


class Unready(Exception):
    """A part of the service that is not ready; the text says what to do."""


@blueprint.get("/healthz")
@auth.public
def live() -> flask.Response:
    """Answer that the process is alive, without looking at anything else."""
    return flask.jsonify(status="ok")


@blueprint.get("/readyz")
@auth.public
def ready() -> flask.Response:
    """Answer 200, or 503 if something is missing; what it is, is shown to requests with a key or from this machine."""
    trusted = _trusted()
    found = _examine()
    missing = [name for name, reason in found.items() if reason is not None]
    members: dict[str, Any] = {"ready": not missing}
    if trusted:
        members["checks"] = {
            name: {"ready": reason is None, "detail": reason or "ok"} for name, reason in found.items()
        }
        if "migrations" not in missing and "database" not in missing:
            # searches are right without them, so they make nothing unready
            members["checks"]["indexes"] = {"ready": True, "detail": _indexes()}
    if not missing:
        return flask.jsonify(members)
    detail = f"Not ready: {', '.join(missing)}." if trusted else "The service is not ready."
    answer = problems.response(503, errors.NotReady.code, detail, **members)
    answer.headers["Retry-After"] = str(problems.UNAVAILABLE_RETRY_AFTER_S)
    return answer


def _trusted() -> bool:
    try:
        return auth.trusted()
    except exc.SQLAlchemyError:
        # a key cannot be looked up in a database that is away; the answer says so without the details
        return False


def _examine() -> dict[str, str | None]:
    """Return what is wrong with each part, None if nothing is."""
    found = {name: _reason(check) for name, check in CHECKS.items()}
    for name, check in CHECKS_OF_DATABASE.items():
        cause = next((part for part in ("database", "migrations") if found.get(part) is not None), None)
        found[name] = _reason(check) if cause is None else f"Not known until `{cause}` is ready."
    return found


def _reason(check: Callable[[], None]) -> str | None:
    try:
        check()
    except Unready as error:
        return str(error)
    except (errors.NotReady, errors.Unavailable) as error:
        return error.detail
    except exc.SQLAlchemyError:
        return UNREACHABLE
    return None


def _database() -> None:
    service.current().database.read(lambda session: session.execute(sa.select(sa.literal(1))))


def _migrations() -> None:
    engine.wait_until_migrated(service.current().database, 0)


def _redis() -> None:
    url = service.current().settings.redis_url
    limits = {"socket_timeout": REDIS_TIMEOUT_S, "socket_connect_timeout": REDIS_TIMEOUT_S}
    try:
        with redis.Redis.from_url(url, **limits) as connection:
            connection.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        raise Unready(
            f"Redis does not answer ({type(error).__name__}); check that it is running, and IMAGEKIN_REDIS_URL. "
            "Meanwhile jobs are accepted, but they start late."
        ) from error


def _storage() -> None:
    name = f"ready/{os.getpid()}"
    try:
        service.current().storage.write(name, [b"ready"], max_bytes=5)
        service.current().storage.delete(name)
    except errors.Unavailable as error:
        raise Unready(f"Uploads cannot be written: {error.detail} See IMAGEKIN_STORAGE_URL.") from error


def _blobs() -> None:
    storage = blobs.writable(service.current().database)
    try:
        if storage is not None:
            storage.try_out()
    except errors.Unavailable as error:
        raise Unready(f"Vectors and thumbnails cannot be written: {error.detail}") from error


def _indexes() -> str:
    try:
        return service.current().database.read(indexes.told)
    except exc.SQLAlchemyError:
        return UNREACHABLE


def _worker(lane: Lane) -> Callable[[], None]:
    def check() -> None:
        if not service.current().database.read(presence.count, lane):
            raise Unready(
                f"No {lane} worker has reported in the last {presence.LIVE_S} s; "
                f"start one: `imagekin worker --lane {lane}`."
            )

    return check


CHECKS: dict[str, Callable[[], None]] = {"database": _database, "redis": _redis, "storage": _storage, "blobs": _blobs}
# in this order: each is asked for only where those before the workers' are fine
CHECKS_OF_DATABASE: dict[str, Callable[[], None]] = {
    "migrations": _migrations,
    **{f"worker_{lane}": _worker(lane) for lane in Lane},
}


@blueprint.get("/metrics")
@auth.public
def show_metrics() -> flask.Response:
    """Answer in Prometheus's text format; raises Unauthorized unless the request has a key or is local."""
    if not auth.trusted():
        raise errors.Unauthorized()
    here = service.current()
    text, content_type = metrics.render(here.database, here.watcher.waiting)
    return flask.Response(text, content_type=content_type)
