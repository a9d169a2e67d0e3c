"""When a process's threads were on a core, seen from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from imagekin_worker.bench.report import NotMeasured

# A few of the scheduler's ticks: shorter would see nothing more.
LOOK_S = 0.012
_KINDS = ("lane", "main", "other")


class Share(NamedTuple):
    """Of a span of time: the share in which no lane ran, and the cores that were busy on average: with the lanes, with
    the main thread, and with the other processes that were named."""

    idle: float
    cores: float
    main: float
    others: float


class Activity:
    """Looks every few milliseconds at how long the threads of a worker's process ran, and `others` beside it.

    The main thread plans and commits; the others are lanes, which read, decode and run the network. Needs Linux's
    scheduler statistics; raises NotMeasured without them.
    """

    def __init__(self, pid: int, others: Sequence[int] = ()) -> None:
        self._pid = pid
        self._others = others
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
        idle = 0.0
        busy: dict[str, float] = dict.fromkeys(_KINDS, 0.0)
        for (before, old), (after, new) in zip(self._looks, self._looks[1:], strict=False):
            length = min(after, end) - max(before, begin)
            if length <= 0:
                continue
            ran: dict[str, float] = dict.fromkeys(_KINDS, 0.0)
            for name, ns in new.items():
                ran[name.partition(" ")[0]] += (ns - old.get(name, 0)) / 1e9 / (after - before)
            idle += length * max(0.0, 1.0 - ran["lane"])
            for kind, cores in ran.items():
                busy[kind] += length * cores
        span = end - begin
        return Share(idle / span, busy["lane"] / span, busy["main"] / span, busy["other"] / span)

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            self._looks.append((time.time(), self._ran()))

    def _ran(self) -> dict[str, int]:
        """Return the nanoseconds that each thread has run, by what it is and its id."""
        found: dict[str, int] = {}
        for pid in (self._pid, *self._others):
            for task in _tasks(pid):
                kind = "other" if pid != self._pid else "main" if task.name == str(pid) else "lane"
                with suppress(OSError):
                    found[f"{kind} {task.name}"] = int((task / "schedstat").read_text().split()[0])
        return found


def _tasks(pid: int) -> list[Path]:
    with suppress(OSError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []
