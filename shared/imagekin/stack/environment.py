"""Settings as the environment of a child process."""

from __future__ import annotations

import os
from typing import Any

from imagekin.settings import PREFIX, Settings
from imagekin.stack.errors import StackError


def environment(settings: Settings) -> dict[str, str]:
    """Return the IMAGEKIN_* variables from which `Settings()` builds equal settings; defaults are left out.

    Raises StackError where a value of a list holds a comma, since commas separate the values.
    """
    fields = type(settings).model_fields
    values = {name: getattr(settings, name) for name in fields}
    return {
        PREFIX + name.upper(): _text(name, value) for name, value in values.items() if value != fields[name].default
    }


def child_environment(settings: Settings) -> dict[str, str]:
    """Return this process's environment with its settings replaced by `settings`; other variables stay as they are."""
    known = {PREFIX + name.upper() for name in type(settings).model_fields}
    return {name: value for name, value in os.environ.items() if name.upper() not in known} | environment(settings)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    if any("," in part for part in value):
        raise StackError(f"a value of {PREFIX}{name.upper()} holds a comma, which separates values there: {value}")
    return ",".join(value)
