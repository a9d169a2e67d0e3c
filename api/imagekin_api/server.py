"""The production server: gunicorn, one process, a pool of threads."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from gunicorn import glogging
from gunicorn.app.base import BaseApplication

from imagekin import errors
from imagekin.database import engine
from imagekin.database.engine import Database
from imagekin.settings import Settings
from imagekin.telemetry import logs
from imagekin_api.app import create_app
from imagekin_api.wiring import service
from imagekin_api.wiring.service import Service

GRACE_S = 20
KEEP_ALIVE_S = 5
# More may wait in the kernel than there are threads: a burst is queued, not refused.
BACKLOG = 512
SHARED_MEMORY = Path("/dev/shm")


def serve(settings: Settings) -> None:
    """Wait for a migrated database, then serve until a signal ends it.

    Raises NotReady where the database stays away, and InvalidRequest for settings that cannot be served.
    """
    logs.configure(settings)
    check(settings)
    database = Database(settings.database)
    try:
        engine.wait_until_migrated(database, settings.wait_for_database_s)
    finally:
        # gunicorn forks, and a connection must not be shared
        database.dispose()
    Server(settings).run()


def check(settings: Settings) -> None:
    """Raise InvalidRequest for an address that cannot be served."""
    if settings.port == 0:
        raise errors.InvalidRequest("IMAGEKIN_PORT must name a port; 0 is none.")
    settings.check_host()


class Log(glogging.Logger):
    """Gunicorn's messages, sent where all others go."""

    def setup(self, cfg: Any) -> None:
        """Leave level, format and place to the root logger."""
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(logging.NOTSET)


class Server(BaseApplication):
    """Gunicorn, configured from the settings and nothing else."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Set what differs from gunicorn's own."""
        for name, value in self._options().items():
            self.cfg.set(name, value)

    def _options(self) -> dict[str, Any]:
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return {
            "bind": f"{host}:{self.settings.port}",
            "worker_class": "gthread",
            "workers": 1,
            "threads": self.settings.api_threads,
            "backlog": BACKLOG,
            "keepalive": KEEP_ALIVE_S,
            "graceful_timeout": GRACE_S,
            "proc_name": "imagekin-api",
            # the heartbeat file on a disk can block
            "worker_tmp_dir": str(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None,
            # a header must not make a request look like another
            "forwarded_allow_ips": "",
            "control_socket_disable": True,
            "logger_class": Log,
            "post_worker_init": _answer_waiting_on_stop,
            "worker_exit": _close,
        }

    def load(self) -> Any:
        """Build the app, in the process that serves it."""
        return create_app(self.settings)


def _service(worker: Any) -> Service:
    return worker.wsgi.extensions[service.EXTENSION]


def _answer_waiting_on_stop(worker: Any) -> None:
    """Have held requests answered at SIGTERM: gunicorn waits for them, and they for their jobs."""
    watcher, before = _service(worker).watcher, signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        watcher.stop_waiting()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, stop)


def _close(_arbiter: Any, worker: Any) -> None:
    if getattr(worker, "wsgi", None) is not None:
        _service(worker).close()
