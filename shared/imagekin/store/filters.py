"""Filters of metadata: what a search, a selection or a list of images may be narrowed by, in Python and in SQL.

    {"label": "chair"}                the field has this value
    {"label": ["chair", "sofa"]}      any of these; a list as the value itself stands in another: [["a", "b"]]
    {"label": null}                   not set: it is missing, or null
    {"!label": "chair"}               a `!` before the name: the opposite

All conditions must hold.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from imagekin.database import tables

NOT = "!"
_FUNCTION = "imagekin_matches"


@dataclass(frozen=True)
class Condition:
    """What one field must be: one of the `choices`, or, with `unset`, missing or null; `negated`: neither."""

    name: str
    negated: bool
    choices: tuple[Any, ...]
    unset: bool

    @classmethod
    def of(cls, name: str, wanted: Any) -> Condition:
        """Return what an entry of a filter says."""
        given = wanted if isinstance(wanted, list) else [wanted]
        choices = tuple(choice for choice in given if choice is not None)
        return cls(name.removeprefix(NOT), name.startswith(NOT), choices, len(choices) < len(given))

    def holds(self, metadata: dict[str, Any]) -> bool:
        value = metadata.get(self.name)
        found = self.unset if value is None else any(_same(value, choice) for choice in self.choices)
        return found != self.negated

    def clause(self) -> sa.ColumnElement[bool]:
        """Return the condition as PostgreSQL says it."""
        value = sa.type_coerce(tables.Image.metadata_, postgresql.JSONB)[self.name]
        texts = sa.literal([json.dumps(choice) for choice in self.choices], postgresql.ARRAY(sa.Text))
        found = sa.func.coalesce(value == sa.any_(sa.cast(texts, postgresql.ARRAY(postgresql.JSONB))), sa.false())
        if self.unset:
            found = sa.or_(found, sa.func.coalesce(sa.func.jsonb_typeof(value), "null") == "null")
        return sa.not_(found) if self.negated else found


def having(wanted: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a filter that also asks for a field to be set."""
    refused = wanted.get(f"{NOT}{name}", [])
    return wanted | {f"{NOT}{name}": [*(refused if isinstance(refused, list) else [refused]), None]}


def matches(metadata: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Return whether an image's metadata pass a filter."""
    return all(Condition.of(name, value).holds(metadata) for name, value in wanted.items())


def clause(session: Session, wanted: dict[str, Any]) -> sa.ColumnElement[bool]:
    """Return what of `Image` passes a filter, as a condition for this session's statements.

    It says nothing of collections and of the deleted. SQLite asks `matches`, so that both databases agree on what is
    equal: to SQLite's own functions `true` is 1.
    """
    if session.get_bind().dialect.name == "postgresql":
        return sa.and_(sa.true(), *(Condition.of(name, value).clause() for name, value in wanted.items()))
    connection = session.connection()
    if _FUNCTION not in connection.info:
        driver: Any = connection.connection.driver_connection
        driver.create_function(_FUNCTION, 2, _matches, deterministic=True)
        connection.info[_FUNCTION] = True
    return sa.func.imagekin_matches(
        sa.type_coerce(tables.Image.metadata_, sa.Text), json.dumps(wanted), type_=sa.Boolean
    )


def _matches(metadata: str, wanted: str) -> bool:
    found = json.loads(metadata)
    return all(condition.holds(found) for condition in _conditions(wanted))


@lru_cache(64)
def _conditions(wanted: str) -> tuple[Condition, ...]:
    return tuple(Condition.of(name, value) for name, value in json.loads(wanted).items())


def _same(one: Any, other: Any) -> bool:
    """Return whether two values of JSON are equal; to Python, `true` is 1."""
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
        case list(), list():
            return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other
