"""Long work on stderr: a live bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from imagekin import schemas
from imagekin.enums import JobStatus
from imagekin.schemas.kinds import STORING, JobKind

# Between two plain lines while nothing but the count changes.
LINE_S = 5.0
# After which a rate means something.
RATE_S = 0.5


class _Detail(ProgressColumn):
    def __init__(self) -> None:
        # one line stays one line, and where it is too long its end goes
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("detail", ""), style="dim")


class Bar:
    """One line of work that is shown until the `with` ends."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._live = self.console.is_terminal
        self._bar = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}"),
            _Detail(),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("", total=None, visible=False, count="", detail="")
        self._said = ""
        self._said_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, what: str, done: int, total: int | None, count: str, detail: str, *, final: bool = False) -> None:
        """Show how far the work is; on no terminal, when `what` changes, at the end and every five seconds."""
        # not before there is something to show: an empty bar is an empty line
        self._bar.start()
        # Of nothing, all would be done before it began.
        shown = (total or 1) if final else (total or None)
        self._bar.update(
            self._task,
            description=what,
            completed=shown if final else done,
            total=shown,
            visible=True,
            count=count,
            detail=detail,
        )
        if self._live:
            return
        now = time.monotonic()
        if what != self._said or final or now - self._said_at >= LINE_S:
            told = ", ".join(part for part in (count, detail) if part)
            self.console.print(f"{what}: {told}" if told else what, highlight=False, markup=False, soft_wrap=True)
            self._said, self._said_at = what, now


@dataclass
class Uploading:
    """How far an upload of `files` files and `size` bytes is.

    known: files that the collection has already; joined: files that a job of an earlier run is at work on. Neither
    is sent. sent: files that went, sent_bytes: all bytes that went, those of the part under way included.
    """

    files: int
    size: int
    known: int = 0
    known_bytes: int = 0
    joined: int = 0
    joined_bytes: int = 0
    sent: int = 0
    sent_bytes: int = 0

    @property
    def done_bytes(self) -> int:
        """How much of `size` is already there or sent; a tar's overhead is not part of it."""
        return min(self.size, self.known_bytes + self.joined_bytes + self.sent_bytes)


class UploadBar(Bar):
    """An upload, whose files the server may have already."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self._sending = Uploading(0, 0)
        self._started = time.monotonic()

    def show(self, sending: Uploading) -> None:
        """Show how far an upload is."""
        self._sending = sending
        done, took_s = sending.done_bytes, time.monotonic() - self._started
        parts = [self._told(sending)]
        if took_s > RATE_S and sending.sent_bytes and done < sending.size:
            parts = [
                f"{_size(sending.sent_bytes / took_s)}/s",
                f"{duration((sending.size - done) * took_s / done)} left",
            ]
            parts += [f"{sending.known:,} known"] if sending.known else []
        self.update("uploading", done, sending.size, f"{_size(done)} of {_size(sending.size)}", ", ".join(parts))

    def finish(self) -> None:
        """Report what was sent and what was there already, if there was anything to send."""
        sending = self._sending
        if sending.files:
            whole = not (sending.known or sending.joined)
            count = _size(sending.size if whole else sending.sent_bytes)
            self.update("uploaded", sending.size, sending.size, count, self._told(sending), final=True)

    @staticmethod
    def _told(sending: Uploading) -> str:
        files = f"{sending.files:,} file{'' if sending.files == 1 else 's'}"
        there = [f"{sending.known:,} there already"] if sending.known else []
        there += [f"{sending.joined:,} under way from an earlier run"] if sending.joined else []
        return f"{files}: {', '.join([*there, f'{sending.sent:,} sent'])}" if there else files


class DownloadBar(Bar):
    """A download, whose size may not be known before its end."""

    def __init__(self, what: str, console: Console | None = None) -> None:
        super().__init__(console)
        self._what = what
        self._received = 0
        self._started = time.monotonic()

    def show(self, received: int, total: int | None) -> None:
        """Show a download after `received` bytes."""
        self._received = received
        took_s = time.monotonic() - self._started
        detail = ""
        if took_s > RATE_S and received:
            detail = f"{_size(received / took_s)}/s"
            if total:
                detail += f", {duration(max(0, total - received) * took_s / received)} left"
        count = _size(received) if total is None else f"{_size(received)} of {_size(total)}"
        self.update(f"exporting {self._what}", received, total, count, detail)

    def finish(self) -> None:
        self.update(f"exported {self._what}", self._received, self._received, _size(self._received), "", final=True)


class JobBar(Bar):
    """A job, until it is terminal."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self._started = time.monotonic()

    def show(self, job: schemas.Job) -> None:
        # A search is over before its lines are read.
        if job.kind is JobKind.SEARCH and not self._live and time.monotonic() - self._started < LINE_S:
            return
        progress = job.progress
        total = progress.total
        if job.kind in STORING:
            count = f"{progress.done:,} of {total:,} images" if total is not None else f"{progress.done:,} images"
        else:
            count = ""
        self.update(f"{job.kind} {job.status}", progress.done, total, count, _detail(job), final=job.status.terminal)


def _detail(job: schemas.Job) -> str:
    progress = job.progress
    parts = [
        f"{number:,} {name}"
        for name in ("reused", "skipped", "failed", "cancelled", "ignored")
        if (number := getattr(progress, name))
    ]
    if job.status is JobStatus.QUEUED and job.queue_position:
        parts.append(f"number {job.queue_position:,} in the queue")
    if progress.images_per_s:
        parts.append(
            f"{progress.images_per_s:,.0f} images/s"
            if progress.images_per_s >= 10
            else f"{progress.images_per_s:.1f} images/s"
        )
    if progress.eta_s is not None and not job.status.terminal:
        parts.append(f"{duration(progress.eta_s)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Write a time as 8 s, 3 min 20 s or 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
