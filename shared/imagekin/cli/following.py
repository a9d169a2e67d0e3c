"""A job on the terminal: followed to its end, summarized, and turned into an exit code."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import typer

from imagekin import errors, schemas
from imagekin.cli import output
from imagekin.cli.session import FAILURE, INTERRUPTED, PARTIAL, SUCCESS
from imagekin.client import Job
from imagekin.client.progress import JobBar
from imagekin.enums import ItemStatus, JobStatus
from imagekin.schemas.kinds import STORING

R = TypeVar("R", bound=schemas.Wire)

SHOWN_FAILURES = 10
# How many of them are asked whether trying again can help.
LOOKED_AT_FAILURES = 1000
PASSING = frozenset(
    error.code
    for error in (
        errors.FetchFailed,
        errors.ItemTimeout,
        errors.ItemNotFound,
        errors.Quarantined,
        errors.WeightsUnavailable,
        errors.Unavailable,
        errors.ImagekinError,
    )
)
"""Codes of failures that may be temporary; a broken picture or an invalid key would fail again."""
ANSWER_S = 10.0


def follow(job: Job[Any]) -> Job[Any]:
    """Wait for a job with a bar on stderr; Ctrl-C leaves the job running and says so."""
    try:
        with JobBar() as bar:
            bar.show(job.data)
            return job.wait(lambda job: bar.show(job.data))
    except KeyboardInterrupt:
        leave([part for part in job.parts if not part.terminal])
        raise typer.Exit(INTERRUPTED) from None


def result(job: Job[R]) -> R:
    """Follow a job and return its result; exit with what went wrong if it did not succeed."""
    follow(job)
    if job.status is not JobStatus.SUCCEEDED:
        finish(job)
    return job.result()


def detach(job: Job[Any], as_json: bool) -> None:
    """Print the id of a job that is not waited for, or its data, and say how to follow it."""
    if as_json:
        output.data(job.data)
    for part in job.parts:
        if not as_json:
            output.line(part.id)
        output.say(f"Watch it: imagekin jobs watch {part.id}")


def exit_code(job: Job[Any]) -> int:
    return {JobStatus.SUCCEEDED: SUCCESS, JobStatus.PARTIAL: PARTIAL}.get(job.status, FAILURE)


def finish(job: Job[Any]) -> None:
    """Report on stderr what went wrong in a finished job, and exit with its code."""
    if job.status is JobStatus.CANCELLED:
        deleted = job.error is not None and job.error.code == errors.CollectionDeleted.code
        output.say(
            f"The job was cancelled: its collection {job.collection} was deleted with everything in it."
            if deleted
            else "The job was cancelled; finished images stay."
        )
    elif job.error and job.status is JobStatus.FAILED:
        output.say(f"The job failed: {job.error.detail} [{job.error.code}]")
    elif job.error and not job.progress.failed:
        # one of several; where images failed, each says why
        output.say(f"A part of the job failed: {job.error.detail} [{job.error.code}]")
    if job.kind in STORING and job.progress.failed:
        _say_failures(job)
    raise typer.Exit(exit_code(job))


def summary(job: Job[Any]) -> str:
    """Return a summary of an embed or import job in one line."""
    progress = job.progress
    names = ("embedded", "reused", "skipped", "failed", "cancelled", "ignored")
    counts = [f"{number:,} {name}" for name in names if (number := getattr(progress, name))]
    return f"{progress.done:,} image{'' if progress.done == 1 else 's'}: {', '.join(counts) or 'nothing to do'}"


def outcome(job: Job[Any]) -> str:
    """Return in one line how a job ended, with its images' outcomes if it stores images."""
    ended = f"{job.kind} {job.status}"
    return f"{ended}: {summary(job)}" if job.kind in STORING else ended


def _say_failures(job: Job[Any]) -> None:
    again = False
    for number, item in enumerate(itertools.islice(job.items(ItemStatus.FAILED), LOOKED_AT_FAILURES)):
        again = again or item.error is None or item.error.code in PASSING
        if number < SHOWN_FAILURES:
            reason = f"{item.error.detail} [{item.error.code}]" if item.error else "failed"
            output.say(f"  {item.key}: {reason}")
    more = job.progress.failed - SHOWN_FAILURES
    if more > 0:
        output.say(f"  and {more:,} more")
    for part in job.parts:
        if part.progress.failed:
            if more > 0:
                output.say(f"All of them: imagekin jobs items {part.id} --status failed")
            if again:
                output.say(f"Try them again: imagekin jobs retry {part.id}")


def leave(jobs: Sequence[Job[Any]]) -> None:
    """Report that jobs continue, and on a terminal ask whether to stop them."""
    for job in jobs:
        output.say(f"Job {job.id} continues. Watch it: imagekin jobs watch {job.id}")
        output.say(f"Stop it:  imagekin jobs cancel {job.id}")
    if not (jobs and sys.stdin.isatty() and sys.stderr.isatty()):
        return
    try:
        if agreed("Stop it now?" if len(jobs) == 1 else "Stop them now?"):
            _stop(jobs)
    except KeyboardInterrupt:
        output.say("")


def agreed(question: str) -> bool:
    """Ask on the terminal; no answer within ANSWER_S seconds means no, since the user may have left."""
    print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
    # Windows waits for sockets alone
    if os.name != "nt" and not select.select([sys.stdin], [], [], ANSWER_S)[0]:
        output.say("no")
        return False
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _stop(jobs: Sequence[Job[Any]]) -> None:
    stopped = 0
    for job in jobs:
        with contextlib.suppress(errors.JobFinished):
            job.cancel()
            stopped += 1
    output.say("Stopped; the images that were done stay." if stopped else "It had finished already.")
