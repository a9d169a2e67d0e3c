"""What goes through the production process in either direction leaves its memory as it was, however large it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from test_server import process

from imagekin import catalog
from imagekin.database.engine import Database
from imagekin.enums import DType, OnConflict, Precision
from imagekin.settings import Settings
from imagekin.store import collections, exports, segments

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells a process's peak")

MEGABYTE = 1 << 20
UPLOADED = int(os.environ.get("STREAMED_MEGABYTES", "128")) * MEGABYTE
EXPORTED_ROWS = int(os.environ.get("EXPORTED_ROWS", "30000"))
"""147 MiB of 1280 numbers each."""
MOST_GROWTH = 24 * MEGABYTE
MOST_GROWTH_OF_EXPORT = 96 * MEGABYTE
"""Segments of 5 MiB go through, and the C library keeps some of them for each of the threads that may answer: 7 to 69
MiB were seen, with 98 MiB and 294 MiB alike."""
PIECE = bytes(MEGABYTE)


class Peak:
    """The most memory that the process which answers has had since `begin`."""

    def __init__(self, parent: int) -> None:
        tasks = Path(f"/proc/{parent}/task").iterdir()
        (self._pid,) = (pid for task in tasks for pid in (task / "children").read_text().split())
        self._before = 0

    def begin(self) -> None:
        """Forget the peak until now."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")
        self._before = self._read()

    def growth(self) -> int:
        """Return by how many bytes the peak rose."""
        return self._read() - self._before

    def _read(self) -> int:
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


def pieces(total: int) -> Iterator[bytes]:
    for _ in range(total // len(PIECE)):
        yield PIECE


def form(total: int) -> Iterator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="collection"\r\n\r\narchive\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="archive"; filename="a.tar"\r\n\r\n'
    yield from pieces(total)
    yield b"\r\n--b--\r\n"


def send(client: httpx2.Client, kind: str, total: int) -> httpx2.Response:
    if kind == "raw":
        return client.post("/v1/uploads", content=pieces(total))
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    return client.post("/v1/jobs/embed", content=form(total), headers=headers)


@pytest.mark.parametrize(("kind", "status"), [("raw", 201), ("form", 202)])
def test_an_upload_is_never_in_memory(settings: Settings, kind: str, status: int) -> None:
    with process(settings) as (running, client):
        client.post("/v1/collections", json={"name": "archive", "backbone": "fake"})
        assert send(client, kind, MEGABYTE).status_code == status
        peak = Peak(running.pid)
        peak.begin()
        assert send(client, kind, UPLOADED).status_code == status
        print(f"{kind}: {UPLOADED / MEGABYTE:.0f} MiB sent, peak rose by {peak.growth() / MEGABYTE:.1f} MiB")
        assert peak.growth() < MOST_GROWTH


def test_an_export_is_never_in_memory(settings: Settings) -> None:
    # some segments, so that what one of them takes is no growth
    fill(settings, "few", 6000)
    fill(settings, "many", EXPORTED_ROWS)
    with process(settings) as (running, client):
        for format in exports.FORMATS:
            take(client, "few", format)
            peak = Peak(running.pid)
            peak.begin()
            size = take(client, "many", format)
            assert size > EXPORTED_ROWS * 1280 * 4
            print(f"{format}: {size / MEGABYTE:.0f} MiB taken, peak rose by {peak.growth() / MEGABYTE:.1f} MiB")
            assert peak.growth() < MOST_GROWTH_OF_EXPORT


def fill(settings: Settings, name: str, count: int) -> None:
    """Make a collection with so many vectors, in segments as workers write them."""
    space = catalog.resolve_space("efficientnet_lite0", None, Precision.EXACT, settings.weights_dir)
    vectors = np.random.default_rng(0).standard_normal((64, 1280)).astype(np.float32)
    database = Database(settings.database)
    database.write(collections.create, "admin", name, space, DType.FLOAT32)
    for start in range(0, count, 1000):
        items = [
            segments.Item(f"{at:08}.jpg", vector=vectors[at % 64], content_hash=f"{at:064x}")
            for at in range(start, min(start + 1000, count))
        ]
        database.write(
            lambda session, items=items: segments.store(
                session, collections.get(session, "admin", name).id, items, OnConflict.REPLACE
            )
        )
    database.dispose()


def take(client: httpx2.Client, name: str, format: str) -> int:
    with client.stream("GET", f"/v1/collections/{name}/export", params={"format": format}) as answer:
        assert answer.status_code == 200
        return sum(map(len, answer.iter_raw()))
