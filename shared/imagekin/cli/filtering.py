"""Values and filters of metadata as they are typed."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from imagekin.cli.session import text_of

Where = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="NAME=VALUE",
        help="Only images whose metadata have this value; a JSON list is any of them, null is not set, ! before "
        "the name is the opposite. May be given again.",
    ),
]


def parsed(where: list[str] | None) -> dict[str, Any] | None:
    """Return what `--filter` was given as a filter, None if it was not given; raises BadParameter."""
    if not where:
        return None
    pairs = [pair.partition("=") for pair in where]
    if bad := [name for name, equals, _ in pairs if not equals]:
        raise typer.BadParameter(f"{bad[0]!r} is not NAME=VALUE", param_hint="--filter")
    return {text_of(name): value(text_of(typed)) for name, _, typed in pairs}


def value(text: str) -> Any:
    """Read what is JSON as that; all else is text, also NaN and numbers past a double, which Python would read."""
    try:
        found = json.loads(text)
        json.dumps(found, allow_nan=False)
    except ValueError:
        return text
    return found


def label_text(label: Any) -> str:
    """Return a label as it is typed: a text as it is, other values as JSON."""
    return label if isinstance(label, str) else json.dumps(label, ensure_ascii=False)


def shown(metadata: dict[str, Any]) -> str:
    """Return metadata as one line of JSON; an empty text without metadata."""
    return json.dumps(metadata, ensure_ascii=False) if metadata else ""
