"""A service of the stack, and the process that runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagekin.stack import child
from imagekin.stack.leftovers import RUN

MAX_LOG_BYTES = 10 << 20
TAIL_BYTES = 4096
TAIL_LINES = 15


@dataclass(frozen=True)
class Service:
    """What to run and how; `restart=False` runs once: the start continues when it has ended with status 0."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    ready: Callable[[], bool] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 5
    restart: bool = True


class Process:
    """A service's process, its log, and how often in a row it has failed."""

    def __init__(self, service: Service, log_dir: Path) -> None:
        self.service = service
        self.failures = 0
        self.finished = False
        self.due = 0.0
        self._popen: subprocess.Popen[bytes] | None = None
        self._launched = 0.0
        self._log = log_dir / f"{service.name}.log"
        self._log_start = 0
        if self._log.exists() and self._log.stat().st_size > MAX_LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))

    def launch(self, run: str) -> int:
        """Start the program in a session of its own and return its pid."""
        environ = os.environ if self.service.env is None else self.service.env
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), *self.service.argv],
                env={**environ, RUN: run},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C in the terminal must not reach it, and what it starts can be killed with it.
                start_new_session=True,
            )
        self._launched = time.monotonic()
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def ready(self) -> bool:
        """Whether what comes after it may start."""
        if not self.service.restart:
            return self.finished
        return self.running and (self.service.ready is None or self.service.ready())

    @property
    def age_s(self) -> float:
        """How long ago the process was started, in seconds."""
        return time.monotonic() - self._launched

    def reap(self) -> int | None:
        """Return the status of a process that has ended, once, and kill what it left in its group; else None."""
        status = None if self._popen is None else self._popen.poll()
        if status is not None:
            self._signal_group()
            self._popen = None
        return status

    def terminate(self) -> None:
        """Ask the process to stop; its own children are its own affair (Celery's would drop their work)."""
        if self._popen is not None:
            self._popen.send_signal(self.service.stop_signal)

    def kill(self, timeout_s: float = 2) -> bool:
        """Kill the process with its group; return whether it is gone."""
        if self._popen is None:
            return True
        self._signal_group()
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._popen = None
        return True

    def tail(self) -> str:
        """Return the last lines that the process wrote since it was last started."""
        with self._log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([f"last lines of {self._log}:", *(f"  {line}" for line in lines or ["(nothing)"])])

    def _signal_group(self) -> None:
        if self._popen is not None:
            try:
                os.killpg(self._popen.pid, signal.SIGKILL)
            # PermissionError: macOS says so where only a zombie is left.
            except (ProcessLookupError, PermissionError):
                pass
