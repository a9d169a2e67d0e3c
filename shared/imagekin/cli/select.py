"""`imagekin select`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from imagekin.cli import filtering, following, output
from imagekin.cli.filtering import Where
from imagekin.cli.search import write
from imagekin.cli.session import AsJson, InCollection, View, current
from imagekin.enums import SelectMethod
from imagekin.schemas import MAX_SELECT


def command(
    context: typer.Context,
    collection: InCollection,
    n: Annotated[int, typer.Option("--n", "-n", min=1, max=MAX_SELECT, help="How many images.")],
    method: Annotated[
        SelectMethod | None,
        typer.Option(help="Typical ones, or diverse ones, strange first.", show_default="representative"),
    ] = None,
    view: View = None,
    where: Where = None,
    avoid: Annotated[
        str | None, typer.Option(metavar="NAME", help="Choose images unlike those of this collection.")
    ] = None,
    avoid_image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID", help="Choose images unlike this one. May be given again; - reads ids from stdin, one a line."
        ),
    ] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a contact sheet (PNG).")] = None,
    as_json: AsJson = False,
) -> None:
    """Choose images of a collection to look at or to label first, in this order."""
    if avoid is not None and avoid_image:
        raise typer.BadParameter("give --avoid or --avoid-image, not both", param_hint="--avoid")
    ids = [line.strip() for line in sys.stdin if line.strip()] if avoid_image == ["-"] else avoid_image
    wanted = filtering.parsed(where)
    client = current(context).client(collection)
    job = client.select(collection, n, method=method, view=view, filter=wanted, avoid=ids or avoid)
    result = following.result(job)
    if as_json:
        output.data(result)
    else:
        rows = [(found.rank, f"{found.distance:.4f}", found.key, found.id) for found in result.rows]
        output.table(("rank", "distance", "key", "id"), rows, right=("rank", "distance"))
    output.say(f"Selection {job.id}: coverage {result.coverage:.4f} in the {result.view.name} view.")
    if sheet:
        write(sheet, job.sheet())
