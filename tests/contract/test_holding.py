"""Held answers cost next to nothing: one query for all who wait, a few dozen times a second, and no busy loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import event

from imagekin_api.wiring.waiting import POLL_S
from kit.hand import Hand
from kit.patience import until
from kit.serving import Running
from kit.wire import ADMIN_KEY

WAITING = 8
MEASURED_S = 2.0
MOST_CPU_SHARE = 0.25


def test_many_who_wait_cost_little(serve: Callable[..., Running]) -> None:
    server = serve(api_threads=2 * WAITING)
    hand = Hand(server.database, server.settings)
    hand.collection()
    hand.images("a.jpg")
    client = server.client(ADMIN_KEY)
    job = client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1}).json()
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    with ThreadPoolExecutor(WAITING) as pool:
        held = [pool.submit(client.get, f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=50"}) for _ in range(WAITING)]
        until(lambda: server.service.watcher.waiting == WAITING)
        event.listen(server.database.engine, "before_cursor_execute", note)
        started, cpu = time.monotonic(), time.process_time()
        time.sleep(MEASURED_S)
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
        event.remove(server.database.engine, "before_cursor_execute", note)
        hand.finish_cluster({"n_clusters": 1, "clusters": []}, [])
        assert {each.result(timeout=20).json()["status"] for each in held} == {"succeeded"}
    queries = [statement for statement in statements if "FROM jobs" in statement]
    print(f"{cpu / seconds:.1%} of a core, {len(queries) / seconds:.0f} queries a second")
    assert 0 < len(queries) <= 1.2 * seconds / POLL_S
    assert cpu / seconds < MOST_CPU_SHARE
