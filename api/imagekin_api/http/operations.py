"""What a view accepts and returns, declared next to it: openapi.json and the documentation page are made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from imagekin import errors
from imagekin.settings import Settings

View = TypeVar("View", bound=Callable[..., Any])
BINARY: dict[str, Any] = {"type": "string", "format": "binary"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the query or a header, with the JSON Schema of its value."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    place: str = "query"


@dataclass(frozen=True, slots=True)
class JsonBound:
    """How large an operation's JSON may be; `bytes` None: as large as the settings allow.

    `values` counts the values at all depths: a value takes a hundred times the two bytes that it may be written in.
    """

    bytes: int | None = 64 << 10
    values: int = 10_000

    def max_bytes(self, settings: Settings) -> int:
        """Return the largest size of a body in bytes."""
        return settings.max_json_bytes if self.bytes is None else min(self.bytes, settings.max_json_bytes)


# Ten thousand addresses with their metadata.
MANY_SOURCES = JsonBound(None, 1_000_000)
# The longest vector, each number as long as a double is written.
ONE_VECTOR = JsonBound(1 << 20, 40_000)
# A search by several: 128 vectors of a common length, or a few of the longest.
SOME_VECTORS = JsonBound(8 << 20, 400_000)
# The metadata of one image, every character of it escaped.
ONE_METADATA = JsonBound(512 << 10, 40_000)
# Ten thousand names of images.
MANY_NAMES = JsonBound(None, 100_000)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one address. `returns` and `body` are types that pydantic knows; `media` are other answers.

    `drawn`: the answer is a picture that is drawn for it, by threads of its own.
    """

    summary: str
    returns: Any = None
    status: int = 200
    body: Any = None
    body_required: bool = True
    json: JsonBound = JsonBound()
    form: Mapping[str, Mapping[str, Any]] | None = None
    form_model: Any = None
    raw: bool = False
    drawn: bool = False
    parameters: tuple[Parameter, ...] = ()
    media: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    errors: tuple[type[errors.ImagekinError], ...] = ()


LIMIT = Parameter("limit", "The largest number of items; clamped to 1 and 1,000.", {"type": "integer", "default": 50})
CURSOR = Parameter("cursor", "`next_cursor` of the previous page.")
PAGED = (LIMIT, CURSOR)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "The same request under the same key is the same job; a different request under it is refused.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]*$"},
    "header",
)
WAIT = Parameter(
    "Prefer",
    "`wait=20` holds the answer until the job is terminal, for up to 20 seconds; `Preference-Applied` says if so.",
    {"type": "string", "examples": ["wait=20"]},
    "header",
)


def operation(summary: str, **details: Any) -> Callable[[View], View]:
    """Declare what a view accepts and returns; its docstring becomes the description."""

    def describe(view: View) -> View:
        view.operation = Operation(summary, **details)  # pyright: ignore[reportFunctionMemberAccess] - the description of a view goes with it
        return view

    return describe
