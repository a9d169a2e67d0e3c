"""`imagekin worker`: a Celery worker of one lane."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from imagekin import errors, presence
from imagekin.database import engine
from imagekin.enums import Lane
from imagekin.settings import Settings
from imagekin.telemetry import logs
from imagekin_worker.process import LANE_VARIABLE

# prometheus_client's own; it looks there once, when it is first imported
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def worker(
    lane: Annotated[Lane, typer.Option(help="`interactive`: searches; `bulk`: archives and clusterings.")],
    concurrency: Annotated[int, typer.Option(min=1, help="Processes, each with its own model; use one per GPU.")] = 1,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of /metrics, 0: off; default IMAGEKIN_METRICS_PORT.")
    ] = None,
) -> None:
    """Run a worker of one lane until it is told to stop; run one for each lane."""
    settings = Settings()
    logs.configure(settings)
    port = settings.metrics_port if metrics_port is None else metrics_port
    try:
        _wait_for_database(settings)
        with _exported(lane, settings.metrics_host, port):
            _run(lane, concurrency, settings.log_level)
    except errors.NotReady as error:
        typer.echo(f"imagekin worker: {error.detail}", err=True)
        raise typer.Exit(1) from error


def _wait_for_database(settings: Settings) -> None:
    database = engine.Database(settings.database)
    try:
        engine.wait_until_migrated(database, settings.wait_for_database_s)
    finally:
        database.dispose()


@contextmanager
def _exported(lane: Lane, host: str, port: int) -> Iterator[None]:
    """Serve the metrics of the processes that the block starts; not on port 0."""
    if port == 0:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="imagekin-metrics-", ignore_cleanup_errors=True) as folder:
        os.environ[METRICS_VARIABLE] = folder
        from imagekin_worker.process.metrics_server import Exporter

        with Exporter(Path(folder), lane, host, port):
            yield


def _run(lane: Lane, concurrency: int, log_level: str) -> None:
    # spawned children learn it from the environment, as they learn everything else
    os.environ[LANE_VARIABLE] = lane.value
    # it is about pickle, which nothing here accepts
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
    from imagekin_worker.process.app import app

    app.worker_main(
        [
            # no banner among the log lines
            "--quiet",
            "worker",
            f"--queues={lane.value}",
            f"--hostname={presence.name(lane, os.getpid())}",
            f"--concurrency={concurrency}",
            f"--loglevel={log_level}",
            "--without-mingle",
            "--without-gossip",
        ]
    )
