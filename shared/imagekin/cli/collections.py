"""`imagekin collections`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from imagekin.cli import output
from imagekin.cli.session import AsJson, complete_collection, current

app = typer.Typer(help="Show and delete collections.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The collection.", autocompletion=complete_collection)]


@app.command("list")
def list_collections(context: typer.Context, as_json: AsJson = False) -> None:
    """List the collections."""
    found = current(context).client().collections()
    if as_json:
        output.data(found)
        return
    rows = [(each.name, each.image_count, each.backbone, each.weights, each.dim, each.created_at) for each in found]
    output.table(("name", "images", "backbone", "weights", "dim", "created"), rows, right=("images", "dim"))


@app.command()
def show(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Show one collection."""
    collection = current(context).client(name).collection(name)
    output.data(collection) if as_json else output.fields(collection.model_dump())


@app.command()
def delete(
    context: typer.Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a collection with everything in it."""
    client = current(context).client(name)
    collection = client.collection(name)
    count = collection.image_count
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("without a terminal, confirm with --yes", param_hint="--yes")
        typer.confirm(f"Delete {name} with its {count:,} images?", abort=True, err=True)
    client.delete_collection(name)
    if as_json:
        output.data(collection)
    output.say(f"Deleted {name}, {count:,} images.")
