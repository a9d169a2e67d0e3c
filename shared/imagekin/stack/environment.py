"""Settings as the environment of a child process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from imagekin.settings import PREFIX, Settings
from imagekin.stack.errors import StackError


def environment(settings: Settings) -> dict[str, str]:
    """Return the IMAGEKIN_* variables from which `Settings()` builds equal settings; defaults are left out.

    Raises StackError if a value of a list holds a comma, since commas separate the values.
    """
    fields = type(settings).model_fields
    values = {name: getattr(settings, name) for name in fields}
    return {
        PREFIX + name.upper(): _text(name, value) for name, value in values.items() if value != fields[name].default
    }


def child_environment(settings: Settings) -> dict[str, str]:
    """Return this process's environment with its settings replaced by `settings`; other variables stay as they are.

    `PYTHONPATH` keeps its absolute folders alone: the others are the working folder, or lie in it.
    """
    known = {PREFIX + name.upper() for name in type(settings).model_fields}
    others = {name: value for name, value in os.environ.items() if name.upper() not in known}
    return others | _safe_python(others) | environment(settings)


def _safe_python(others: dict[str, str]) -> dict[str, str]:
    """Keep the working folder off the path of modules, in the children's own children, too."""
    kept = [part for part in others.get("PYTHONPATH", "").split(os.pathsep) if Path(part).is_absolute()]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(kept)}


def _text(name: str, value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    if any("," in part for part in value):
        raise StackError(f"a value of {PREFIX}{name.upper()} holds a comma, which separates values there: {value}")
    return ",".join(value)
