"""The production server: granian's HTTP in front of the app's threads, in one process watched by a parent."""

from __future__ import annotations

import resource
import signal
from functools import partial
from types import FrameType

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings

from imagekin import errors
from imagekin.database import engine
from imagekin.database.engine import Database
from imagekin.settings import Settings
from imagekin.stack import port
from imagekin.telemetry import logs
from imagekin_api.app import create_app
from imagekin_api.front.application import Front
from imagekin_api.wiring import service
from imagekin_api.wiring.service import Service

GRACE_S = 20
# A connection may take so long over the head of a request, and is kept so long without one.
HEAD_S = 15
# All headers together.
MAX_HEAD_BYTES = 64 << 10
# More may wait in the kernel than there are connections: a burst is queued, not refused.
BACKLOG = 2048
MAX_CONNECTIONS = 4096
# What is not a connection: files of bodies, the database, the log.
OTHER_FILES = 512
RESPAWN_S = 1.0
# Its messages go where all others go.
LOGGING = {"formatters": {}, "handlers": {}, "loggers": {"_granian": {"handlers": [], "propagate": True}}}


def serve(settings: Settings) -> None:
    """Wait for a migrated database, then serve until a signal ends it.

    Raises NotReady if the database does not come up, InvalidRequest for settings that cannot be served, and PortTaken.
    """
    logs.configure(settings)
    check(settings)
    database = Database(settings.database)
    try:
        engine.wait_until_migrated(database, settings.wait_for_database_s)
    finally:
        # the process that serves is forked, and a connection must not be shared
        database.dispose()
    server = Granian(
        "imagekin_api",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        loop=Loops.asyncio,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        backpressure=_connections(),
        http1_settings=HTTP1Settings(header_read_timeout=1000 * HEAD_S, max_buffer_size=MAX_HEAD_BYTES),
        log_dictconfig=LOGGING,
        respawn_failed_workers=True,
        respawn_interval=RESPAWN_S,
        workers_kill_timeout=GRACE_S,
    )
    server.serve(target_loader=partial(_front, settings), wrap_loader=False)


def check(settings: Settings) -> None:
    """Raise InvalidRequest for an address that cannot be served, PortTaken for one that is in use."""
    if settings.port == 0:
        raise errors.InvalidRequest("IMAGEKIN_PORT must name a port; 0 is not a port.")
    settings.check_host()
    # granian shares its port, with any other server, too
    port.claim(settings.host, settings.port)


def _front(settings: Settings) -> Front:
    """Build the application, in the process that serves it."""
    logs.configure(settings)
    app = create_app(settings)
    here: Service = app.extensions[service.EXTENSION]
    return Front(app, settings, started=partial(_answer_waiting_on_stop, here), stopped=here.close)


def _answer_waiting_on_stop(here: Service) -> None:
    """Answer held requests when a signal says to stop: granian waits for them, and they wait for their jobs."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        here.watcher.stop_waiting()

    for number in (signal.SIGTERM, signal.SIGINT):
        # beside the event loop's own handling, which is told by a file descriptor
        signal.signal(number, stop)


def _connections() -> int:
    """Return how many connections may be open at once, after asking the system for that many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(64, min(MAX_CONNECTIONS, soft - OTHER_FILES))
