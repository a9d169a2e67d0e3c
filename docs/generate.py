"""Write the reference pages that are made of the code: `make docs`.

errors.md of the error tree, cli.md of the commands, api.md of the OpenAPI document, doctor.md of the doctor's checks;
beside them map.md, of all modules.
A test holds them to the code.
"""

from __future__ import annotations

import ast
import enum
import inspect
import re
import tempfile
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from imagekin import errors
from imagekin.cli import extensions
from imagekin.cli.app import app as cli
from imagekin.client import problems as client_problems
from imagekin.doctor.examination import CHECKS
from imagekin.settings import Settings
from imagekin.stack import errors as stack_errors
from imagekin_api.app import create_app
from imagekin_api.documents import openapi, reference
from imagekin_api.http import problems as api_problems

FOLDER = Path(__file__).parent / "reference"
MAP = Path(__file__).parent / "map.md"
ROOT = Path(__file__).parents[1]
PACKAGES = ("shared/imagekin", "api/imagekin_api", "worker/imagekin_worker", "migrations/imagekin_migrations")
NOTE = "<!-- Made of the code by `make docs`; change it there. -->"
MODULES = (errors, api_problems, client_problems, stack_errors)


def pages() -> dict[str, Callable[[], Iterable[str]]]:
    """Return the maker of each page's lines, by file name."""
    return {"errors.md": error_page, "cli.md": cli_page, "api.md": api_page, "doctor.md": doctor_page}


def text(make: Callable[[], Iterable[str]]) -> str:
    """Return a page as it stands in its file."""
    return "\n".join([NOTE, "", *make()]).rstrip() + "\n"


# --- errors ----------------------------------------------------------------------------------------------------


def error_page() -> Iterator[str]:
    """Make the page of all codes."""
    families = {
        "Answers of the API": _family(errors.ImagekinError, but=(errors.JobError, errors.ItemError, *_PROCESS)),
        "What ends a job": _family(errors.JobError),
        "What ends an image": _family(errors.ItemError),
        "What the client finds by itself": [each for each in _all() if each.__module__ == client_problems.__name__],
        "What stops a process": [each for root in _PROCESS for each in _family(root)],
    }
    yield from _lines(_ERRORS)
    for heading, family in families.items():
        has_status = heading == "Answers of the API"
        yield from ("", f"## {heading}", "", *_lines(_ABOUT[heading]), "")
        yield from _row("code", *(["status"] if has_status else []), "again?", "meaning")
        yield "|---" * (3 + has_status) + "|"
        for each in sorted(family, key=lambda each: (each.http_status if has_status else 0, each.code)):
            status = [str(each.http_status)] if has_status else []
            yield from _row(f"`{each.code}`", *status, "yes" if each.retryable else "", each.__doc__ or "")


_PROCESS = (errors.NotReady, errors.LeaseLost, stack_errors.StackError)
_ERRORS = """
# Errors

Every failure has a code that stays, and a detail for people that may change. *Again?* says whether the same, later, can
succeed. In Python each is a class of `imagekin.errors`, with `code`, `detail` and `retryable`.
"""
_ABOUT = {
    "Answers of the API": """
As `application/problem+json` (RFC 9457): `type`, `title`, `status`, `detail`, `code`, and in `errors` a JSON pointer to
each wrong field. 429 and 503 have `Retry-After`; the Python client waits that long and tries again.
""",
    "What ends a job": """
In a job's `error`, where its `status` is `failed`. A search, of one picture, may end with a code of an image, too.
""",
    "What ends an image": """
In an item's `error`, where its `status` is `failed`; the other images of the job continue.
""",
    "What the client finds by itself": """
Raised by the Python client and told by the command line; no server sends them.
""",
    "What stops a process": """
Told by `imagekin up`, `imagekin api` and `imagekin worker`, or in their logs.
""",
}


def _all() -> list[type[errors.ImagekinError]]:
    # by the modules' names: the client makes classes for codes that it does not know
    values = [value for module in MODULES for value in vars(module).values() if isinstance(value, type)]
    return [each for each in dict.fromkeys(values) if issubclass(each, errors.ImagekinError)]


def _family(
    root: type[errors.ImagekinError], but: tuple[type[errors.ImagekinError], ...] = ()
) -> list[type[errors.ImagekinError]]:
    kept = [each for each in _all() if issubclass(each, root) and not (but and issubclass(each, but))]
    # a root that only groups others has the code of one of them, or is never raised
    by_code = {each.code: each for each in kept if each is not errors.JobError and each is not errors.ItemError}
    return [each for each in by_code.values() if each.__module__ != client_problems.__name__]


# --- the command line ------------------------------------------------------------------------------------------


def cli_page() -> Iterator[str]:
    """Make the page of all commands."""
    yield from _lines(_CLI)
    root = typer.main.get_command(cli)
    yield from _parameters(root)
    service = {point.name for point in extensions.points()} | {"demo", "up"}
    for words, command in commands():
        if not hasattr(command, "commands"):
            mark = " (service)" if words[0] in service else ""
            yield from ("", f"## `imagekin {' '.join(words)}`{mark}", "", *_lines(inspect.cleandoc(command.help or "")))
            yield from _parameters(command)


_CLI = """
# Command line

Results go to stdout, everything else to stderr. `--json` prints for programs; without it rows are a table on a terminal
and tab-separated elsewhere. Exit codes: 0 success, 1 failure, 2 a wrong call, 3 a partial success, 130 after Ctrl-C.
`IMAGEKIN_URL` and `IMAGEKIN_API_KEY` name the server and your key. Every command has `--help` (`-h`).

Commands marked *service* need the packages of the service (`pip install "imagekin[quickstart]"`), the others only the
client (`pip install imagekin`).
"""


def commands() -> Iterator[tuple[list[str], Any]]:
    """Yield every command and group with its words, those of the service's packages included."""
    service = {point.name: point for point in extensions.points()}
    for name, found in typer.main.get_command(cli).commands.items():  # type: ignore[attr-defined] - a group
        command = extensions.command(service[name]) if name in service else found
        yield [name], command
        for inner, below in getattr(command, "commands", {}).items():
            yield [name, inner], below


def _parameters(command: Any) -> Iterator[str]:
    hints = typing.get_type_hints(inspect.unwrap(command.callback)) if command.callback else {}
    shown = [each for each in command.params if each.name in hints or each.name == "version"]
    if shown:
        yield from ("", "| | | default |", "|---|---|---|")
    for each in shown:
        yield from _row(_names(each, hints.get(each.name, bool)), each.help or "", _default(each))


def _names(parameter: Any, hint: Any) -> str:
    choices = [str(each.value) for each in _enum(hint)]
    if type(parameter).__name__ == "TyperArgument":
        return f"`{parameter.metavar or parameter.name.upper()}{'...' if parameter.nargs == -1 else ''}`"
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    value = " | ".join(f"`{choice}`" for choice in choices) or (f"`{parameter.metavar}`" if parameter.metavar else "")
    return f"{names} {value}".strip()


def _enum(hint: Any) -> list[enum.Enum]:
    kinds = [hint, *typing.get_args(hint)]
    return next((list(kind) for kind in kinds if isinstance(kind, type) and issubclass(kind, enum.Enum)), [])


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    default = parameter.default
    if callable(default) or default in (None, False, "", ()):
        return ""
    if default is True:
        return f"`{parameter.opts[0]}`"
    return f"`{default.value if isinstance(default, enum.Enum) else default}`"


# --- the API ---------------------------------------------------------------------------------------------------


def api_page() -> Iterator[str]:
    """Make the page of all calls."""
    page = reference.page(openapi.document(app()))
    calls = [call for group in page["calls"].values() for call in group]
    always = set.intersection(*(set(_errors(call)) for call in calls))
    yield from _lines(_API)
    yield from ("", f"Every call may answer {_named(sorted(always))}; what else may come stands with each.")
    for tag, group in page["calls"].items():
        yield from ("", f"## {page['titles'][tag]}")
        for call in group:
            yield from _call(call, always)
    yield from ("", "## Types")
    for name, fields in page["types"].items():
        yield from ("", f"### {name}", "", "| field | type | |", "|---|---|---|")
        for each in fields:
            yield from _row(f"`{each.name}`", each.type, each.description)
    yield from ("", "### Words", "", "| type | one of |", "|---|---|")
    for name, words in page["words"].items():
        yield from _row(name, ", ".join(f"`{word}`" for word in words))


_API = """
# HTTP API

JSON in and out, times RFC 3339 in UTC. A key goes into `Authorization: Bearer <key>`. Errors are
[problems with a code](errors.md). A page of a list is `{"items": [...], "next_cursor": ...}`: `limit` (50, at most
1,000) says how many, `cursor` takes the `next_cursor` of the previous page. Every server has
the same as OpenAPI 3.1 at `/openapi.json` and as a page at `/docs`, and beside it `GET /healthz`, `GET /readyz` and
`GET /metrics`.
"""


def app() -> Any:
    """Build the app for its addresses; it asks no database."""
    with tempfile.TemporaryDirectory() as folder:
        return create_app(Settings(data_dir=Path(folder)))


def _call(call: Any, always: set[tuple[str, str]]) -> Iterator[str]:
    yield from ("", f"### `{call.method} {call.path}`", "", f"{call.summary}. {_joined(call.description)}".strip(), "")
    for each in call.parameters:
        yield f"- `{each.name}` ({each.type}) {_joined(each.description)}".rstrip()
    yield from (f"- body `{media_type}`: {_paged(words)}" for media_type, words in call.bodies)
    yield from (f"- {status}: {_paged(words)}" for status, words in call.answers if status < "400")
    own = [error for error in _errors(call) if error not in always]
    if own:
        yield f"- errors: {_named(own)}"


def _errors(call: Any) -> list[tuple[str, str]]:
    """Return status and code of each error that a call may answer."""
    return [(status, code) for status, codes in call.answers if status >= "400" for code in codes.split(", ")]


def _named(found: list[tuple[str, str]]) -> str:
    return ", ".join(f"{status} `{code}`" for status, code in found)


def _paged(words: str) -> str:
    return re.sub(r"Page_(\w+)_", r"a page of \1", words)


# --- the doctor ------------------------------------------------------------------------------------------------

_DOCTOR = """
# What the doctor checks

`imagekin doctor` holds each sentence against every row that it is about. [When to ask it, and what to do with its
answer](../how-to/doctor.md).
"""


def doctor_page() -> Iterator[str]:
    """Make the page of the checks."""
    yield from (*_lines(_DOCTOR), "", *_row("check", "what must hold", "`--repair`"), "|---|---|---|")
    for check in CHECKS:
        yield from _row(f"`{check.name}`", check.sentence, "yes" if check.repair else "")


# --- the map ---------------------------------------------------------------------------------------------------

_MAP = """
# Map

Every module, by room, with the first line of its docstring. A room is a folder; the line below its heading is the
package's own. The words are in the [glossary](glossary.md).
"""


def module_lines(package: str) -> dict[Path, str]:
    """Return the first docstring line of each module by its path from the root; "" where it is missing."""
    lines = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        lines[path.relative_to(ROOT)] = docstring.partition("\n")[0]
    return lines


def functions(path: Path) -> str:
    """Return the public functions that a module defines itself, as Markdown."""
    if not (ROOT / path).exists():
        return ""
    defined = [node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)]
    return ", ".join(f"`{name}`" for name in defined if not name.startswith("_"))


def map_page() -> Iterator[str]:
    """Make the page of all modules."""
    yield from _lines(_MAP)
    for package in PACKAGES:
        lines = module_lines(package)
        for room in sorted({path.parent for path in lines}):
            yield from ("", f"## {room}", "")
            if line := lines.get(room / "__init__.py"):
                yield from (line, "")
            yield from (*_row("module", "what it is"), "|---|---|")
            if offered := functions(room / "__init__.py"):
                yield from _row(f"[the room itself](../{room}/__init__.py)", f"Its own functions: {offered}.")
            for path, line in lines.items():
                if path.parent == room and path.name != "__init__.py":
                    yield from _row(f"[{path.name}](../{path})", line)


# --- Markdown --------------------------------------------------------------------------------------------------


def _lines(text: str) -> list[str]:
    return text.strip().splitlines()


def _row(*cells: str) -> Iterator[str]:
    joined = " | ".join(_joined(cell).replace("|", "\\|") for cell in cells)
    yield f"| {joined} |"


def _joined(text: str) -> str:
    return " ".join(text.split())


def main() -> None:
    """Write all pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, make in pages().items():
        (FOLDER / name).write_text(text(make))
    MAP.write_text(text(map_page))


if __name__ == "__main__":
    main()
