"""The command `imagekin api`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import ValidationError

from imagekin import errors
from imagekin.settings import Settings, complaints

FAILURE = 1
USAGE = 2


def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default IMAGEKIN_HOST.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; default IMAGEKIN_PORT.", min=1, max=65535)
    ] = None,
) -> None:
    """Serve the HTTP API in production; the settings come from IMAGEKIN_*."""
    from imagekin_api import server

    given: dict[str, Any] = {"host": host, "port": port}
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
        server.serve(settings)
    except ValidationError as error:
        for complaint in complaints(error):
            typer.echo(complaint, err=True)
        raise typer.Exit(USAGE) from None
    except errors.ImagekinError as error:
        typer.echo(error.detail, err=True)
        raise typer.Exit(USAGE if isinstance(error, errors.InvalidRequest) else FAILURE) from None


def main() -> None:
    """Run the command on its own."""
    typer.run(api)
