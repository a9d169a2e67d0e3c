"""A running service with a data folder of its own, measured from outside: through HTTP, and by its processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from imagekin import errors
from imagekin.client import Client
from imagekin.enums import Precision
from imagekin.settings import Settings
from imagekin.stack import Stack, StackError
from imagekin_worker.bench.errors import NotMeasured

_CHILD = b"billiard.spawn"
_CHILD_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Run:
    """One embed job: its images and its times.

    These are the seconds from submission to last commit and to first claim, and its beginning and end on the clock.
    """

    images: int
    seconds: float
    began_s: float
    submitted: float
    finished: float

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds


class Service:
    """The embedded stack, started on entry and stopped on exit. Raises NotMeasured if it cannot be started."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = Stack(settings, log=lambda _: None)
        self._collections = 0

    def __enter__(self) -> Self:
        for name in ("flask", "granian", "alembic"):
            if find_spec(name) is None:
                raise NotMeasured(
                    f'a running service needs the API\'s packages: pip install "imagekin[quickstart]" ({name})'
                )
        try:
            self._stack.start()
        except StackError as error:
            raise NotMeasured(f"the service did not start: {error.detail}") from error
        self.client = Client(self._stack.url)
        self.child("bulk")
        self.child("interactive")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self._stack.stop()

    @contextmanager
    def collection(
        self, backbone: str, weights: str | None = None, precision: Precision = Precision.EXACT
    ) -> Iterator[str]:
        """Make an empty collection for the block; what a deleted one held is computed again in the next."""
        self._collections += 1
        name = f"bench-{self._collections}"
        self.client.create_collection(name, backbone=backbone, weights=weights, precision=precision)
        try:
            yield name
        finally:
            self.client.delete_collection(name)

    def embed(self, folder: Path, collection: str) -> Run:
        """Embed a folder, read in place, and time it by the shared clock; raises NotMeasured if an image fails."""
        count = sum(1 for _ in folder.iterdir())
        submitted = time.time()
        job = self.client.embed(folder, collection, upload=False).wait()
        if job.progress.embedded != count or job.finished_at is None or job.data.started_at is None:
            raise NotMeasured(f"the job ended {job.status} with {job.progress.embedded} of {count} images embedded")
        finished, began = job.finished_at.timestamp(), job.data.started_at.timestamp()
        return Run(count, finished - submitted, began - submitted, submitted, finished)

    def warm(
        self, folder: Path, backbone: str, weights: str | None = None, precision: Precision = Precision.EXACT
    ) -> None:
        """Embed a folder twice: first a worker loads the network, then what it tries out after that is over."""
        for _ in range(2):
            with self.collection(backbone, weights, precision) as name:
                self.embed(folder, name)

    def child(self, lane: str) -> int:
        """Return the process of a worker that does its work; raises NotMeasured if there is no /proc."""
        if not Path("/proc/self/task").is_dir():
            raise NotMeasured("processes are looked at through /proc, which only Linux has")
        parent = self.processes()[f"worker-{lane}"]
        return _soon(lambda: next((pid for pid in _children(parent) if _CHILD in _command(pid)), None))

    def processes(self) -> dict[str, int]:
        """Return the processes of the stack by the names of its services."""
        record = json.loads((self._settings.data_dir / "run" / "processes.json").read_text())
        return {name: pid for name, (pid, _) in record["services"].items()}

    def api(self) -> list[int]:
        """Return the processes of the API."""
        first = self.processes()["api"]
        return [first, *_children(first)]


def _soon(look: Callable[[], int | None]) -> int:
    until = time.monotonic() + _CHILD_WITHIN_S
    while (found := look()) is None:
        if time.monotonic() > until:
            raise errors.NotReady("A worker's process did not come up.")
        time.sleep(0.05)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
