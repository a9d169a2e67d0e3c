"""The whole service as `imagekin up` runs it: Redis, migrations, both workers, the API; one for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagekin import Client
from imagekin.settings import Settings
from imagekin.stack import Stack
from kit.receiving import SECRET


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
