"""Whether the process lives, whether the service is ready, and its numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask
import redis
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.orm import Session

from imagekin import db, errors, models
from imagekin.types import Lane
from imagekin_api import auth, metrics, problems, service

blueprint = flask.Blueprint("health", __name__)

HEARTBEAT_S = 10
# A worker that was heard of within three heartbeats lives.
LIVE_S = 3 * HEARTBEAT_S
REDIS_TIMEOUT_S = 0.5


class Unready(Exception):
    """A part of the service that is not ready; the text says what to do."""


@blueprint.get("/healthz")
@auth.public
def live() -> flask.Response:
    """Answer that the process lives, whatever the rest does."""
    return flask.jsonify(status="ok")


@blueprint.get("/readyz")
@auth.public
def ready() -> flask.Response:
    """Answer 200, or 503 where something is missing; what it is stands there for a key, or on this machine."""
    trusted = _trusted()
    found = {name: _reason(check) for name, check in CHECKS.items()}
    missing = [name for name, reason in found.items() if reason is not None]
    members: dict[str, Any] = {"ready": not missing}
    if trusted:
        members["checks"] = {
            name: {"ready": reason is None, "detail": reason or "ok"} for name, reason in found.items()
        }
    if not missing:
        return flask.jsonify(members)
    detail = f"Not ready: {', '.join(missing)}." if trusted else "The service is not ready."
    answer = problems.response(503, errors.NotReady.code, detail, **members)
    answer.headers["Retry-After"] = str(problems.RETRY_AFTER_S)
    return answer


def _trusted() -> bool:
    try:
        return auth.trusted()
    except exc.SQLAlchemyError:
        # a key cannot be looked up in a database that is away; the answer says so without the details
        return False


def _reason(check: Callable[[], None]) -> str | None:
    try:
        check()
    except Unready as error:
        return str(error)
    except errors.NotReady as error:
        return error.detail
    except exc.SQLAlchemyError:
        return "The database cannot be reached."
    return None


def _database() -> None:
    service.current().database.read(lambda session: session.execute(sa.select(sa.literal(1))))


def _migrations() -> None:
    db.wait_until_migrated(service.current().database, 0)


def _redis() -> None:
    url = service.current().settings.redis_url
    limits = {"socket_timeout": REDIS_TIMEOUT_S, "socket_connect_timeout": REDIS_TIMEOUT_S}
    try:
        with redis.Redis.from_url(url, **limits) as connection:
            connection.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        raise Unready(f"Redis does not answer: {type(error).__name__}. Jobs are taken in, and start late.") from error


def _worker(lane: Lane) -> Callable[[], None]:
    def check() -> None:
        if not service.current().database.read(_alive, lane):
            raise Unready(f"No {lane} worker was heard of in the last {LIVE_S} s; start one.")

    return check


def _alive(session: Session, lane: Lane) -> bool:
    live = sa.select(models.Worker.name).where(
        models.Worker.lane == lane.value, models.Worker.seen_at > db.clock() - LIVE_S
    )
    return session.scalar(live.limit(1)) is not None


CHECKS: dict[str, Callable[[], None]] = {
    "database": _database,
    "migrations": _migrations,
    "redis": _redis,
    **{f"worker_{lane}": _worker(lane) for lane in Lane},
}


@blueprint.get("/metrics")
@auth.public
def show_metrics() -> flask.Response:
    """Answer in Prometheus's text format, to a key or this machine."""
    if not auth.trusted():
        raise errors.Unauthorized()
    here = service.current()
    text, content_type = metrics.render(here.database, here.watcher.waiting)
    return flask.Response(text, content_type=content_type)
