"""Services that are started, watched, started again and stopped."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagekin import stack
from imagekin.stack import service, supervisor
from kit.patience import until
from kit.programs import SLEEP, STUBBORN, alive, python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_stop_kills_what_ignores_it(supervise: Callable[..., supervisor.Supervisor], tmp_path: Path) -> None:
    log = tmp_path / "deaf.log"
    running = supervise(python(STUBBORN, "deaf", grace_s=0.3, ready=lambda: "deaf" in log.read_text()))
    running.start(10)
    pid = json.loads((tmp_path / "processes.json").read_text())["services"]["deaf"][0]
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began >= 0.3
    assert not alive(pid)


def test_stop_has_a_deadline(
    supervise: Callable[..., supervisor.Supervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_S", 0.5)
    log = tmp_path / "deaf.log"
    grace_s = 60
    running = supervise(python(STUBBORN, "deaf", grace_s=grace_s, ready=lambda: "deaf" in log.read_text()))
    running.start(10)
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < grace_s


def test_failing_for_good_ends_the_wait(
    supervise: Callable[..., supervisor.Supervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.01, 0.02))
    sick = (
        f"import pathlib, sys; sys.exit('sick') if pathlib.Path({str(tmp_path)!r}, 'ill').exists() else None; {SLEEP}"
    )
    running = supervise(python(SLEEP, "well"), python(sick, "sick"))
    running.start(10)
    (tmp_path / "ill").touch()
    recorded = json.loads((tmp_path / "processes.json").read_text())["services"]
    os.kill(recorded["sick"][0], signal.SIGKILL)
    with pytest.raises(stack.ServiceFailed, match=r"sick ended with status 1, 10 times in a row;[^$]*\n  sick"):
        running.wait()
    assert not alive(recorded["well"][0])


def test_healthy_services_are_forgiven(
    supervise: Callable[..., supervisor.Supervisor], monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.01, 9.0))
    monkeypatch.setattr(supervisor, "HEALTHY_S", 0.2)
    running = supervise(python("import time; time.sleep(0.5)"))
    running.start(10)
    until(lambda: len([line for line in lines if "again in" in line]) == 4)
    assert {line.rpartition("again in ")[2] for line in lines if "again in" in line} == {"0.01 s"}


def test_start_that_takes_too_long(supervise: Callable[..., supervisor.Supervisor]) -> None:
    service = python(f"print('thinking', flush=True); {SLEEP}", "slow", ready=lambda: False)
    with pytest.raises(stack.ServiceFailed, match=r"slow did not get ready in time; last lines of .*\n  thinking"):
        supervise(python(SLEEP), service).start(timeout_s=0.5)


def test_missing_program(supervise: Callable[..., supervisor.Supervisor]) -> None:
    with pytest.raises(stack.ServiceFailed, match="cannot run /no/such/program: No such file or directory"):
        supervise(stack.Service("gone", ["/no/such/program"], restart=False)).start(10)


def test_large_logs_are_put_aside(tmp_path: Path) -> None:
    with (tmp_path / "api.log").open("wb") as log:
        log.truncate(service.MAX_LOG_BYTES + 1)
    service.Process(python(SLEEP, "api"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["api.log.1"]
