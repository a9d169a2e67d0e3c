"""`imagekin duplicates`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagekin.cli import filtering, following, output
from imagekin.cli.filtering import Where
from imagekin.cli.search import write
from imagekin.cli.session import AsJson, InCollection, ViewElseRaw, current


def command(
    context: typer.Context,
    collection: InCollection,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Cosine from which images are near-duplicates.", show_default="of the images"),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="NAME", help="A collection whose images are looked for in this one.")
    ] = None,
    between: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Only images whose values of this metadata field differ.")
    ] = None,
    view: ViewElseRaw = None,
    where: Where = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a contact sheet of the first groups (PNG).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find near-duplicates, in groups with the image to keep."""
    wanted = filtering.parsed(where)
    client = current(context).client(collection)
    job = client.duplicates(collection, threshold=threshold, against=against, between=between, view=view, filter=wanted)
    result = following.result(job)
    if as_json:
        output.data(result)
    else:
        rows = [
            (group.group, member.reason or f"keep: {group.keep.because}", f"{member.score:.4f}", member.key, member.id)
            for group in result.groups
            for member in group.members
        ]
        output.table(("group", "reason", "score", "key", "id"), rows, right=("group", "score"))
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in result.by_reason.items() if count)
    output.say(
        f"Duplicates {job.id}: {result.duplicates:,} of {result.images:,} images could go ({reasons or 'none'}), "
        f"{len(result.look):,} pairs to look at; threshold {result.threshold:.4f} in the {result.view.name} view."
    )
    if sheet:
        write(sheet, job.sheet())
