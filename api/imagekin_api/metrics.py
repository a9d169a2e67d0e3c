"""Numbers for Prometheus: requests as they are answered, jobs and queues as SQL has them when asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast

import flask
import prometheus_client as prometheus
import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy.orm import Session

from imagekin import models
from imagekin.db import Database
from imagekin.types import ChunkStatus, JobStatus, Lane

EXTENSION = "imagekin_metrics"
# From a cached read to a held `Prefer: wait`.
BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Requests:
    """The requests of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.waiting = prometheus.Gauge(
            "imagekin_requests_waiting", "Requests held by `Prefer: wait`.", registry=self.registry
        )
        self._count = prometheus.Counter(
            "imagekin_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = prometheus.Histogram(
            "imagekin_request_seconds", "Time to an answer.", ("method", "route"),
            buckets=BUCKETS_S, registry=self.registry,
        )  # fmt: skip

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._count.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)


def register(app: flask.Flask) -> None:
    """Have the app count its requests."""
    requests = app.extensions[EXTENSION] = Requests()

    @app.before_request
    def _start() -> None:
        flask.g.started = time.perf_counter()

    @app.after_request
    def _note(answer: flask.Response) -> flask.Response:
        # by route, not by path: a label for each id would never end
        rule = flask.request.url_rule
        route, method = (rule.rule, flask.request.method) if rule else ("unknown", "any")
        requests.note(method, route, answer.status_code, time.perf_counter() - flask.g.started)
        return answer


def render(database: Database, waiting: int) -> tuple[bytes, str]:
    """Return the metrics in Prometheus's text format, and its content type; `waiting` requests are held now."""
    requests = cast(Requests, flask.current_app.extensions[EXTENSION])
    requests.waiting.set(waiting)
    text = prometheus.generate_latest(requests.registry) + prometheus.generate_latest(_Snapshot(database))
    return text, prometheus.CONTENT_TYPE_PLAIN_0_0_4


class _Snapshot(prometheus.CollectorRegistry):
    """What the database says now."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    def collect(self) -> Iterator[Metric]:
        jobs, chunks = self._database.read(_counts)
        gauge = GaugeMetricFamily("imagekin_jobs", "Jobs by status.", labels=["status"])
        for status in JobStatus:
            gauge.add_metric([status], jobs.get(status, 0))
        yield gauge
        gauge = GaugeMetricFamily("imagekin_queue_chunks", "Chunks to be done, by lane.", labels=["lane", "status"])
        for lane in Lane:
            for status in (ChunkStatus.READY, ChunkStatus.CLAIMED):
                gauge.add_metric([lane, status], chunks.get((lane, status), 0))
        yield gauge


def _counts(session: Session) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    by_status = sa.select(models.Job.status, sa.func.count()).group_by(models.Job.status)
    jobs = {status: count for status, count in session.execute(by_status)}  # noqa: C416 - rows are no pairs to pyright
    lane, status = models.Chunk.lane, models.Chunk.status
    # written out, not bound: only so does SQLite see that the partial index covers the query
    is_open = sa.text("chunks.status IN ('ready', 'claimed')")
    by_lane = sa.select(lane, status, sa.func.count()).where(is_open).group_by(lane, status)
    return jobs, {(lane, status): count for lane, status, count in session.execute(by_lane)}
