"""A job on the terminal: followed to its end, summed up, and turned into an exit code."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import typer

from imagekin import errors
from imagekin.cli import output
from imagekin.cli.session import FAILURE, INTERRUPTED, PARTIAL, SUCCESS
from imagekin.client import Job
from imagekin.client.progress import JobBar
from imagekin.types import ItemStatus, JobKind, JobStatus

SHOWN_FAILURES = 10


def follow(job: Job[Any]) -> Job[Any]:
    """Wait for a job with a bar on stderr; Ctrl-C leaves the job at work and says so."""
    try:
        with JobBar() as bar:
            bar.show(job)
            return job.wait(bar.show)
    except KeyboardInterrupt:
        _leave(job)
        raise typer.Exit(INTERRUPTED) from None


def exit_code(job: Job[Any]) -> int:
    return {JobStatus.SUCCEEDED: SUCCESS, JobStatus.PARTIAL: PARTIAL}.get(job.status, FAILURE)


def finish(job: Job[Any]) -> None:
    """Say on stderr what went wrong in a finished job, and leave with its exit code."""
    if job.status is JobStatus.CANCELLED:
        output.say("The job was cancelled; what was done before stays.")
    elif job.error:
        output.say(f"The job failed: {job.error.detail} [{job.error.code}]")
    if job.kind in (JobKind.EMBED, JobKind.IMPORT) and job.progress.failed:
        _say_failures(job)
    raise typer.Exit(exit_code(job))


def summary(job: Job[Any]) -> str:
    """Sum an embed job up in one line."""
    progress = job.progress
    names = ("embedded", "reused", "skipped", "failed", "cancelled", "ignored")
    counts = [f"{number:,} {name}" for name in names if (number := getattr(progress, name))]
    return f"{progress.done:,} image{'' if progress.done == 1 else 's'}: {', '.join(counts) or 'nothing to do'}"


def _say_failures(job: Job[Any]) -> None:
    for item in itertools.islice(job.items(ItemStatus.FAILED), SHOWN_FAILURES):
        reason = f"{item.error.detail} [{item.error.code}]" if item.error else "failed"
        output.say(f"  {item.key}: {reason}")
    more = job.progress.failed - SHOWN_FAILURES
    if more > 0:
        output.say(f"  and {more:,} more: imagekin jobs items {job.id} --status failed")
    output.say(f"Try them again: imagekin jobs retry {job.id}")


def _leave(job: Job[Any]) -> None:
    output.say(f"Job {job.id} goes on. Watch it: imagekin jobs watch {job.id}")
    output.say(f"Stop it:  imagekin jobs cancel {job.id}")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    try:
        if not typer.confirm("Stop it now?", default=False, err=True):
            return
        job.cancel()
        output.say("Stopped; the images that were done stay.")
    except (typer.Abort, KeyboardInterrupt):
        output.say("")
    except errors.JobFinished:
        output.say("It had finished already.")
