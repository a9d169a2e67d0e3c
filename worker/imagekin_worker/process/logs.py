"""Redirects what Celery and billiard write past our logs, or silences it."""

from __future__ import annotations

import logging
import os

from billiard import util
from celery.apps import worker
from celery.signals import celeryd_after_setup, setup_logging

from imagekin.settings import Settings
from imagekin.telemetry import logs


@setup_logging.connect
def configure(**_: object) -> None:
    """Set up our logs in each process, so that Celery does not set up its own."""
    settings = Settings()
    logs.configure(settings)
    # the deaths of children, which without a handler would come out as bare text
    deaths = util.get_logger()
    deaths.handlers.clear()
    deaths.propagate = True
    deaths.setLevel(logging.DEBUG if settings.log_level == "debug" else logging.WARNING)


@celeryd_after_setup.connect
def silence(**_: object) -> None:
    """Keep plain text out of the log lines; called in the parent before it starts children."""
    # with it, billiard gives a child a handler of its own until ours is there
    os.environ.pop("_MP_FORK_LOGLEVEL_", None)
    worker.safe_say = _say


def _say(message: str, *_: object) -> None:
    """Write nothing: this runs in a signal handler, where logging is not allowed."""
