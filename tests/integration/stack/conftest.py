"""Stacks and supervisors of small programs; the Redis is real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagekin import stack
from imagekin.stack import leftovers, supervisor
from kit.programs import DRIVER, MODULES


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put small programs in the place of the API, the workers and the migrations."""
    for name, code in MODULES.items():
        (tmp_path / "modules" / name).mkdir(parents=True)
        (tmp_path / "modules" / name / "__init__.py").touch()
        (tmp_path / "modules" / name / "__main__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    for variable in [name for name in os.environ if name.upper().startswith("IMAGEKIN_")]:
        monkeypatch.delenv(variable)


@pytest.fixture
def data(tmp_path: Path, modules: None) -> Path:
    return tmp_path / "data"


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def supervise(tmp_path: Path, lines: list[str]) -> Iterator[Callable[..., supervisor.Supervisor]]:
    made = []

    def make(*services: stack.Service) -> supervisor.Supervisor:
        record = leftovers.Record(tmp_path / "processes.json")
        made.append(stack.Supervisor([[one] for one in services], log_dir=tmp_path, record=record, log=lines.append))
        return made[-1]

    yield make
    for one in made:
        one.hurry()
        one.stop()


@pytest.fixture
def driver(data: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a running stack, like `imagekin up`."""
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(data)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "up\n":
                break
        yield process
        process.kill()
