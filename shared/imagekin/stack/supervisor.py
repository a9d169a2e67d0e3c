"""The supervisor: starts services in stages, restarts the dead, stops them in reverse."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from imagekin.stack.errors import ServiceFailed
from imagekin.stack.leftovers import Record
from imagekin.stack.service import Process, Service

TICK_S = 0.1
BACKOFF_S = (0.5, 15.0)
HEALTHY_S = 60.0
START_FAILURES = 3
MAX_FAILURES = 10
STOP_S = 17.0  # with a margin to the 20 s that a stop may take


class Supervisor:
    """Runs services in stages: each stage starts when the one before is ready, and stops when the one after is gone.

    One thread does everything, for the kernel takes the end of the thread that started a child for its parent's death.
    `log` is called in that thread.
    """

    def __init__(
        self, stages: Sequence[Sequence[Service]], *, log_dir: Path, record: Record, log: Callable[[str], None]
    ) -> None:
        self._stages = [[Process(service, log_dir) for service in stage] for stage in stages]
        self._record = record
        self._log = log
        self._launched: list[Process] = []
        self._failure: BaseException | None = None
        self._started_by = 0.0
        self._up = threading.Event()
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="supervisor", daemon=True)

    def start(self, timeout_s: float) -> None:
        """Start all services and wait until they are ready; raises ServiceFailed with the end of the log."""
        self._started_by = time.monotonic() + timeout_s
        self._thread.start()
        self._settled.wait()
        self._raise_failure()

    def wait(self) -> None:
        """Wait until the services were stopped; raises ServiceFailed if one of them failed for good."""
        self._ended.wait()
        self._raise_failure()

    def stop(self) -> None:
        """Stop all services, last stage first; takes less than 20 seconds."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def hurry(self) -> None:
        """Stop at once, by SIGKILL; may be called in a signal handler while `stop` waits."""
        self._hurry.set()
        self._stopping.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _live(self) -> None:
        try:
            self._record.watch()
            self._bring_up()
            while not self._stopping.wait(TICK_S):
                self._look_after()
            self._bring_down()
        except BaseException as failure:  # noqa: BLE001 - kept, and raised where somebody waits
            self._failure = failure
            self._bring_down()
        finally:
            self._settled.set()
            self._ended.set()

    def _bring_up(self) -> None:
        for stage in self._stages:
            for process in stage:
                self._launch(process)
                self._launched.append(process)
            while not all(process.ready for process in stage):
                if self._stopping.wait(TICK_S):
                    return
                self._look_after()
                self._check_time(stage)
        self._up.set()
        self._settled.set()

    def _look_after(self) -> None:
        for process in self._launched:
            if (status := process.reap()) is not None:
                self._take_end(process, status)
            elif process.running:
                process.failures = 0 if process.age_s >= HEALTHY_S else process.failures
            elif not process.finished and time.monotonic() >= process.due:
                self._launch(process)

    def _launch(self, process: Process) -> None:
        pid = process.launch(self._record.run)
        self._record.add(process.service.name, pid)
        self._log(f"{process.service.name}: started, pid {pid}")

    def _take_end(self, process: Process, status: int) -> None:
        service = process.service
        if status == 0 and not service.restart:
            process.finished = True
            return
        process.failures += 1
        how = f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"
        if not service.restart or process.failures >= (MAX_FAILURES if self._up.is_set() else START_FAILURES):
            times = f", {process.failures} times in a row" if process.failures > 1 else ""
            raise ServiceFailed(f"{service.name} {how}{times}; {process.tail()}")
        first, longest = BACKOFF_S
        delay_s = min(longest, first * 2 ** (process.failures - 1))
        process.due = time.monotonic() + delay_s
        self._log(f"{service.name}: {how}; starting it again in {delay_s:g} s")

    def _check_time(self, stage: list[Process]) -> None:
        if time.monotonic() >= self._started_by:
            late = [process for process in stage if not process.ready]
            names = " and ".join(process.service.name for process in late)
            tails = "\n".join(process.tail() for process in late)
            raise ServiceFailed(f"{names} did not get ready in time; {tails}")

    def _bring_down(self) -> None:
        deadline = time.monotonic() + STOP_S
        for stage in reversed(self._stages):
            for process in stage:
                process.terminate()
            asked = time.monotonic()
            while late := [process for process in stage if process.running]:
                patience_s = min(asked + max(process.service.grace_s for process in late), deadline) - time.monotonic()
                if patience_s <= 0 or self._hurry.wait(min(TICK_S, patience_s)):
                    break
            for process in stage:
                process.kill()
        left = [process.service.name for process in self._launched if process.running]
        if left:
            self._log(f"did not end even when killed: {', '.join(left)}")
        else:
            self._record.close()
