"""`imagekin images`."""

from __future__ import annotations

import itertools
import sys
from typing import Annotated

import typer

from imagekin.cli import filtering, output
from imagekin.cli.filtering import Where
from imagekin.cli.label import Keys, chosen_keys, report
from imagekin.cli.session import AsJson, InCollection, current, text_of
from imagekin.enums import ImageOrder

app = typer.Typer(help="Look at the images of a collection and delete them.", no_args_is_help=True)


@app.command("list")
def list_images(
    context: typer.Context,
    collection: InCollection,
    where: Where = None,
    prefix: Annotated[str | None, typer.Option(metavar="TEXT", help="Only images whose key begins like this.")] = None,
    order: Annotated[ImageOrder | None, typer.Option(help="The order.", show_default="created")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most this many.")] = None,
    as_json: AsJson = False,
) -> None:
    """List images: all of them, or those that a filter or the beginning of their keys chooses."""
    client = current(context).client(collection)
    begins = None if prefix is None else text_of(prefix)
    found = client.images(collection, filter=filtering.parsed(where), prefix=begins, order=order)
    images = itertools.islice(found, limit)
    if as_json:
        output.data(images)
        return
    rows = ((each.key, each.id, each.width, each.height, filtering.shown(each.metadata)) for each in images)
    output.table(("key", "id", "width", "height", "metadata"), rows, right=("width", "height"))


@app.command()
def delete(
    context: typer.Context,
    collection: InCollection,
    keys: Keys = None,
    where: Where = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete images by their keys or by a filter.

    Prints the number of images that were deleted.
    """
    client = current(context).client(collection)
    chosen, wanted = chosen_keys(keys), filtering.parsed(where)
    if (chosen is None) == (wanted is None):
        raise typer.BadParameter("name the images by KEY... or by --filter, and by one of these", param_hint="KEY...")
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("without a terminal, confirm with --yes", param_hint="--yes")
        count = len(chosen) if chosen is not None else client.count_images(collection, filter=wanted)
        typer.confirm(f"Delete {count:,} images of {collection}?", abort=True, err=True)
    report(client.delete_images(collection, image_keys=chosen, filter=wanted), as_json)
