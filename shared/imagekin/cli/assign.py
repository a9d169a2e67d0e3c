"""`imagekin assign`."""

from __future__ import annotations

from typing import Annotated

import typer

from imagekin.cli import following, output
from imagekin.cli.session import AsJson, Wait, complete_job, current, text_of


def command(
    context: typer.Context,
    clustering: Annotated[
        str,
        typer.Argument(
            metavar="JOB",
            help="The id of the cluster job, from `imagekin jobs list --kind cluster`.",
            autocompletion=complete_job,
        ),
    ],
    keys: Annotated[
        list[str] | None, typer.Option("--key", metavar="KEY", help="Only the image with this key; repeatable.")
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="Only the image with this id; repeatable.")
    ] = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Put images into the clusters of an earlier clustering: all that were added or changed since, or those named.

    Prints the label of each and its distance to that cluster's center, or the job's id with --no-wait.
    """
    if keys and ids:
        raise typer.BadParameter("name images by --key or by --id, not by both", param_hint="--key")
    job = (
        current(context)
        .client()
        .assign(clustering, image_keys=[text_of(key) for key in keys] if keys else None, image_ids=ids or None)
    )
    if not wait:
        following.detach(job, as_json)
        return
    result = following.result(job)
    if as_json:
        output.data(result)
        return
    rows = [(found.label, f"{found.distance:.4f}", found.key, found.id) for found in result.assignments]
    output.table(("label", "distance", "key", "id"), rows, right=("label", "distance"))
    if not rows:
        output.say("No image was added or changed since the clustering.")
