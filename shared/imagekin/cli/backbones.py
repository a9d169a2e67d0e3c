"""`imagekin backbones`."""

from __future__ import annotations

from typing import Annotated

import typer

from imagekin.cli import output
from imagekin.cli.session import AsJson, current
from imagekin.enums import Library


def list_backbones(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A part of the name, such as dinov2.")] = None,
    source: Annotated[
        Library | None,
        typer.Option(
            help="Those of this library, or own: files of your own.", show_default="without a name, all but timm's"
        ),
    ] = None,
    dim: Annotated[int | None, typer.Option(help="Those with embeddings of this length.")] = None,
    license: Annotated[str | None, typer.Option(help="Those whose weights have this license.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the networks that a collection can use, and the weights of each."""
    found = current(context).client().backbones(name, source=source, dim=dim, license=license)
    if as_json:
        output.data(found)
        return
    left_out = 0
    if (name, source, dim, license) == (None,) * 4:
        shown = [each for each in found if each.source is not Library.TIMM]
        found, left_out = shown, len(found) - len(shown)
    rows = [
        (
            each.name,
            each.dim,
            ", ".join(each.weights),
            each.license or "unknown",
            "default" if each.default else "not for commercial use" if each.non_commercial else "",
        )
        for each in found
    ]
    output.table(("name", "dim", "weights", "license", ""), rows, right=("dim",))
    if left_out:
        output.say(f"And {left_out} of timm: `imagekin backbones --source timm`, or a part of the name.")
