"""Commands of the service's packages, found by entry point and imported when called, not when listed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

GROUP = "imagekin.commands"
HELP_OPTION_NAMES = ["-h", "--help"]
_SUMMARIES = {
    "api": "Run the API, for production; `imagekin up` runs everything.",
    "worker": "Run a worker, for production; `imagekin up` runs everything.",
    "db": "Create and upgrade the database's tables.",
    "blobs": "Move vectors and thumbnails between database and object storage.",
    "keys": "Make, list and revoke API keys.",
    "doctor": "Check that nothing was lost.",
    "bench": "Measure this machine.",
}
_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def points() -> list[metadata.EntryPoint]:
    """Return the entry points by name."""
    return sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name)


def join(app: typer.Typer) -> None:
    """Add a command to `app` for every entry point; it passes its arguments to the real one."""
    for point in points():
        summary = _SUMMARIES.get(point.name, f"A command of {point.value.partition(':')[0]}.")
        app.command(
            point.name,
            cls=_Passing,
            help=summary,
            context_settings=dict(_PASS_ON),
            rich_help_panel="Service",
            add_help_option=False,
        )(_passing(point))


def command(point: metadata.EntryPoint) -> Any:
    """Load the real command of an entry point, as click runs it."""
    real = point.load()
    return typer.main.get_command(real if isinstance(real, typer.Typer) else _app(real))


class _Passing(TyperCommand):
    """Passes arguments and completions to the real command of the same name."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        words = list(ctx.args)
        try:
            real = command(metadata.entry_points(group=GROUP)[self.name or ""])
        except ModuleNotFoundError:
            return []
        if isinstance(real, TyperGroup) and words:
            real = real.commands.get(words.pop(0), real)
        return real.shell_complete(real.make_context(self.name, words, parent=ctx, resilient_parsing=True), incomplete)


def _passing(point: metadata.EntryPoint) -> Callable[[typer.Context], None]:
    def call(context: typer.Context) -> None:
        code = command(point).main(
            args=list(context.args),
            prog_name=context.command_path,
            standalone_mode=False,
            help_option_names=HELP_OPTION_NAMES,
        )
        if isinstance(code, int) and code:
            raise typer.Exit(code)

    return call


def _app(function: Callable[..., Any]) -> typer.Typer:
    app = typer.Typer(add_completion=False)
    app.command()(function)
    return app
