"""The front by itself, as the server calls it: what is drawn or not read holds up nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from imagekin_api.app import create_app
from imagekin_api.front import application
from imagekin_api.front.application import Front
from imagekin_api.routes import pictures
from imagekin_api.wiring import service
from imagekin_api.wiring.service import Service
from kit.calls import SUMMARY
from kit.hand import Hand
from kit.wire import ADMIN_KEY

THREADS = 4
Send = Callable[[dict[str, Any]], Awaitable[None]]


@pytest.fixture
def front(make_settings: Callable[..., Settings]) -> Iterator[Front]:
    settings = make_settings(api_threads=THREADS)
    app = create_app(settings)
    yield Front(app, settings, started=lambda: None, stopped=lambda: None)
    app.extensions[service.EXTENSION].close()


def service_of(front: Front) -> Service:
    return front._app.extensions[service.EXTENSION]


async def ask(front: Front, path: str, send: Send | None = None) -> int:
    """Ask as the server does; return the status, after all of the answer."""
    told: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def keep(message: dict[str, Any]) -> None:
        told.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"authorization", b"Bearer " + ADMIN_KEY.encode())],
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
    }
    await front(scope, receive, send or keep)
    return told[0]["status"]


def test_sheets_hold_up_no_other_answer(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    here = service_of(front)
    hand = Hand(here.database, here.settings)
    hand.collection()
    hand.images("a.jpg")
    client = front._app.test_client()
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    body = {"collection": "archive", "n_clusters": 1}
    job = client.post("/v1/jobs/cluster", json=body, headers=headers).get_json()["id"]
    hand.finish_cluster(SUMMARY, [])
    done, drawing = threading.Event(), threading.Semaphore(0)

    def draw(*_: object) -> bytes:
        drawing.release()
        assert done.wait(60)
        return b"a picture"

    monkeypatch.setitem(pictures.SHEETS, JobKind.CLUSTER, draw)

    async def crowd() -> None:
        sheets = [asyncio.create_task(ask(front, f"/v1/jobs/{job}/sheet")) for _ in range(5 * THREADS)]
        assert await asyncio.to_thread(drawing.acquire, timeout=60)
        for path in ("/healthz", "/v1/jobs", f"/v1/jobs/{job}", "/v1/nothing"):
            assert await ask(front, path) == (404 if path == "/v1/nothing" else 200)
        assert not any(sheet.done() for sheet in sheets)
        done.set()
        assert await asyncio.gather(*sheets) == [200] * len(sheets)

    asyncio.run(crowd())


def test_an_answer_that_is_not_read_is_let_go(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "SEND_STALL_S", 0.05)
    here = service_of(front)
    Hand(here.database, here.settings).collection()
    seats = here.settings.api_threads // 2

    async def stall(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def read_nothing() -> None:
        for _ in range(2 * seats):
            with pytest.raises(TimeoutError):
                await ask(front, "/v1/collections/archive/export", stall)
        assert await ask(front, "/v1/collections/archive/export") == 200

    asyncio.run(read_nothing())
