"""`/metrics` of a worker: the parent adds up the numbers of its children and its own.

Each process keeps its numbers in mapped files of one folder, so that the numbers of a dead child still count.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import prometheus_client as prometheus
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from imagekin import __version__, errors
from imagekin.enums import Lane
from imagekin.telemetry import metrics

_PID = re.compile(r"_(\d+)\.db$")


class Exporter:
    """Serves the numbers in `folder` during the block; the worker's processes must know the folder.

    They know it from PROMETHEUS_MULTIPROC_DIR, which the parent must set before it imports this module. Raises NotReady
    on entry if the port cannot be opened.
    """

    def __init__(self, folder: Path, lane: Lane, host: str, port: int) -> None:
        self._address = (port, host)
        self._registry = prometheus.CollectorRegistry()
        self._registry.register(Files(folder, metrics.Processes(lane, __version__)))
        prometheus.ProcessCollector(registry=self._registry)

    def __enter__(self) -> Self:
        try:
            self._server, self._thread = prometheus.start_http_server(*self._address, registry=self._registry)
        except OSError as error:
            port, host = self._address
            raise errors.NotReady(
                f"cannot serve metrics on {host}:{port}: {error.strerror or error}; choose another "
                "IMAGEKIN_METRICS_PORT (or --metrics-port: each worker of a machine needs its own), or 0 for none."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Files(Collector):
    """Adds up the processes' files, even if a killed process left its file damaged."""

    def __init__(self, folder: Path, processes: metrics.Processes) -> None:
        self._folder = folder
        self._processes = processes
        self._lock = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        """Return the sums, and forget what dead processes held in memory."""
        with self._lock:
            children = self._pids() - {os.getpid()}
            for pid in children - (living := set(filter(_lives, children))):
                mark_process_dead(pid, str(self._folder))
            self._processes.children.set(len(living))
            self._processes.children_bytes.set(sum(map(_resident_bytes, living)))
            # a process that is killed while it opens its file leaves an empty one
            files = [str(path) for path in self._folder.glob("*.db") if path.stat().st_size]
            return MultiProcessCollector.merge(files)

    def describe(self) -> Iterable[Metric]:
        """Yield nothing: registering must not collect."""
        return []

    def _pids(self) -> set[int]:
        found = (_PID.search(path.name) for path in self._folder.glob("*.db"))
        return {int(match[1]) for match in found if match}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # gone; or its number is another user's by now
        return False
    return True


def _resident_bytes(pid: int) -> int:
    """Return the process's resident memory in bytes; 0 without Linux's /proc."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
