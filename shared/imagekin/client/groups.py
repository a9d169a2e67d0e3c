"""A folder that went to the service in parts: its jobs, seen as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

from imagekin import errors, schemas
from imagekin.client.jobs import Job
from imagekin.client.progress import Uploading
from imagekin.client.transport import Transport
from imagekin.enums import ItemStatus, JobStatus
from imagekin.schemas.kinds import JobKind


@dataclass
class Sending(Uploading):
    """How far an upload is, and the jobs that it has begun.

    counted: each file is an image, as it is not where archives are sent.
    """

    jobs: list[Job[schemas.EmbedResult]] = field(default_factory=list)
    counted: bool = True

    def add(self, other: Sending) -> None:
        """Take in another upload that is over."""
        for name in ("files", "size", "known", "known_bytes", "joined", "joined_bytes", "sent", "sent_bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.jobs += other.jobs


class SentFiles(schemas.Wire):
    """What was sent and what was not; see `Sending`."""

    files: int
    known: int
    joined: int
    sent: int
    sent_bytes: int
    jobs: list[str]


class GroupData(schemas.Job):
    """Several jobs as one: `id` is the first one's, empty without a job; `upload.jobs` are all."""

    upload: SentFiles


class JobGroup(Job[schemas.EmbedResult]):
    """The jobs of a folder as one, whose `progress` counts what the collection had before as `reused`."""

    def __init__(self, transport: Transport, collection: str, sending: Sending) -> None:
        self._collection = collection
        self._begun_at = datetime.now(UTC)
        self.sending = sending
        super().__init__(transport, self._merged())

    @property
    def parts(self) -> Sequence[Job[Any]]:
        return self.sending.jobs

    def items(self, status: ItemStatus | str | None = None) -> Iterator[schemas.Item]:
        """Iterate over the ledgers of the jobs; what the collection had before is in none."""
        for job in self.parts:
            yield from job.items(status)

    def result(self) -> schemas.EmbedResult:
        """Wait for the jobs and sum them up; raises the error of the first that failed where none did anything."""
        self.wait().raise_for_status()
        counts = self.progress.model_dump(include=set(schemas.EmbedResult.model_fields))
        return schemas.EmbedResult(**{**counts, "collection": self._collection})

    def sheet(self, label: int | None = None, *, group: int | None = None, page: int | None = None) -> bytes:
        """Raise Conflict: these jobs have no contact sheet."""
        raise errors.Conflict("An embed job has no contact sheet; search or cluster its collection.")

    def cancel(self) -> Self:
        """Ask all jobs to stop; raises `JobFinished` if all had ended."""
        ended = 0
        for job in self.parts:
            try:
                job.cancel()
            except errors.JobFinished:
                ended += 1
        if ended == len(self.parts):
            raise errors.JobFinished()
        return self.refresh()

    def retry(self, items: Literal["failed", "all"] = "failed") -> JobGroup:
        """Put the failed images, or all that were sent, into new jobs."""
        chosen = [job for job in self.parts if items == "all" or job.progress.failed or job.status is JobStatus.FAILED]
        again = [job.retry(items) for job in chosen]
        count = sum(job.progress.total or 0 if items == "all" else job.progress.failed for job in chosen)
        return JobGroup(self._transport, self._collection, Sending(count, 0, sent=count, jobs=again))

    def delete(self) -> None:
        """Delete the terminal jobs with their ledgers."""
        for job in self.parts:
            job.delete()

    def _look(self, hold_s: int) -> Self:
        for job in self.parts:
            if job.terminal:
                continue
            job._look(hold_s)
            if not job.terminal:
                # the later ones have hardly begun
                break
            hold_s = 0
        self.data = self._merged()
        return self

    def _merged(self) -> GroupData:
        datas = [job.data for job in self.parts]
        ends = [data.finished_at for data in datas if data.finished_at]
        status = self._status()
        first = next((data for data in datas if not data.status.terminal), None)
        return GroupData(
            id=datas[0].id if datas else "",
            kind=JobKind.EMBED,
            status=status,
            collection=self._collection,
            params=datas[0].params if datas else {},
            progress=self._progress(),
            queue_position=first.queue_position if first else None,
            created_at=min((data.created_at for data in datas), default=self._begun_at),
            started_at=min((data.started_at for data in datas if data.started_at), default=None),
            finished_at=max(ends, default=self._begun_at) if status.terminal else None,
            expires_at=min((data.expires_at for data in datas if data.expires_at), default=None),
            parent_id=datas[0].parent_id if datas else None,
            error=next((data.error for data in datas if data.error), None),
            links=datas[0].links if datas else schemas.Links(self="", result="", items="", cancel="", retry=""),
            upload=SentFiles(
                files=self.sending.files,
                known=self.sending.known,
                joined=self.sending.joined,
                sent=self.sending.sent,
                sent_bytes=self.sending.sent_bytes,
                jobs=[data.id for data in datas],
            ),
        )

    def _status(self) -> JobStatus:
        """Say how all are, by the service's rule: a part is `partial`, and nothing at all is `failed`."""
        found = {job.status for job in self.parts}
        if unfinished := [job.status for job in self.parts if not job.status.terminal]:
            return JobStatus.RUNNING if any(status.terminal for status in found) else unfinished[0]
        if found <= {JobStatus.SUCCEEDED}:
            return JobStatus.SUCCEEDED
        if JobStatus.CANCELLED in found:
            return JobStatus.CANCELLED
        return JobStatus.FAILED if found == {JobStatus.FAILED} and not self.sending.known else JobStatus.PARTIAL

    def _progress(self) -> schemas.Progress:
        every = [job.progress for job in self.parts]
        names = ("done", "embedded", "reused", "skipped", "failed", "cancelled", "ignored")
        sums = {name: sum(getattr(progress, name) for progress in every) for name in names}
        known = self.sending.known
        sums |= {"done": sums["done"] + known, "reused": sums["reused"] + known}
        planned = [progress.total for progress in every if progress.total is not None]
        if len(planned) == len(every):
            total = known + sum(planned)
        else:
            total = known + self.sending.sent + self.sending.joined if self.sending.counted else None
        images_per_s, eta_s = self._speed((total or sums["done"]) - sums["done"])
        return schemas.Progress(
            **sums,
            total=total,
            fraction=None if total is None else round(min(1.0, sums["done"] / total), 4) if total else 1.0,
            images_per_s=images_per_s,
            eta_s=eta_s,
        )

    def _speed(self, left: int) -> tuple[float | None, float | None]:
        """Return the rate of the job at work, for which the others wait, and how long `left` images take at that.

        Where all have ended it is that of all of them.
        """
        current = next((job.progress for job in self.parts if not job.terminal), None)
        if current is None:
            rated = [(job.progress.done, job.progress.images_per_s) for job in self.parts]
            took_s = sum(done / rate for done, rate in rated if rate)
            return round(sum(done for done, rate in rated if rate) / took_s, 2) if took_s else None, None
        if not current.images_per_s:
            return None, None
        rate, eta_s = current.images_per_s, current.eta_s
        if eta_s is not None and current.total is not None:
            eta_s += max(0, left - (current.total - current.done)) / rate
        return rate, eta_s
