"""Numbers for Prometheus: requests as they are answered; jobs and queues as SQL has them at each scrape."""

from __future__ import annotations

import re
import time
from typing import cast

import flask
import prometheus_client as prometheus
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import presence
from imagekin.database import sql, tables
from imagekin.database.engine import Database
from imagekin.enums import UNFINISHED, ChunkStatus, JobStatus, Lane
from imagekin.jobs import view
from imagekin.telemetry.metrics import JOBS, Requests, Snapshot

EXTENSION = "imagekin_metrics"
_CONVERTER = re.compile(r"<\w+:")
# Counting a million chunks would take a quarter of a second at every scrape.
MOST_COUNTED = 100_000


def register(app: flask.Flask) -> None:
    """Make the app count its requests."""
    requests = app.extensions[EXTENSION] = Requests()

    @app.before_request
    def _start() -> None:
        flask.g.started = time.perf_counter()

    @app.after_request
    def _note(answer: flask.Response) -> flask.Response:
        # by route, not by path: a label for each id would never end
        rule = flask.request.url_rule
        route, method = (_CONVERTER.sub("<", rule.rule), flask.request.method) if rule else ("unknown", "any")
        requests.count.labels(method, route, str(answer.status_code)).inc()
        requests.seconds.labels(method, route).observe(time.perf_counter() - flask.g.started)
        return answer


def render(database: Database, waiting: int) -> tuple[bytes, str]:
    """Return the metrics in Prometheus's text format, and its content type; `waiting` counts the requests held now."""
    requests = cast(Requests, flask.current_app.extensions[EXTENSION])
    requests.waiting.set(waiting)
    registries = (requests.registry, JOBS.registry, database.read(_snapshot).registry)
    return b"".join(map(prometheus.generate_latest, registries)), prometheus.CONTENT_TYPE_PLAIN_0_0_4


def _snapshot(session: Session) -> Snapshot:
    snapshot = Snapshot()
    by_status = sa.select(tables.Job.status, sa.func.count()).group_by(tables.Job.status)
    counts = {status: count for status, count in session.execute(by_status)}  # noqa: C416 - rows are no pairs to pyright
    for status in JobStatus:
        snapshot.jobs.labels(status).set(counts.get(status, 0))
    snapshot.queue_images.set(session.scalars(_images_left()).one())
    clock = session.scalars(sa.select(sql.clock())).one()
    for lane in Lane:
        claimed = session.scalars(_claimed(lane)).one()
        # of those that are counted, some are claimed; a count beyond the limit is one anyway
        ready = session.scalars(_open(lane)).one() - claimed
        snapshot.queue_chunks.labels(lane, ChunkStatus.CLAIMED).set(claimed)
        snapshot.queue_chunks.labels(lane, ChunkStatus.READY).set(min(ready, MOST_COUNTED))
        oldest = session.scalar(_oldest(lane))
        snapshot.queue_age.labels(lane).set(0 if oldest is None else max(0.0, clock - oldest))
        snapshot.workers.labels(lane).set(presence.count(session, lane))
    return snapshot


def _images_left() -> sa.Select[int]:
    left = tables.Job.total - view.done(tables.Job)  # type: ignore[arg-type] - of columns as of a row
    return sa.select(sa.func.coalesce(sa.func.sum(left), 0)).where(_unfinished())


def _unfinished() -> sa.ColumnElement[bool]:
    return tables.Job.status.in_(UNFINISHED)


def _claimed(lane: Lane) -> sa.Select[int]:
    return sa.select(sa.func.count()).select_from(tables.Chunk).where(tables.CLAIMED_CHUNK, tables.Chunk.lane == lane)


def _open(lane: Lane) -> sa.Select[int]:
    # as many more as workers can hold, so that the limit is one of ready chunks
    some = sa.select(tables.Chunk.lane).where(tables.OPEN_CHUNK, tables.Chunk.lane == lane).limit(MOST_COUNTED + 10_000)
    return sa.select(sa.func.count()).select_from(some.subquery())


def _oldest(lane: Lane) -> sa.Select[float]:
    """Find the submission time of the oldest job that has a ready chunk, with one lookup for each job in order."""
    Job, Chunk = tables.Job, tables.Chunk
    waits = sa.exists().where(
        tables.OPEN_CHUNK,
        Chunk.lane == lane,
        Chunk.owner == Job.owner,
        Chunk.job_id == Job.id,
        Chunk.status == ChunkStatus.READY,
    )
    return sa.select(Job.created_at).where(_unfinished(), waits).order_by(Job.id).limit(1)
