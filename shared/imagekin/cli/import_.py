"""`imagekin import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagekin.cli import following, output
from imagekin.cli.session import AsJson, InCollection, Wait, current
from imagekin.client import bodies, sending
from imagekin.client.progress import UploadBar
from imagekin.enums import OnConflict


def command(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An npz or Parquet file as written by `imagekin export`.")
    ],
    collection: InCollection,
    on_conflict: Annotated[
        OnConflict | None,
        typer.Option(help="What to do if a key is stored with another vector.", show_default="replace"),
    ] = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Put the vectors of a file into an existing collection of the same space.

    Prints the outcome of the rows, or the job's id with --no-wait.
    """
    path = bodies.expanded(file)
    size = path.stat().st_size
    client = current(context).client(collection)
    # before a large file is on its way to a name with a typing error
    client.collection(collection)
    with UploadBar() as bar:
        sent = sending.watched(1, size, bar.show)
        job = client.import_vectors(path, collection, on_conflict=on_conflict, sent=sent)
        bar.finish()
    if not wait:
        following.detach(job, as_json)
        return
    following.follow(job)
    output.data(job.data) if as_json else output.line(following.summary(job))
    following.finish(job)
