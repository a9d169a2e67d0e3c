"""`imagekin backbones`."""

from __future__ import annotations

import typer

from imagekin.cli import output
from imagekin.cli.session import AsJson, current


def list_backbones(context: typer.Context, as_json: AsJson = False) -> None:
    """List the networks that a collection can use, and the weights of each."""
    found = current(context).client().backbones()
    if as_json:
        output.data(found)
        return
    rows = [(each.name, each.dim, ", ".join(each.weights), "default" if each.default else "") for each in found]
    output.table(("name", "dim", "weights", ""), rows, right=("dim",))
