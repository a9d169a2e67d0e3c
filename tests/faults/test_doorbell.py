"""The doorbell alone with its Redis, so that no sweep rings in its place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_client

from imagekin import doorbell as doorbell_module
from imagekin.doorbell import Doorbell
from imagekin.enums import Lane
from imagekin.settings import Settings
from imagekin.stack import redis
from imagekin.stack.service import Process
from kit.patience import until


@pytest.fixture
def address() -> Iterator[Path]:
    # a socket's path may have 107 bytes, which pytest's own folders exceed
    with tempfile.TemporaryDirectory(prefix="ik-") as folder:
        yield Path(folder) / "redis.sock"


@pytest.fixture
def server(address: Path, tmp_path: Path) -> Iterator[Process]:
    process = Process(redis.service(address), tmp_path)
    start(process)
    yield process
    process.kill()


@pytest.fixture
def doorbell(server: Process, address: Path) -> Iterator[Doorbell]:
    doorbell = Doorbell(Settings(redis_url=redis.url(address)))
    yield doorbell
    doorbell.close()


def start(process: Process) -> None:
    process.launch("doorbell")
    until(lambda: process.ready, "Redis", 10)


def rings(address: Path, count: int) -> None:
    """Wait until so many rings wait on the bulk lane."""
    with redis_client.Redis(unix_socket_path=str(address)) as client:
        until(lambda: client.llen("bulk") == count, f"{count} rings", 15)


def test_it_rings_again_once_redis_is_back(doorbell: Doorbell, server: Process, address: Path) -> None:
    doorbell.ring(Lane.BULK)
    rings(address, 1)
    server.kill()
    doorbell.ring(Lane.BULK, times=3)
    start(server)
    rings(address, 3)
    doorbell.ring(Lane.BULK)
    rings(address, 4)


def test_a_ring_waits_for_nothing(server: Process, address: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a ring that waited for Redis would wait longer than a test may take
    monkeypatch.setattr(doorbell_module, "PUBLISH_TIMEOUT_S", 3600)
    doorbell = Doorbell(Settings(redis_url=redis.url(address)))
    with redis_client.Redis(unix_socket_path=str(address)) as client:
        client.client_pause(3_600_000, all=False)
        doorbell.ring(Lane.BULK, times=3)
        until(lambda: not doorbell._waiting, "a ring that is being sent", 10)
        doorbell.ring(Lane.BULK, times=2)
        assert doorbell._waiting == {Lane.BULK: 2}
        client.client_unpause()
    rings(address, 5)
    doorbell.close()


def test_it_rings_after_redis_forgot_everything(doorbell: Doorbell, address: Path) -> None:
    doorbell.ring(Lane.BULK)
    rings(address, 1)
    with redis_client.Redis(unix_socket_path=str(address)) as client:
        client.flushall()
    doorbell.ring(Lane.BULK)
    rings(address, 1)


@pytest.mark.parametrize("refusing", [{"min-replicas-to-write": 1}, {"maxmemory": 1}])
def test_it_rings_once_redis_writes_again(doorbell: Doorbell, address: Path, refusing: dict[str, int]) -> None:
    with redis_client.Redis(unix_socket_path=str(address)) as client:
        for name, value in refusing.items():
            client.config_set(name, value)
        doorbell.ring(Lane.BULK)
        # it has tried, and waits to try again
        until(lambda: client.info("errorstats") and client.info("stats")["total_error_replies"], "a refusal", 10)
        for name in refusing:
            client.config_set(name, 0)
    rings(address, 1)
    assert doorbell._thread.is_alive()
