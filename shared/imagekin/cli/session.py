"""One call of the command line: the client, created when a command needs it, and hints for its failures."""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Callable, Iterable
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from imagekin import errors
from imagekin.client import Client, Unreachable
from imagekin.enums import ViewName
from imagekin.schemas import NAME_RULE, Name, keys

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_COMPARED = "How images are compared; below 32 images always raw."
View = Annotated[ViewName | None, typer.Option(help=_COMPARED, show_default="calibrated")]
ViewElseRaw = Annotated[ViewName | None, typer.Option(help=_COMPARED, show_default="raw")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end of the job.")]


def _name(value: str) -> str:
    try:
        return _NAME.validate_python(value)
    except ValidationError:
        raise typer.BadParameter(f"{value!r} is not a valid collection name: {NAME_RULE}") from None


def _complete(context: typer.Context, names: Callable[[Client], Iterable[str]], begun: str) -> list[str]:
    """Return the server's names to complete; an empty list if it does not answer at once."""
    url = context.find_root().params.get("url")
    try:
        with Client(url, timeout_s=COMPLETION_TIMEOUT_S, retries=0) as client:
            return [name for name in names(client) if name.startswith(begun)]
    except errors.ImagekinError:
        return []


def complete_collection(context: typer.Context, incomplete: str) -> list[str]:
    return _complete(context, lambda client: (found.name for found in client.collections()), incomplete)


def complete_job(context: typer.Context, incomplete: str) -> list[str]:
    def newest(client: Client) -> Iterable[str]:
        return (job.id for job in itertools.islice(client.jobs(), COMPLETED_JOBS))

    return _complete(context, newest, incomplete)


_NAME = TypeAdapter(Name)
InCollection = Annotated[
    str,
    typer.Option(
        "--collection",
        "-c",
        metavar="NAME",
        help="The collection.",
        callback=_name,
        autocompletion=complete_collection,
    ),
]

SUCCESS = 0
FAILURE = 1
USAGE = 2
PARTIAL = 3
INTERRUPTED = 130

COMPLETION_TIMEOUT_S = 2.0
COMPLETED_JOBS = 100


class Session:
    """The connection of one command to the service at `url` (None: IMAGEKIN_URL, else this machine)."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._client: Client | None = None
        self.collection: str | None = None

    def client(self, collection: str | None = None) -> Client:
        """Connect; `collection` is what the command is about. Raises `Unreachable` at once, without retries."""
        self.collection = collection or self.collection
        if self._client is None:
            client = Client(self._url)
            client.ping()
            self._client = client
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def hint(self, error: BaseException) -> str:
        """Return what may help after an error, or an empty text."""
        if isinstance(error, Unreachable):
            return "Start a server on this machine with `imagekin up`, or name another with IMAGEKIN_URL or --url."
        if isinstance(error, errors.Unauthorized):
            return "Put your key into IMAGEKIN_API_KEY; `imagekin keys create` makes one on the server."
        if isinstance(error, errors.CollectionNotFound):
            return self._near()
        if isinstance(error, errors.UnknownBackbone | errors.UnknownWeights):
            return "`imagekin backbones` lists the networks and their weights."
        if isinstance(error, errors.JobNotFound):
            return "`imagekin jobs list` shows all jobs."
        if isinstance(error, errors.JobNotFinished):
            return "`imagekin jobs watch JOB` follows it to its end."
        return ""

    def _near(self) -> str:
        if self._client is None or self.collection is None:
            return ""
        names = [found.name for found in self._client.collections()]
        if not names:
            return "There is no collection yet; `imagekin embed PATH -c NAME` creates one."
        near = difflib.get_close_matches(self.collection, names, n=3, cutoff=0.5)
        if near:
            return f"Did you mean {', '.join(near)}?"
        return f"There are: {', '.join(sorted(names)[:10])}{', …' if len(names) > 10 else ''}."


def text_of(argument: str) -> str:
    """Return the typed argument as text, even if it is not in this machine's encoding."""
    return keys.of_bytes(os.fsencode(argument))


def current(context: typer.Context) -> Session:
    """Return the session of a command's context."""
    return context.find_root().obj
