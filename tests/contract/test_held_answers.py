"""Answers that are held until the job has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from imagekin.jobs import end
from kit.calls import SUMMARY, cluster
from kit.hand import Hand
from kit.patience import until
from kit.serving import BOTH_ENGINES, Running
from kit.wire import ADMIN_KEY, check_problem

pytestmark = BOTH_ENGINES


def test_a_held_answer_comes_when_the_job_ends(client: httpx2.Client, one_image: Hand, server: Running) -> None:
    job = cluster(client)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.get, f"/v1/jobs/{job['id']}", headers={"Prefer": "respond-async, wait=50"})
        until(lambda: server.service.watcher.waiting == 1)
        one_image.finish_cluster(SUMMARY, [])
        answer = held.result(timeout=20)
    assert answer.json()["status"] == "succeeded"
    assert answer.headers["Preference-Applied"] == "wait=50"
    # and nobody polls for nothing
    until(lambda: not any(thread.name == "waiting" for thread in threading.enumerate()))


def test_a_held_answer_comes_when_the_time_is_up(client: httpx2.Client, one_image: Hand) -> None:
    job = cluster(client)
    started = time.monotonic()
    answer = client.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=1"})
    assert time.monotonic() - started > 0.9
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
    assert answer.headers["Preference-Applied"] == "wait=1"


def test_an_ended_job_is_not_held(client: httpx2.Client, one_image: Hand) -> None:
    job = cluster(client)
    one_image.finish_cluster(SUMMARY, [])
    # longer than the client has patience
    answer = client.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=50"})
    assert answer.json()["status"] == "succeeded"


def test_a_held_job_may_be_deleted(client: httpx2.Client, one_image: Hand, server: Running) -> None:
    job = cluster(client)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.get, f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=50"})
        until(lambda: server.service.watcher.waiting == 1)

        def remove(session: Any) -> None:
            end.cancel(session, "admin", job["id"])
            session.flush()
            end.delete(session, "admin", job["id"])

        server.database.write(remove)
        check_problem(held.result(timeout=20), 404, "job_not_found")


def test_at_most_half_of_the_threads_wait(serve: Callable[..., Running]) -> None:
    server = serve(api_threads=4)
    hand = Hand(server.database, server.settings)
    hand.collection()
    hand.images("a.jpg")
    client = server.client(ADMIN_KEY)
    job = cluster(client)
    path, headers = f"/v1/jobs/{job['id']}", {"Prefer": "wait=50"}
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(client.get, path, headers=headers) for _ in range(2)]
        until(lambda: server.service.watcher.waiting == 2)
        answer = client.get(path, headers=headers)
        assert answer.json()["status"] == "queued"
        assert "Preference-Applied" not in answer.headers
        hand.finish_cluster(SUMMARY, [])
        assert {each.result(timeout=20).json()["status"] for each in held} == {"succeeded"}
