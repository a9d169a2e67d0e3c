"""Clients that are slow, stalled or silent, against all of imagekin without a proxy: others are answered as ever.

By itself it prints the figures of docs/security.md: `pytest tests/faults/test_slow_clients.py -s`.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import statistics
import time
from collections.abc import Callable, Iterator

import httpx2
import pytest

from imagekin_api.server import HEAD_S
from kit import tiny
from kit.cluster import Cluster

IDLE, HALF_HEADS, STALLED_BODIES = 1_000, 200, 100
FILES = IDLE + HALF_HEADS + STALLED_BODIES + 200


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process hold a connection for each of these clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        pytest.skip(f"this user may open {hard} files, {FILES} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_slow_clients_hold_up_nobody(cluster: Cluster, name: str, many_files: None) -> None:
    cluster.collection(name)
    cluster.finish(cluster.embed(name, tiny.keys(name, 4)))
    client = cluster.client
    address = (client.base_url.host, client.base_url.port or 80)
    head = f"HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n".encode()
    groups = {
        "idle connections": (IDLE, b""),
        "half-sent heads": (HALF_HEADS, b"GET /healthz " + head + b"X-Unfinished: "),
        "stalled bodies": (
            STALLED_BODIES,
            b"POST /v1/uploads " + head + b"Content-Length: 1000000\r\n\r\n" + b"x" * 100_000,
        ),
    }
    with contextlib.ExitStack() as held:
        for what, (count, data) in groups.items():
            for _ in range(count):
                wire = held.enter_context(socket.create_connection(address, 10))
                wire.sendall(data)
            health_s = statistics.median(seconds(lambda: healthy(client)) for _ in range(5))
            search_s = statistics.median(seconds(lambda: search(cluster, name)) for _ in range(3))
            print(f"and {count} {what}: /healthz {health_s:.3f} s, a search {search_s:.3f} s in the middle")
            # who waits until a slow one is given up waits longer
            assert max(health_s, search_s) < HEAD_S, what


def seconds(call: Callable[[], None]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def healthy(client: httpx2.Client) -> None:
    # as a new client: what stands in line for a connection counts
    answer = httpx2.get(client.base_url.join("/healthz"), timeout=30, trust_env=False)
    assert answer.status_code == 200


def search(cluster: Cluster, collection: str) -> None:
    client = cluster.client
    picture = tiny.bmp(tiny.keys(collection, 4)[1])
    answer = client.post("/v1/jobs/search", data={"collection": collection}, files={"image": ("a.bmp", picture)})
    assert answer.status_code == 202
    cluster.accepted[answer.json()["id"]] = []
    job = client.get(answer.headers["Location"], headers={"Prefer": "wait=20"}).json()
    assert job["status"] == "succeeded", job
