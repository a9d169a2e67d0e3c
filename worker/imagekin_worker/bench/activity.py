"""When a process's threads were on a core, seen from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from imagekin_worker.bench.report import NotMeasured

# A few of the scheduler's ticks: shorter would see nothing more.
LOOK_S = 0.012


class Share(NamedTuple):
    """Of a span of time: how much of it no thread ran, and how many cores were busy on average."""

    idle: float
    cores: float


class Activity:
    """Looks every few milliseconds at how long the threads of a process ran, its main thread left out.

    In a worker the main thread plans and commits; the others read, decode and run the network. Needs Linux's
    scheduler statistics; raises NotMeasured without them.
    """

    def __init__(self, pid: Callable[[], int]) -> None:
        self._pid = pid()
        self._looks: list[tuple[float, dict[str, int]]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if not Path(f"/proc/{self._pid}/schedstat").exists():
            raise NotMeasured("threads are looked at through /proc/PID/task/TID/schedstat, which this system lacks")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def share(self, begin: float, end: float) -> Share:
        """Sum up what was seen between two times of the clock."""
        idle = busy = 0.0
        for (before, old), (after, new) in zip(self._looks, self._looks[1:], strict=False):
            length = min(after, end) - max(before, begin)
            if length <= 0:
                continue
            ran = sum(ns - old.get(thread, 0) for thread, ns in new.items()) / 1e9 / (after - before)
            idle += length * max(0.0, 1.0 - ran)
            busy += length * ran
        return Share(idle / (end - begin), busy / (end - begin))

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            self._looks.append((time.time(), self._ran()))

    def _ran(self) -> dict[str, int]:
        """Return the nanoseconds that each thread but the main one has run."""
        found: dict[str, int] = {}
        for task in Path(f"/proc/{self._pid}/task").iterdir():
            if task.name != str(self._pid):
                with suppress(OSError):
                    found[task.name] = int((task / "schedstat").read_text().split()[0])
        return found
