"""The whole service as `imagekin up` runs it: Redis, migrations, both workers, the API."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagekin import Client
from imagekin.settings import Settings
from imagekin.stack import Stack
from kit.receiving import SECRET

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


@pytest.fixture(scope="session")
def service_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a service with the default backbone and the cheap one warm."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "pictures").mkdir()
    return Settings(
        data_dir=folder / "data",
        port=0,
        warm=("efficientnet_lite0", "fake"),
        source_roots=(str(folder / "pictures"),),
        weights_dir=folder / "weights",
        webhook_secret=SECRET,
        fetch_allow=("127.0.0.1",),
        fetch_stall_s=2,
    )


@pytest.fixture(scope="session")
def service(own_environment: None, service_settings: Settings) -> Iterator[Stack]:
    """A running service."""
    with Stack(service_settings, log=lambda _: None) as stack:
        yield stack


@pytest.fixture
def client(service: Stack) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


@pytest.fixture
def readable(service_settings: Settings, request: pytest.FixtureRequest) -> Path:
    """A folder of the test's own that the service may read from."""
    folder = Path(service_settings.source_roots[0]) / request.node.name
    folder.mkdir()
    return folder
