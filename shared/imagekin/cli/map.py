"""`imagekin map`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagekin.cli import filtering, following, output
from imagekin.cli.filtering import Where
from imagekin.cli.search import write
from imagekin.cli.session import AsJson, InCollection, View, current


def command(
    context: typer.Context,
    collection: InCollection,
    view: View = None,
    where: Where = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed, another map.", show_default="100")] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the map as a picture (PNG).")] = None,
    as_json: AsJson = False,
) -> None:
    """Lay a collection out in the plane, so that similar images lie together."""
    wanted = filtering.parsed(where)
    job = current(context).client(collection).map(collection, view=view, filter=wanted, seed=seed)
    result = following.result(job)
    if as_json:
        output.data(result)
    else:
        rows = [(f"{found.x:.4f}", f"{found.y:.4f}", found.key, found.id) for found in result.rows]
        output.table(("x", "y", "key", "id"), rows, right=("x", "y"))
    images = "image" if result.images == 1 else "images"
    output.say(f"Map {job.id}: {result.images:,} {images} in the {result.view.name} view.")
    if sheet:
        write(sheet, job.sheet())
