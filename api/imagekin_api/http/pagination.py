"""Lists in pages: `?limit=&cursor=`. A cursor names the last item shown, so inserts do not shift the pages."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import flask

from imagekin import errors
from imagekin.schemas import json_values

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000


def limit() -> int:
    """Return the request's `limit`, clamped to 1 and MAX_LIMIT; raises InvalidRequest if it is not a number."""
    text = flask.request.args.get("limit")
    if text is None:
        return DEFAULT_LIMIT
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise _invalid("limit", "The limit must be a whole number.")
    # no client pages by more than nine digits, and Python refuses to read very long numbers
    value = MAX_LIMIT if len(digits) > 9 else int(digits)
    return max(1, min(-value if text.startswith("-") else value, MAX_LIMIT))


def encode(listing: str, position: str | tuple[int, int] | None) -> str | None:
    """Return the opaque cursor for a position in a listing; None at the end of the list."""
    if position is None:
        return None
    text = json.dumps([listing, position], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def cursor(listing: str) -> str | None:
    """Return the position that the request's cursor names; raises InvalidRequest for a cursor of another listing."""
    position = _position(listing)
    if position is not None and not isinstance(position, str):
        raise _invalid("cursor", "The cursor does not come from this list.")
    return position


def skipped(listing: str) -> int:
    """Return how many items the request's cursor goes past, 0 without one; raises InvalidRequest for another's."""
    position = cursor(listing) or "0"
    if not (position.isascii() and position.isdigit() and len(position) <= 9):
        raise _invalid("cursor", "The cursor does not come from this list.")
    return int(position)


def item_cursor(listing: str) -> tuple[int, int] | None:
    """Return the (seq, index) that the request's cursor names; raises InvalidRequest if it is of another listing."""
    match _position(listing):
        case None:
            return None
        case [int(seq), int(index)] if type(seq) is type(index) is int and abs(seq) < 2**62 and abs(index) < 2**62:
            return seq, index
        case _:
            raise _invalid("cursor", "The cursor does not come from this list.")


def _position(listing: str) -> Any:
    text = flask.request.args.get("cursor")
    if not text:
        return None
    try:
        name, position = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        name = position = None
    if name != listing or position is None or (isinstance(position, str) and json_values.fault(position)):
        raise _invalid("cursor", "The cursor does not come from this list.")
    return position


def _invalid(parameter: str, detail: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(detail, errors=[{"pointer": f"/{parameter}", "in": "query", "detail": detail}])
