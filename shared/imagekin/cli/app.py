"""The root of the command line: its options, its commands, and how it reports failures."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module, metadata
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from imagekin.cli import (
    backbones,
    clusters,
    collections,
    export,
    extensions,
    images,
    index,
    jobs,
    label,
    output,
    server,
)
from imagekin.cli.session import FAILURE, INTERRUPTED, USAGE, Session
from imagekin.errors import ImagekinError
from imagekin.schemas.kinds import JobKind


class _Root(TyperGroup):
    """Turns exceptions into a line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ImagekinError as error:
            _complain(f"{error.detail} [{error.code}]")
            session = ctx.obj
            if isinstance(session, Session) and (hint := _hint(session, error)):
                output.say(hint)
            raise typer.Exit(FAILURE) from error
        except ValidationError as error:
            from imagekin import settings

            for complaint in settings.complaints(error):
                _complain(complaint)
            raise typer.Exit(USAGE) from error
        except ModuleNotFoundError as error:
            # Own modules are always there; the others come with the extras.
            if (error.name or "").startswith("imagekin"):
                raise
            _complain(
                f'this needs the service\'s packages ({error.name} is missing): pip install "imagekin[quickstart]"'
            )
            raise typer.Exit(FAILURE) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            raise typer.Exit(FAILURE) from error
        except KeyboardInterrupt:
            output.say("Interrupted.")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Root,
    help="Find an image's kin: embed, search and cluster pictures.",
    no_args_is_help=True,
    context_settings={"help_option_names": extensions.HELP_OPTION_NAMES},
    pretty_exceptions_enable=False,
    epilog="IMAGEKIN_URL and IMAGEKIN_API_KEY name the server and your key. "
    "Exit codes: 0 success, 1 failure, 2 usage, 3 partial.",
)
app.command()(server.demo)
app.command()(server.up)
for kind in JobKind:
    if kind is not JobKind.INDEX:
        app.command(kind.value)(import_module(f"imagekin.cli.{kind.module}").command)
app.command("backbones")(backbones.list_backbones)
app.command("label")(label.command)
app.command()(export.export)
app.add_typer(jobs.app, name="jobs")
app.add_typer(clusters.app, name="clusters")
app.add_typer(collections.app, name="collections")
app.add_typer(images.app, name="images")
app.add_typer(index.app, name="index")
extensions.join(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.line(f"imagekin {metadata.version('imagekin')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(envvar="IMAGEKIN_URL", help="The server.", show_default="http://127.0.0.1:8000")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    context.obj = Session(url)
    context.call_on_close(context.obj.close)


def main() -> None:
    """Run the command line."""
    output.speak_any_text()
    try:
        app(prog_name="imagekin")
    except Exception as error:  # noqa: BLE001 - the last one: all that it tells is told
        _leave_with(error)


def _leave_with(error: Exception) -> NoReturn:
    """Report an unexpected error, with its traceback if that was asked for: it is for us, not for a user."""
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has enough; closing stderr keeps Python from complaining at exit.
        sys.stderr.close()
        raise SystemExit(FAILURE) from None
    if os.environ.get("IMAGEKIN_LOG_LEVEL", "").lower() == "debug":
        traceback.print_exception(error)
    _complain(
        f"{type(error).__name__}: {error}. This is a bug in imagekin; please report it with the traceback that "
        "IMAGEKIN_LOG_LEVEL=debug shows. [internal_error]"
    )
    raise SystemExit(FAILURE) from None


def _complain(message: str) -> None:
    console = output.stderr()
    console.print("[bold red]imagekin:[/] ", end="")
    output.say(message)


def _hint(session: Session, error: ImagekinError) -> str:
    try:
        return session.hint(error)
    except ImagekinError:
        return ""
