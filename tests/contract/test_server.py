"""The production process: granian, started and stopped as an operator does."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.settings import Settings
from imagekin.stack import port
from kit.hand import Hand
from kit.production import produced, run
from kit.wire import check_problem


def test_a_stopped_server_answers_whoever_waits_and_ends(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    with produced(settings, API_THREADS=4) as api:
        database = Database(settings.database)
        hand = Hand(database, settings)
        hand.collection()
        hand.images("a.jpg")
        job = api.client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1}).json()
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(api.client.get, f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=50"})
            while "imagekin_requests_waiting 1.0" not in api.client.get("/metrics").text:
                assert not held.done()
            api.process.send_signal(signal.SIGTERM)
            answer = held.result(timeout=30)
        assert api.process.wait(30) == 0
        assert (answer.status_code, answer.json()["status"]) == (200, "queued")
        database.dispose()


def test_a_refused_body_leaves_the_answer_readable(make_settings: Callable[..., Settings]) -> None:
    with produced(make_settings(), MAX_UPLOAD_BYTES=1000, MAX_JSON_BYTES=1000) as api:
        client = api.client
        for path in ("/v1/uploads", "/v1/collections", "/v1/nothing"):
            headers = {"Content-Type": "application/json"}
            answer = client.post(path, content=b"x" * 20_000_000, headers=headers)
            if path == "/v1/nothing":
                check_problem(answer, 404, "not_found")
            else:
                check_problem(answer, 413, "too_large")
        pieces = iter([b"x" * 900] * 100)
        check_problem(client.post("/v1/uploads", content=pieces), 413, "too_large")
        assert client.post("/v1/uploads", content=b"x" * 1000).status_code == 201


def test_the_local_mode_knows_its_own_port(make_settings: Callable[..., Settings]) -> None:
    with produced(make_settings(), AUTH="local") as api:
        client = api.client
        assert client.get("/v1/collections").status_code == 200
        check_problem(client.get("/v1/collections", headers={"Host": "localhost:1"}), 403, "forbidden")
        check_problem(client.get("/v1/collections", headers={"X-Forwarded-Proto": "https"}), 403, "forbidden")


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"AUTH": "local", "HOST": "0.0.0.0"}, 2, "IMAGEKIN_HOST must be 127.0.0.1"),
        ({"PORT": "0"}, 2, "IMAGEKIN_PORT must name a port"),
        ({"PORT": "many"}, 2, "IMAGEKIN_PORT: "),
        ({"DATABASE_URL": "mysql://localhost/x"}, 1, "use sqlite or postgresql"),
    ],
)
def test_settings_that_cannot_be_served_end_it_with_the_reason(
    make_settings: Callable[..., Settings], changes: dict[str, str], code: int, reason: str
) -> None:
    ended = run(make_settings(), **changes)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_unmigrated_database_is_waited_for_and_then_named(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    database = Database(settings.database)
    tables.Base.metadata.drop_all(database.engine)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    database.dispose()
    started = time.monotonic()
    ended = run(settings, WAIT_FOR_DATABASE_S=1, PORT=port.claim("127.0.0.1", 0))
    assert time.monotonic() - started >= 1
    assert ended.returncode == 1
    assert "imagekin db upgrade" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_taken_port_ends_it_with_the_reason(make_settings: Callable[..., Settings]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = run(make_settings(), PORT=port)
    assert ended.returncode == 1
    assert str(port) in ended.stderr
