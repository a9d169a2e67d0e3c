"""`imagekin label`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from imagekin.cli import filtering, output
from imagekin.cli.filtering import Where
from imagekin.cli.session import AsJson, InCollection, current, text_of
from imagekin.schemas import ImagesChanged

Keys = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY...", help="Keys of images; - reads them from stdin, one a line."),
]


def command(
    context: typer.Context,
    collection: InCollection,
    label: Annotated[
        str | None, typer.Argument(metavar="LABEL", help="The label; without one, the labels are counted.")
    ] = None,
    keys: Keys = None,
    where: Where = None,
    field: Annotated[str, typer.Option(metavar="NAME", help="The field of the metadata that has the label.")] = "label",
    remove: Annotated[bool, typer.Option("--remove", help="Take LABEL from the images that have it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Label images by their keys or by a filter, or count the labels that there are.

    Prints the number of images that were labelled.
    """
    client = current(context).client(collection)
    if label is None:
        found = client.labels(collection, text_of(field))
        if as_json:
            output.data(found)
        else:
            output.table((field, "images"), ((each.value, each.count) for each in found), right=("images",))
        return
    name, value = text_of(field), filtering.value(text_of(label))
    chosen, wanted = chosen_keys(keys), filtering.parsed(where)
    if remove and chosen is None:
        wanted = {**(wanted or {}), name: value}
    elif (chosen is None) == (wanted is None):
        raise typer.BadParameter("name the images by KEY... or by --filter, and by one of these", param_hint="KEY...")
    given = {name: None if remove else value}
    changed = client.update_images(collection, metadata=given, image_keys=chosen, filter=wanted)
    report(changed, as_json)


def chosen_keys(keys: list[str] | None) -> list[str] | None:
    """Return the keys that were typed or come from stdin; None without keys."""
    if keys == ["-"]:
        return [line.rstrip("\n") for line in sys.stdin if line.strip()]
    return [text_of(key) for key in keys] if keys else None


def report(changed: int, as_json: bool) -> None:
    """Print how many images were changed."""
    if as_json:
        output.data(ImagesChanged(changed=changed))
    else:
        output.line(str(changed))
