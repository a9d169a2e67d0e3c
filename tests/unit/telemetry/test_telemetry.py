"""Logs: valid lines, the work that they are about, and no secrets."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import pytest
import structlog

from imagekin.telemetry import logs

KEY = "ik_" + "Ab3-_" * 8 + "Xyz"
PASSWORD = "pass/word+1"
SETTINGS = """
from imagekin.telemetry import logs
from imagekin.settings import Settings
settings = Settings(
    database_url="postgresql://ann:pass%2Fword%2B1@db/imagekin",
    first_key="first-key-of-all",
    log_format="{log_format}",
    log_level="{log_level}",
)
logs.configure(settings)
"""


def logged(script: str, log_format: str = "json", log_level: str = "info") -> str:
    """Run a script in a process of its own that logs, and return what that wrote."""
    code = SETTINGS.format(log_format=log_format, log_level=log_level) + script
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == ""
    return ended.stderr


def lines(script: str, **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged(script, **options).splitlines()]


def test_events_records_warnings_and_tracebacks_are_a_line_of_json_each() -> None:
    found = lines(
        """
import logging, threading, warnings, structlog
log = structlog.get_logger()
log.info("one\\nevent", number=1, thing=object())
logging.getLogger("library").warning("%s percent", 50)
warnings.warn("careful\\nnow")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broken")
def die():
    raise RuntimeError("in a thread")
thread = threading.Thread(target=die, name="lane-0")
thread.start()
thread.join()
"""
    )
    assert [line["level"] for line in found] == ["info", "warning", "warning", "error", "error"]
    assert found[1]["event"] == "50 percent"
    assert "careful" in found[2]["event"]
    assert "ZeroDivisionError" in found[3]["exception"]
    assert (found[4]["event"], found[4]["thread"]) == ("thread_died", "lane-0")
    assert "in a thread" in found[4]["exception"]
    assert all({"event", "level", "logger", "timestamp"} <= line.keys() for line in found)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_comes_out(log_format: str) -> None:
    text = logged(
        f"""
import logging, structlog
key, password = {KEY!r}, {PASSWORD!r}
log = structlog.get_logger()
log.info("settings", database=settings.database_url, key=settings.first_key, given=key, password=password)
log.info(repr(settings))
logging.getLogger("library").error("cannot connect to redis://:another-one@host/0")
try:
    raise RuntimeError(f"refused: {{settings.database_url}} {{key}}")
except RuntimeError:
    log.exception("broken", headers={{"Authorization": f"Bearer {{key}}"}})
""",
        log_format=log_format,
    )
    for secret in (KEY, PASSWORD, "pass%2Fword", "first-key-of-all", "another-one"):
        assert secret not in text
    assert "redis://:***@host/0" in text
    assert "refused: postgresql://ann:***@db/imagekin ***" in text


@pytest.mark.parametrize(("log_level", "count"), [("info", 1), ("debug", 2)])
def test_celerys_word_for_each_ring_is_for_debugging(log_level: str, count: int) -> None:
    found = lines(
        """
import logging
logging.getLogger("celery.worker.strategy").info("Task received")
logging.getLogger("celery.app.trace").error("Task broken")
""",
        log_level=log_level,
    )
    assert len(found) == count
    assert found[-1]["event"] == "Task broken"


@pytest.mark.parametrize("log_level", ["debug", "info", "error"])
def test_libraries_that_log_their_requests_headers_never_do_so(log_level: str) -> None:
    said = "import logging; log = logging.getLogger('botocore.endpoint'); log.{}('X-Amz-Security-Token: t')"
    assert lines(said.format("debug"), log_level=log_level) == []
    assert len(lines(said.format("error"), log_level=log_level)) == 1


def test_a_thread_knows_whose_work_it_does() -> None:
    seen: list[dict[str, Any]] = []
    with structlog.contextvars.bound_contextvars(job_id="j", chunk=3, attempt=2):
        threads = [
            threading.Thread(target=logs.in_context(lambda: seen.append(structlog.contextvars.get_contextvars())))
            for _ in range(2)
        ]
    for thread in threads:
        thread.start()
        thread.join()
    assert seen == [{"job_id": "j", "chunk": 3, "attempt": 2}] * 2
