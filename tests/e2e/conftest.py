"""A client of the service that a test has, and what a working folder may hold that must not be run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagekin import Client
from imagekin.stack import Stack

# Beside the standard library's, what the service imports early.
_OTHERS = ("imagekin", "imagekin_api", "imagekin_worker", "celery", "flask", "numpy", "redis", "sqlalchemy", "torch")


@pytest.fixture
def hostile_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a module for each name of the standard library; after the test none of them has been run."""
    folder, ran = tmp_path / "hostile", tmp_path / "ran"
    folder.mkdir()
    for name in (*sys.stdlib_module_names, *_OTHERS):
        (folder / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write({name!r} + ' ')\nraise SystemExit(66)\n")
    yield folder
    assert not ran.exists(), ran.read_text()


@pytest.fixture
def client(service: Stack) -> Iterator[Client]:
    """A client of the module's or the folder's service."""
    with Client(service.url) as client:
        yield client
