"""The whole service as `imagekin up` runs it: Redis, migrations, both workers, the API; one for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagekin.settings import Settings
from imagekin.stack import PortTaken, Stack, port
from kit.receiving import SECRET

# What a worker's process may grow by over a test of hostile files.
GROWTH_MB = 700


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
        metrics_port=two_free_ports(),
        log_format="json",
        first_key="hush-not-in-any-log",
    )


def two_free_ports() -> int:
    """Return the first of two free ports in a row."""
    while True:
        first = port.claim("127.0.0.1", 0)
        try:
            port.claim("127.0.0.1", first + 1)
        except PortTaken:
            continue
        return first


@pytest.fixture(scope="session")
def service(own_environment: None, service_settings: Settings) -> Iterator[Stack]:
    """A running service."""
    with Stack(service_settings, log=lambda _: None) as stack:
        yield stack


@pytest.fixture
def readable(service_settings: Settings, request: pytest.FixtureRequest) -> Path:
    """A folder of the test's own that the service may read from."""
    folder = Path(service_settings.source_roots[0]) / request.node.name
    folder.mkdir()
    return folder


def children(folder: Path) -> dict[int, int]:
    """Return the service's processes that hold torch, by pid, with their peak memory in MB."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = str(folder).encode() in (process / "environ").read_bytes()
            if ours and "libtorch" in (process / "maps").read_text():
                status = (process / "status").read_text()
                found[int(process.name)] = int(status.split("VmHWM:")[1].split()[0]) // 1024
        except OSError:
            continue
    return found


@pytest.fixture
def unharmed(service: Stack, service_settings: Settings) -> Iterator[None]:
    """Hold the workers' processes to be the same, and no larger than they may be, after the test."""
    before = children(service_settings.data_dir)
    assert len(before) == 2
    yield
    after = children(service_settings.data_dir)
    assert after.keys() == before.keys(), "a worker's process died"
    for pid, peak in after.items():
        assert peak - before[pid] < GROWTH_MB
