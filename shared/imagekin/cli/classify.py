"""`imagekin classify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagekin.cli import filtering, following, output
from imagekin.cli.search import write
from imagekin.cli.session import AsJson, InCollection, View, current


def command(
    context: typer.Context,
    collection: InCollection,
    field: Annotated[
        str | None, typer.Option(metavar="NAME", help="The field that labels stand in.", show_default="label")
    ] = None,
    min_probability: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out what is less sure.", show_default="0")
    ] = None,
    view: View = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the folds.", show_default="100")] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a contact sheet (PNG).")] = None,
    as_json: AsJson = False,
) -> None:
    """Suggest labels for the unlabelled images, most certain first.

    They are learned from the images that have one: at least two of each of two classes.
    """
    client = current(context).client(collection)
    job = client.classify(collection, field=field, min_probability=min_probability, view=view, seed=seed)
    result = following.result(job)
    if as_json:
        output.data(result)
    else:
        rows = [
            (f"{found.probability:.4f}", filtering.label_text(found.label), found.key, found.id)
            for found in result.rows
        ]
        output.table(("probability", "label", "key", "id"), rows, right=("probability",))
    sure = result.accuracy
    output.say(
        f"Classification {job.id}: {100 * sure.value:.1f} % of {sure.examples:,} examples right when left out, "
        f"{100 * sure.low:.1f} to {100 * sure.high:.1f} % with 95 % confidence."
    )
    if sheet:
        write(sheet, job.sheet())
