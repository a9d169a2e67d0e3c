"""A job, seen from the client: look at it, wait for it, read its ledger and its result."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, Self, TypeVar
from urllib.parse import quote

from imagekin import errors, schemas
from imagekin.client import bodies, problems
from imagekin.client.transport import Transport, ignore, parse
from imagekin.enums import ItemStatus, JobStatus
from imagekin.schemas.kinds import JobKind
from imagekin.schemas.results import RESULTS

# How long the server holds an answer back, and how often it is asked when somebody watches.
HOLD_S = 20
WATCH_S = 1
# Between two looks where the server has no thread left that could wait.
MIN_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0

R = TypeVar("R", bound=schemas.Wire)


class Job(Generic[R]):
    """A job of the service; its attributes are as of the last `refresh` or `wait`."""

    def __init__(self, transport: Transport, data: schemas.Job) -> None:
        self._transport = transport
        self._path = f"/v1/jobs/{quote(data.id, safe='')}"
        self.data = data

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.kind} {self.status}>"

    @property
    def id(self) -> str:
        return self.data.id

    @property
    def kind(self) -> JobKind:
        return self.data.kind

    @property
    def status(self) -> JobStatus:
        return self.data.status

    @property
    def terminal(self) -> bool:
        return self.data.status.terminal

    @property
    def collection(self) -> str:
        return self.data.collection

    @property
    def params(self) -> dict[str, Any]:
        return self.data.params

    @property
    def progress(self) -> schemas.Progress:
        return self.data.progress

    @property
    def parts(self) -> Sequence[Job[Any]]:
        """The jobs that this one consists of: itself, unless a folder was sent in parts."""
        return [self]

    @property
    def error(self) -> schemas.Error | None:
        return self.data.error

    @property
    def parent_id(self) -> str | None:
        return self.data.parent_id

    @property
    def created_at(self) -> datetime:
        return self.data.created_at

    @property
    def finished_at(self) -> datetime | None:
        return self.data.finished_at

    def refresh(self) -> Self:
        """Look at the job once."""
        return self._look(0)

    def wait(self, progress: bool | Callable[[Job[Any]], None] = False, timeout_s: float | None = None) -> Self:
        """Wait until the job is terminal, however it ends; see `raise_for_status` and `result`.

        progress: True shows a bar on a terminal and plain lines elsewhere, both on stderr; a callable gets the job
        about once a second. Raises `WaitTimeout` after timeout_s; the job continues.
        """
        if progress is True:
            from imagekin.client.progress import JobBar

            with JobBar() as bar:
                return self.wait(lambda job: bar.show(job.data), timeout_s)
        show = progress if callable(progress) else None
        until = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = MIN_PAUSE_S
        while not self.terminal:
            left_s = float("inf") if until is None else until - time.monotonic()
            if left_s <= 0:
                raise problems.WaitTimeout(f"Job {self.id} is still {self.status} after {timeout_s:g} s; it continues.")
            hold_s = int(min(WATCH_S if show else HOLD_S, left_s))
            started = time.monotonic()
            self._look(hold_s)
            if show:
                show(self)
            if not self.terminal and (not hold_s or time.monotonic() - started < hold_s / 2):
                time.sleep(min(pause_s, left_s))
                pause_s = min(pause_s * 1.5, MAX_PAUSE_S)
        return self

    def raise_for_status(self) -> Self:
        """Raise the job's own error, a `JobError` or its picture's `ItemError`, when it failed or was cancelled."""
        if self.status is JobStatus.FAILED:
            raise problems.from_job(self.error) if self.error else errors.JobError(self._failure())
        if self.status is JobStatus.CANCELLED:
            raise errors.JobError("The job was cancelled.")
        return self

    def items(self, status: ItemStatus | str | None = None) -> Iterator[schemas.Item]:
        """Iterate over the ledger: what became of each image."""
        return self._transport.pages(f"{self._path}/items", schemas.Item, status=status)

    def result(self) -> R:
        """Wait for the job and give its result; raises the error of a failed job, and `ResultExpired`."""
        self.wait().raise_for_status()
        return self._transport.get(f"{self._path}/result", RESULTS[self.kind])  # pyright: ignore[reportReturnType]

    def sheet(self, label: int | None = None, *, group: int | None = None, page: int | None = None) -> bytes:
        """Return the contact sheet, a PNG: of the cluster with that label, of that group of duplicates, or of all.

        page: which, from 1, if there are several.
        """
        return self._transport.read(f"{self._path}/sheet", accept="image/png", label=label, group=group, page=page)

    def name_cluster(self, label: int, name: str | None) -> schemas.Cluster:
        """Name a cluster of a finished clustering, None removes its name; return the cluster.

        Raises `JobNotFinished`, and `NotFound` for a missing label.
        """
        return self._transport.send(
            "PATCH",
            f"{self._path}/clusters/{label}",
            lambda answer: parse(schemas.Cluster, answer),
            body=bodies.of_json({"name": name}),
        )

    def cancel(self) -> Self:
        """Ask the job to stop; images that are done stay. Raises `JobFinished`."""
        self._transport.send("POST", f"{self._path}/cancel", ignore)
        return self.refresh()

    def retry(self, items: Literal["failed", "all"] = "failed") -> Job[R]:
        """Put the failed images, or all, of a finished job into a new one, whose `parent_id` is this one's."""
        key = {"idempotency-key": str(uuid.uuid4())}
        body = bodies.json(schemas.RetryBody, items=items)
        data = self._transport.post(f"{self._path}/retry", schemas.Job, body, headers=key)
        return Job(self._transport, data)

    def delete(self) -> None:
        """Delete a terminal job with its ledger and result."""
        self._transport.send("DELETE", self._path, ignore, safe=False)

    def _failure(self) -> str:
        return f"All {self.progress.failed} images failed." if self.progress.failed else "The job failed."

    def _look(self, hold_s: int) -> Self:
        prefer = {"prefer": f"wait={hold_s}"} if hold_s else None
        self.data = self._transport.send(
            "GET", self._path, lambda answer: parse(schemas.Job, answer), headers=prefer, extra_s=hold_s
        )
        return self
