"""`imagekin up` and `imagekin demo`: everything on this machine, in one tree of processes."""

from __future__ import annotations

import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from imagekin.cli import output
from imagekin.client import Client, bodies

DEMO_DIR = Path("imagekin-demo")
# Of each extra one package: what the processes of the stack would end for the want of.
_NEEDED = ("sqlalchemy", "celery", "flask", "torch", "PIL")


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 chooses a free one.", show_default="8000")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where all data is kept.", show_default="imagekin-data")] = None,
    source_root: Annotated[
        list[Path] | None,
        typer.Option(help="A folder whose pictures are read in place; repeatable.", show_default="this folder"),
    ] = None,
) -> None:
    """Start everything on this machine; Ctrl-C stops everything."""
    for path in source_root or ():
        if not bodies.expanded(path).is_dir():
            raise typer.BadParameter(f"there is no folder {path}", param_hint="--source-root")
    stack = _stack(host=host, port=port, data_dir=data_dir, source_roots=_roots(source_root))
    with stack:
        output.say(f"The gallery is at {stack.url} (for programs: {stack.url}/docs)")
        output.say("Ctrl-C stops it.")
        output.line(stack.url)
        stack.wait()
    output.say("Stopped.")


def demo(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Your own pictures.", show_default="30 drawn ones")
    ] = None,
    data_dir: Annotated[Path, typer.Option(help="Where data and contact sheets are kept.")] = DEMO_DIR,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running until Ctrl-C, to look around.")
    ] = False,
) -> None:
    """Embed, search and cluster 30 drawn pictures of furniture, or your own, and stop."""
    from imagekin.demo import run

    if folder is not None and not bodies.expanded(folder).is_dir():
        raise typer.BadParameter(f"there is no folder {folder}", param_hint="FOLDER")
    own = bodies.expanded(folder).resolve() if folder else None
    stack = _stack(port=0, data_dir=data_dir, source_roots=(str(own),) if own else None)
    with stack:
        with Client(stack.url) as client:
            figures = run.demonstrate(client, own, data_dir, output.stdout())
        if keep:
            output.line(f"\nLook at them in the gallery: {stack.url}/c/{figures.collection}")
            output.say("Ctrl-C stops it.")
            stack.wait()
    output.say("Stopped.")
    output.line(f"\n{_reopening(data_dir, figures.collection)}")


def _reopening(data_dir: Path, collection: str) -> str:
    """Return the line that says how to open a stopped demo's collection in the gallery."""
    from imagekin.settings import Settings
    from imagekin.stack import port

    program = sys.argv[0] if Path(sys.argv[0]).name == "imagekin" else "imagekin"
    command = shlex.join([program, "up", "--data-dir", str(data_dir)])
    settings = Settings()
    # a free port is known when it is chosen; `up` prints it
    url = port.url(settings.host, settings.port) if settings.port else ""
    return f"Look at them in the gallery: {command}, then open {url}/c/{collection}"


def _stack(**given: Any) -> Any:
    for name in _NEEDED:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    from imagekin.settings import Settings
    from imagekin.stack import Stack

    fields = {name: value for name, value in given.items() if value is not None}
    return Stack(Settings(**fields), log=output.say)


def _roots(given: list[Path] | None) -> tuple[str, ...] | None:
    """Return the folders that jobs may read: those given, else the setting's, else the current one."""
    if given:
        return tuple(str(bodies.expanded(path).resolve()) for path in given)
    return None if "IMAGEKIN_SOURCE_ROOTS" in os.environ else (str(Path.cwd()),)
