"""`imagekin adapt`."""

from __future__ import annotations

from typing import Annotated

import typer

from imagekin.cli import following, output
from imagekin.cli.session import AsJson, InCollection, current


def command(
    context: typer.Context,
    collection: InCollection,
    name: Annotated[str, typer.Option(metavar="NAME", help="The new collection.")],
    field: Annotated[
        str | None, typer.Option(metavar="NAME", help="The field that labels stand in.", show_default="label")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make it also if it is not better.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the halves.", show_default="100")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a new collection in which images of the same label are nearer, from the labels that are there.

    It is made only if cross-validation shows that it is better.
    """
    client = current(context).client(collection)
    job = client.adapt(collection, name, field=field, force=force or None, seed=seed)
    result = following.result(job)
    if as_json:
        output.data(result)
    else:
        rows = [
            ("precision at 5", _text(result.before.precision_at_5), _text(result.after.precision_at_5)),
            ("mean average precision", _text(result.before.map), _text(result.after.map)),
        ]
        output.table(("", "before", "after"), rows, right=("before", "after"))
    images = "image" if result.images == 1 else "images"
    output.say(f"Adaptation {job.id}: the collection {result.collection} has {result.images:,} {images}.")


def _text(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.4f}"
