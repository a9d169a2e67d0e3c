"""`imagekin jobs`."""

from __future__ import annotations

import itertools
from typing import Annotated, Any

import typer

from imagekin.cli import following, output
from imagekin.cli.session import AsJson, Wait, complete_collection, complete_job, current
from imagekin.client import Job
from imagekin.enums import ItemStatus, JobStatus
from imagekin.schemas.kinds import STORING, JobKind

app = typer.Typer(help="Show, cancel and retry jobs.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", autocompletion=complete_job)]


@app.command("list")
def list_jobs(
    context: typer.Context,
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs with this status.")] = None,
    kind: Annotated[JobKind | None, typer.Option(help="Only jobs of this kind.")] = None,
    collection: Annotated[
        str | None,
        typer.Option(
            "--collection",
            "-c",
            metavar="NAME",
            help="Only jobs of this collection.",
            autocompletion=complete_collection,
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="The largest number of jobs to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    found = current(context).client(collection).jobs(status=status, kind=kind, collection=collection)
    jobs = itertools.islice(found, limit)
    if as_json:
        output.data(job.data for job in jobs)
        return
    rows = [(job.id, job.kind, job.status, job.collection, _done(job), job.created_at) for job in jobs]
    output.table(("id", "kind", "status", "collection", "done", "created"), rows, right=("done",))


@app.command()
def show(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job."""
    job = current(context).client().job(job_id)
    if as_json:
        output.data(job.data)
        return
    output.fields(
        {
            "id": job.id,
            "kind": job.kind,
            "status": job.status,
            "collection": job.collection,
            "images": following.summary(job) if job.kind in STORING else None,
            "created": job.created_at,
            "started": job.data.started_at,
            "finished": job.finished_at,
            "expires": job.data.expires_at,
            "parent": job.parent_id,
            "error": f"{job.error.detail} [{job.error.code}]" if job.error else None,
        }
    )


@app.command()
def watch(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Follow a job to its end; the exit code tells its outcome."""
    job = following.follow(current(context).client().job(job_id))
    output.data(job.data) if as_json else output.line(following.outcome(job))
    following.finish(job)


@app.command()
def items(
    context: typer.Context,
    job_id: JobId,
    status: Annotated[ItemStatus | None, typer.Option(help="Only items with this status.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the outcome of each image."""
    found = current(context).client().job(job_id).items(status)
    if as_json:
        output.data(found)
        return
    rows = ((item.key, item.status, item.image_id, _reason(item.error)) for item in found)
    output.table(("key", "status", "id", "reason"), rows)


@app.command()
def cancel(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Cancel a job; finished images stay."""
    job = current(context).client().job(job_id).cancel()
    output.data(job.data) if as_json else output.line(f"{job.id}\t{job.status}")


@app.command()
def retry(
    context: typer.Context,
    job_id: JobId,
    everything: Annotated[bool, typer.Option("--all", help="Retry all images, not only the failed ones.")] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Put the failed images of a finished job into a new one."""
    job = current(context).client().job(job_id).retry("all" if everything else "failed")
    output.say(f"New job {job.id}.")
    if wait:
        following.follow(job)
        output.data(job.data) if as_json else output.line(following.outcome(job))
        following.finish(job)
    else:
        output.data(job.data) if as_json else output.line(job.id)


def _done(job: Job[Any]) -> str:
    progress = job.progress
    if job.kind not in STORING:
        return ""
    return f"{progress.done}/{'?' if progress.total is None else progress.total}"


def _reason(error: Any) -> str:
    return f"{error.detail} [{error.code}]" if error else ""
