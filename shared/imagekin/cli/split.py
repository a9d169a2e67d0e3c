"""`imagekin split`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagekin.cli import filtering, following, output
from imagekin.cli.search import write
from imagekin.cli.session import AsJson, InCollection, current, text_of


def command(
    context: typer.Context,
    collection: InCollection,
    shares: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=PART,...",
            help="Names and sizes of the shares, together 1.",
            show_default="train=0.8,val=0.1,test=0.1",
        ),
    ] = None,
    stratify: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="A field whose values are divided by the same shares, such as label."),
    ] = None,
    field: Annotated[
        str | None, typer.Option(metavar="NAME", help="The field that is written.", show_default="split")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed, another split.", show_default="100")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Cosine from which images are near-duplicates.", show_default="of the images"),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a contact sheet of the shares (PNG).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Split a collection into shares such as train, val and test, near-duplicates on one side.

    Each image gets the name of its share as the field `split` of its metadata.
    """
    client = current(context).client(collection)
    job = client.split(
        collection, field=field, shares=_parsed(shares), stratify=stratify, seed=seed, threshold=threshold
    )
    result = following.result(job)
    if as_json:
        output.data(result)
    elif result.stratify is None:
        rows = [(share.share, f"{share.wanted:g}", share.images) for share in result.counts]
        output.table(("share", "wanted", "images"), rows, right=("wanted", "images"))
    else:
        by_class = [
            (share.share, "" if each.label is None else filtering.label_text(each.label), each.count)
            for share in result.counts
            for each in share.classes
        ]
        output.table(("share", "label", "images"), by_class, right=("images",))
    output.say(
        f"Split {job.id}: {result.images:,} images, of which {result.grouped:,} lie in {result.groups:,} groups of "
        f"near-duplicates; the field {result.field} has their share."
    )
    if sheet:
        write(sheet, job.sheet())


def _parsed(shares: str | None) -> dict[str, float] | None:
    """Return what `--shares` was given, None if it was not; raises BadParameter."""
    if shares is None:
        return None
    found: dict[str, float] = {}
    for each in text_of(shares).split(","):
        name, _, part = each.rpartition("=")
        try:
            found[name.strip()] = float(part)
        except ValueError:
            name = ""
        if not name.strip():
            raise typer.BadParameter(f"{each!r} is not NAME=PART, such as train=0.8", param_hint="--shares")
    return found
