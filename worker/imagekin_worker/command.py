"""`imagekin worker`: a Celery worker of one lane."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from imagekin import db, errors, telemetry
from imagekin.config import Settings
from imagekin.types import Lane

LANE_VARIABLE = "IMAGEKIN_LANE"


def worker(
    lane: Annotated[Lane, typer.Option(help="`interactive`: searches; `bulk`: archives and clusterings.")],
    concurrency: Annotated[int, typer.Option(min=1, help="Processes, each with its own model; one per GPU.")] = 1,
) -> None:
    """Run a worker of one lane until it is told to stop; a machine has one for each lane."""
    settings = Settings()
    telemetry.configure(settings)
    database = db.Database(settings.database)
    try:
        db.wait_until_migrated(database, settings.wait_for_database_s)
    except errors.NotReady as error:
        typer.echo(f"imagekin worker: {error.detail}", err=True)
        raise typer.Exit(1) from error
    finally:
        database.dispose()
    # spawned children learn it from the environment, as they learn everything else
    os.environ[LANE_VARIABLE] = lane.value
    from imagekin_worker.app import app

    app.worker_main(
        [
            "worker",
            f"--queues={lane.value}",
            f"--hostname={lane.value}.{os.getpid()}@%h",
            f"--concurrency={concurrency}",
            f"--loglevel={settings.log_level}",
            "--without-mingle",
            "--without-gossip",
        ]
    )
