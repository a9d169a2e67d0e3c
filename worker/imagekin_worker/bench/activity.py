"""When a process was on a core, seen from outside at next to no cost: a meter takes cores from what it measures."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from imagekin_worker.bench.errors import NotMeasured

# A few of the scheduler's ticks: shorter would see nothing more.
LOOK_S = 0.012


class Share(NamedTuple):
    """What was busy in a span of time.

    It has the share in which no lane ran, and the average number of cores that were busy with the lanes, with the main
    thread and with the other named processes, or kept by a virtual machine's host.
    """

    idle: float
    cores: float
    main: float
    others: float
    stolen: float


class Look(NamedTuple):
    """The clock, and how long the lanes, the main thread and the other processes had run by then, in seconds."""

    at: float
    lanes: float
    main: float
    others: float


class Activity:
    """Looks every few milliseconds at how long a worker's process ran, and `others` beside it.

    Its main thread plans and commits; the others are lanes, which read, decode and run the network. Only two numbers
    are read at each look, as a list of all threads took a tenth of a core. Needs Linux; raises NotMeasured elsewhere.
    """

    def __init__(self, pid: int, others: Sequence[int] = ()) -> None:
        self._main = Path(f"/proc/{pid}/schedstat")
        self._pid = pid
        self._others = others
        self._looks: list[Look] = []
        self._stolen = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if not self._main.exists():
            raise NotMeasured("threads are looked at through /proc/PID/schedstat, which this system lacks")

    def __enter__(self) -> Self:
        self._stolen = -stolen()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._stolen += stolen()

    def share(self, begin: float, end: float) -> Share:
        """Sum up what was seen between two times of the clock; what the host kept is the average of the block."""
        idle = lanes = main = others = 0.0
        for old, new in zip(self._looks, self._looks[1:], strict=False):
            length = min(new.at, end) - max(old.at, begin)
            if length <= 0:
                continue
            part = length / (new.at - old.at)
            idle += length - min(length, max(0.0, part * (new.lanes - old.lanes)))
            lanes += part * (new.lanes - old.lanes)
            main += part * (new.main - old.main)
            others += part * (new.others - old.others)
        span, whole = end - begin, self._looks[-1].at - self._looks[0].at
        return Share(idle / span, lanes / span, main / span, others / span, self._stolen / whole)

    def _watch(self) -> None:
        # a process that is gone is looked at no more
        with suppress(OSError):
            while not self._over.wait(LOOK_S):
                self._looks.append(self._look())

    def _look(self) -> Look:
        main = int(self._main.read_text().split()[0]) / 1e9
        return Look(time.time(), _ran(self._pid) - main, main, sum(map(_ran, self._others)))


def stolen() -> float:
    """Return the seconds of cores that a virtual machine's host has kept since the start; 0 if nothing tells.

    See "steal" in proc_stat(5).
    """
    with suppress(OSError), Path("/proc/stat").open() as lines:
        return int(lines.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _ran(pid: int) -> float:
    """Return the seconds that all threads of a process have run, those that ended as well; 0 if it is gone.

    The clock's number is made as Linux's clock_getcpuclockid(3) makes it.
    """
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0
