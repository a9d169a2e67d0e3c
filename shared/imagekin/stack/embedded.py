"""imagekin's own stack: Redis, migrations, a worker for each lane, the API."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from imagekin.settings import Settings
from imagekin.stack import leftovers, port, redis
from imagekin.stack.environment import child_environment
from imagekin.stack.errors import StackError
from imagekin.stack.leftovers import Record
from imagekin.stack.lock import FolderLock
from imagekin.stack.service import Service
from imagekin.stack.supervisor import Supervisor

LANES = ("interactive", "bulk")
SECOND_CTRL_C_S = 0.5  # one Ctrl-C may arrive twice, from the terminal and from a parent that passes it on


class Stack:
    """Everything that imagekin needs, in one tree of processes over one data folder.

    What the settings name is used as it is (a database, a Redis, an auth mode); the rest is embedded. As a context
    manager it is started on entry and stopped on exit. In the main thread, SIGTERM and SIGHUP are taken like Ctrl-C
    from `start` to `stop`, and a Ctrl-C during the stop kills everything at once. `log` may be called in any thread.
    """

    def __init__(self, settings: Settings, *, log: Callable[[str], None]) -> None:
        self._settings = settings
        self._log = log
        self._folder = settings.data_dir.resolve()
        self._run_dir = self._folder / "run"
        self._lock = FolderLock(self._run_dir / "lock", self._folder)
        self._supervisor: Supervisor | None = None
        self._socket: Path | None = None
        self._handlers: dict[int, Any] = {}
        self._stop_began: float | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """The API's URL on this machine; empty until the start."""
        return self._url

    def start(self, timeout_s: float = 120) -> None:
        """Start everything and wait until the API says that it is ready.

        Raises FolderInUse, PortTaken, NoRedis, ServiceFailed (with the end of the log) or another StackError, and
        InvalidRequest for a host that local mode does not listen on; then nothing is left running.
        """
        self._stop_began = None
        try:
            self._take_signals()
            self._take_folder()
            self._supervisor = self._supervise()
            self._supervisor.start(timeout_s)
        except BaseException:
            self.stop()
            raise

    def wait(self) -> None:
        """Wait for Ctrl-C or SIGTERM; raises ServiceFailed if a service fails for good before."""
        try:
            if self._supervisor is not None:
                self._supervisor.wait()
        except KeyboardInterrupt:
            pass

    def stop(self) -> None:
        """Stop everything within 20 seconds: the API first, then the workers, Redis last."""
        self._stop_began = self._stop_began or time.monotonic()
        if self._supervisor is not None:
            self._log("stopping")
            self._supervisor.stop()
            self._supervisor = None
        if self._socket is not None:
            redis.discard(self._socket, self._run_dir)
            self._socket = None
        self._lock.release()
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _take_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Who ignores a signal (nohup, a background job of sh) wants it to stay so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._stop_began is None:
            self._stop_began = now
            raise KeyboardInterrupt
        late = now - self._stop_began > SECOND_CTRL_C_S
        if late and number == signal.SIGINT and self._supervisor is not None:
            self._supervisor.hurry()

    def _take_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._run_dir.mkdir(mode=0o700, exist_ok=True)
            self._log_dir.mkdir(exist_ok=True)
            self._lock.acquire()
        except OSError as error:
            raise StackError(f"cannot use {self._folder}: {error.strerror}") from error
        if stubborn := leftovers.stop(self._record_path):
            raise StackError(f"processes of an earlier run on {self._folder} do not end: {stubborn}")

    def _supervise(self) -> Supervisor:
        number = port.claim(self._settings.host, self._settings.port)
        self._url = port.url(self._settings.host, number)
        self._lock.describe(self._url)
        if "redis_url" in self._settings.model_fields_set:
            redis_url, first = self._settings.redis_url, []
        else:
            self._socket = redis.socket_path(self._run_dir)
            redis_url, first = redis.url(self._socket), [redis.service(self._socket)]
        derived = derive(self._settings, port=number, redis_url=redis_url)
        derived.check_host()
        stages = [first, *services(derived)]
        return Supervisor(stages, log_dir=self._log_dir, record=Record(self._record_path), log=self._log)

    @property
    def _record_path(self) -> Path:
        return self._run_dir / "processes.json"

    @property
    def _log_dir(self) -> Path:
        return self._folder / "logs"


def derive(settings: Settings, *, port: int, redis_url: str) -> Settings:
    """Return the settings of the children: everything decided, so that all of them decide the same."""
    auth = settings.auth if "auth" in settings.model_fields_set else "local"
    update = {
        "data_dir": settings.data_dir.resolve(),
        "database_url": settings.database,
        "storage_url": settings.storage,
    }
    return settings.model_copy(update=update | {"port": port, "redis_url": redis_url, "auth": auth})


def _metrics_ports(settings: Settings) -> list[int]:
    """Return a port for each lane: two processes cannot share one."""
    first = settings.metrics_port
    return [first and first + number for number in range(len(LANES))]


def services(settings: Settings) -> list[list[Service]]:
    """Return imagekin's own services in the stages of their start; Redis comes before them."""
    env = child_environment(settings)

    def module(name: str, *arguments: str) -> list[str]:
        # the working folder holds somebody's pictures, and is no place for code
        return [sys.executable, "-P", "-m", name, *arguments]

    migrations = Service("migrations", module("imagekin_migrations", "upgrade"), env, restart=False)
    workers = [
        Service(
            f"worker-{lane}",
            module("imagekin_worker", "--metrics-port", str(metrics_port), "--lane", lane),
            env,
            grace_s=8,
        )
        for lane, metrics_port in zip(LANES, _metrics_ports(settings), strict=True)
    ]
    api = Service("api", module("imagekin_api"), env, ready=partial(port.answers, settings.host, settings.port))
    return [[migrations], workers, [api]]
