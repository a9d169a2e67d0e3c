"""What JSON may hold and a database keeps: texts of valid Unicode without NUL, and numbers that a double holds.

One rule for requests, manifests, sidecars and the rows of vector files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any


class Unkept(ValueError):
    """What no database keeps, or what is not JSON; the message says it in a sentence."""


def fault(value: Any) -> str | None:
    """Return why no database keeps a text or a number, as a sentence; None for what it keeps, lists and objects too."""
    match value:
        case str():
            if "\0" in value:
                return "The text contains a NUL character."
            if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
                return "The text is not valid Unicode."
        case float() if not math.isfinite(value):
            return "The number is too large."
    return None


def check(value: Any) -> None:
    """Raise Unkept for a value that is not kept or has one in it, names included."""
    if (reason := fault(value)) is not None:
        raise Unkept(reason)
    match value:
        case dict():
            for name, each in value.items():
                check(name)
                check(each)
        case list():
            for each in value:
                check(each)


def refuse_constant(name: str) -> Any:
    """Raise Unkept for NaN and infinities, which are not JSON."""
    raise Unkept(f"It is not JSON: {name} is not a number.")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Unkept("The number is too large.")
    return number


# Made once: a list has a million lines.
_PLAIN = json.JSONDecoder(parse_constant=refuse_constant, parse_float=_finite)


def load(text: str | bytes, constant: Callable[[str], Any] = refuse_constant) -> dict[str, Any]:
    """Return a JSON object whose values are all kept; raises Unkept.

    `constant` says what becomes of NaN and infinities.
    """
    try:
        if isinstance(text, str) and constant is refuse_constant and text.isascii() and "\\u" not in text:
            # what is not kept in a text cannot be written so
            value = _PLAIN.decode(text)
        else:
            value = json.loads(text, parse_constant=constant)
            check(value)
    except Unkept:
        raise
    except json.JSONDecodeError as error:
        raise Unkept(f"It is not JSON: {error.msg} at character {error.pos + 1}.") from None
    except UnicodeDecodeError as error:
        raise Unkept(f"It is not Unicode: {error.reason} at byte {error.start}.") from None
    except RecursionError:
        raise Unkept("Its JSON is nested too deeply.") from None
    except ValueError:  # Python reads no number of thousands of digits
        raise Unkept("The number is too large.") from None
    if not isinstance(value, dict):
        raise Unkept("It is not a JSON object.")
    return value
