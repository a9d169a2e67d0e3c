"""What goes through the production process in either direction leaves its memory as it was, however large it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import httpx2
import pytest

from imagekin.store import exports
from kit.production import Peak, Production, fill

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells a process's peak")

MEGABYTE = 1 << 20
UPLOADED = int(os.environ.get("STREAMED_MEGABYTES", "128")) * MEGABYTE
EXPORTED_ROWS = int(os.environ.get("EXPORTED_ROWS", "30000"))
"""147 MiB of 1280 numbers each."""
MOST_GROWTH = 24 * MEGABYTE
MOST_GROWTH_OF_EXPORT = 136 * MEGABYTE
"""Segments of 5 MiB go through, and the C library keeps some of them for each of the threads that may answer: 7 to 69
MiB were seen, with 98 MiB and 294 MiB alike; from PostgreSQL, whose driver has a result and its bytes, 109 of 147."""
PIECE = bytes(MEGABYTE)
WITH_VECTORS = ("npz", "parquet", "safetensors")


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
def test_an_upload_is_never_in_memory(api: Production, kind: str, status: int) -> None:
    client = api.client
    client.post("/v1/collections", json={"name": "archive", "backbone": "fake"})
    assert send(client, kind, MEGABYTE).status_code == status
    peak = Peak(api.process.pid)
    peak.begin()
    assert send(client, kind, UPLOADED).status_code == status
    print(f"{kind}: {UPLOADED / MEGABYTE:.0f} MiB sent, peak rose by {peak.growth() / MEGABYTE:.1f} MiB")
    assert peak.growth() < MOST_GROWTH


def test_an_export_is_never_in_memory(api: Production) -> None:
    # some segments, so that what one of them takes is no growth
    fill(api.settings, "few", 6000)
    fill(api.settings, "many", EXPORTED_ROWS)
    for format in exports.FORMATS:
        take(api.client, "few", format)
        peak = Peak(api.process.pid)
        peak.begin()
        size = take(api.client, "many", format)
        assert size > EXPORTED_ROWS * (1280 * 4 if format in WITH_VECTORS else 50)
        print(f"{format}: {size / MEGABYTE:.0f} MiB taken, peak rose by {peak.growth() / MEGABYTE:.1f} MiB")
        assert peak.growth() < MOST_GROWTH_OF_EXPORT


def take(client: httpx2.Client, name: str, format: str) -> int:
    with client.stream("GET", f"/v1/collections/{name}/export", params={"format": format}) as answer:
        assert answer.status_code == 200
        return sum(map(len, answer.iter_raw()))
