"""Settings on their way into the environment of child processes."""

from __future__ import annotations

import os
import typing
from pathlib import Path
from typing import Any

import pytest

from imagekin import stack
from imagekin.settings import Settings
from imagekin.stack import embedded
from imagekin.stack.environment import child_environment

# Settings that do not take just any value.
SECRET = f"whsec_{'AbCd' * 8}"
RULED = {
    "fetch_allow": ("10.0.0.0/8", "192.168.1.7/32"),
    "webhook_secret": SECRET,
    "webhook_previous_secret": SECRET,
}


def another(name: str) -> Any:
    """Return a value of a setting that is not its default."""
    if name in RULED:
        return RULED[name]
    field = Settings.model_fields[name]
    if isinstance(field.default, (int, float)):
        return field.default + 1
    if typing.get_origin(field.annotation) is typing.Literal:
        return next(value for value in typing.get_args(field.annotation) if value != field.default)
    if isinstance(field.default, Path):
        return Path("/else where/ä")
    return {str: "x=y z", tuple: ("/a b", "s3://c")}[type(field.default)]


def test_environment_round_trip(modules: None, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(**{name: another(name) for name in Settings.model_fields})
    variables = stack.environment(settings)
    assert len(variables) == len(Settings.model_fields)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_environment_leaves_defaults_out(modules: None) -> None:
    assert stack.environment(Settings()) == {}


def test_environment_keeps_an_empty_list(modules: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEKIN_WARM", stack.environment(Settings(warm=()))["IMAGEKIN_WARM"])
    assert Settings().warm == ()


def test_environment_refuses_a_comma_in_a_list() -> None:
    with pytest.raises(stack.StackError, match="IMAGEKIN_SOURCE_ROOTS"):
        stack.environment(Settings(source_roots=("/pictures/a,b",)))


def test_settings_win_over_inherited_variables(modules: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("imagekin_port", "9")
    monkeypatch.setenv("ELSE", "kept")
    variables = child_environment(Settings(port=8000))
    assert "imagekin_port" not in variables
    assert variables["ELSE"] == "kept"


def test_what_the_user_set_stays(modules: None) -> None:
    derived = embedded.derive(Settings(auth="keys", database_url="postgresql://there/db"), port=1, redis_url="unix://x")
    assert (derived.auth, derived.database_url) == ("keys", "postgresql://there/db")
    assert embedded.derive(Settings(), port=1, redis_url="unix://x").auth == "local"


def test_children_look_for_modules_in_absolute_folders_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f".{os.pathsep}{os.pathsep}/opt/modules{os.pathsep}here")
    env = child_environment(Settings())
    assert (env["PYTHONPATH"], env["PYTHONSAFEPATH"]) == ("/opt/modules", "1")
