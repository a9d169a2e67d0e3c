"""`imagekin clusters`."""

from __future__ import annotations

from typing import Annotated

import typer

from imagekin.cli import cluster, output
from imagekin.cli.jobs import JobId
from imagekin.cli.session import AsJson, current, text_of

app = typer.Typer(help="Show and name the clusters that `imagekin cluster` found.", no_args_is_help=True)


@app.command("list")
def list_clusters(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """List the clusters of a finished clustering, the largest first."""
    result = current(context).client().job(job_id).result()
    if as_json:
        output.data(result.clusters)
    else:
        cluster.table(result)


@app.command()
def name(
    context: typer.Context,
    job_id: JobId,
    label: Annotated[int, typer.Argument(metavar="LABEL", min=0, help="The number of the cluster.")],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="What the cluster is called; without one, it loses its name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Name a cluster; results and contact sheets show the name."""
    found = current(context).client().job(job_id).name_cluster(label, None if name is None else text_of(name))
    if as_json:
        output.data(found)
    else:
        output.say(
            f"Cluster {found.label} is called {found.name}." if found.name else f"Cluster {found.label} has no name."
        )
