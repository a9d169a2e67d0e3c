"""`imagekin outliers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagekin.cli import filtering, following, output
from imagekin.cli.filtering import Where
from imagekin.cli.search import write
from imagekin.cli.session import AsJson, InCollection, View, current
from imagekin.schemas import MAX_OUTLIERS


def command(
    context: typer.Context,
    collection: InCollection,
    n: Annotated[
        int | None, typer.Option("--n", "-n", min=1, max=MAX_OUTLIERS, help="How many images.", show_default="100")
    ] = None,
    view: View = None,
    where: Where = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a contact sheet of the first ones (PNG).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the images that are least like all others, strangest first."""
    wanted = filtering.parsed(where)
    job = current(context).client(collection).outliers(collection, n, view=view, filter=wanted)
    result = following.result(job)
    if as_json:
        output.data(result)
    else:
        rows = [
            (found.rank, f"{found.score:.4f}", found.key, found.id, found.nearest.key if found.nearest else "")
            for found in result.rows
        ]
        output.table(("rank", "score", "key", "id", "nearest"), rows, right=("rank", "score"))
    output.say(f"Outliers {job.id}: {result.n:,} of {result.images:,} images in the {result.view.name} view.")
    if sheet:
        write(sheet, job.sheet())
