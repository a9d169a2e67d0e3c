"""Ctrl-C, kills, and what a killed run left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from imagekin import stack
from imagekin.settings import Settings
from imagekin.stack import child, embedded, leftovers
from kit.patience import until
from kit.programs import SLEEP, STUBBORN, alive, pids

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_ctrl_c_stops_in_order(driver: subprocess.Popen[str], data: Path) -> None:
    everybody = pids(data)
    assert all(os.getsid(pid) != os.getsid(driver.pid) for pid in everybody if alive(pid))
    driver.send_signal(signal.SIGINT)
    assert driver.communicate(timeout=20)[0].splitlines()[-1] == "down"
    assert driver.returncode == 0
    assert len((data / "stopped").read_text().split()) == 3
    until(lambda: not any(map(alive, everybody)))


def test_second_ctrl_c_kills(data: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setenv("STUBBORN", "bulk")
    monkeypatch.setenv("PATIENCE_S", "600")
    driver = request.getfixturevalue("driver")
    everybody = pids(data)
    began = time.monotonic()
    driver.send_signal(signal.SIGINT)
    driver.send_signal(signal.SIGINT)  # at the same moment: one Ctrl-C that came twice
    until(lambda: time.monotonic() - began > embedded.SECOND_CTRL_C_S + 0.3)
    assert driver.poll() is None
    driver.send_signal(signal.SIGINT)
    # long before the worker's time is up
    assert driver.communicate(timeout=60)[0].splitlines()[-1] == "down"
    assert "bulk" not in (data / "stopped").read_text().split()
    until(lambda: not any(map(alive, everybody)))


def test_killed_supervisor_leaves_no_survivors(driver: subprocess.Popen[str], data: Path) -> None:
    everybody = pids(data)
    driver.kill()
    until(lambda: not any(map(alive, everybody)))


def test_next_start_stops_what_a_killed_run_left(driver: subprocess.Popen[str], data: Path, lines: list[str]) -> None:
    everybody = pids(data)
    children = Path(f"/proc/{driver.pid}/task").glob("*/children")
    watcher = {int(pid) for path in children for pid in path.read_text().split()} - set(everybody)
    assert len(watcher) == 1
    os.kill(watcher.pop(), signal.SIGKILL)
    driver.kill()
    # the folder's lock goes with it, which is after its children can be gone
    driver.wait(60)
    leaders = [json.loads(path.read_text())["pids"][0] for path in data.glob("*.json")]
    until(lambda: not any(map(alive, leaders)))
    assert any(map(alive, everybody))
    with stack.Stack(Settings(data_dir=data, port=0), log=lines.append):
        assert not any(map(alive, everybody))


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_stubborn_leftovers_are_killed(stranger: subprocess.Popen[bytes], tmp_path: Path) -> None:
    leftovers.Record(tmp_path / "record").add("api", stranger.pid)
    assert leftovers.stop(tmp_path / "record", run="another run", grace_s=0) == []
    assert alive(stranger.pid)
    assert leftovers.stop(tmp_path / "record", grace_s=0.1) == []
    assert stranger.wait() == -signal.SIGKILL


def test_a_stranger_with_a_recycled_pid_is_spared(stranger: subprocess.Popen[bytes], tmp_path: Path) -> None:
    services = {"api": (stranger.pid, "another start")}
    (tmp_path / "record").write_text(json.dumps({"run": uuid4().hex, "services": services}))
    assert leftovers.stop(tmp_path / "record", grace_s=0) == []
    assert alive(stranger.pid)


@pytest.mark.parametrize("ours", [True, False])
def test_a_session_without_leader_is_stopped_only_with_the_mark(tmp_path: Path, ours: bool) -> None:
    record = leftovers.Record(tmp_path / "record")
    code = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '{SLEEP}'], stdout=2).pid, flush=True)"
    )
    mark = {leftovers.RUN: record.run} if ours else {}
    argv = [sys.executable, "-c", f"{code}; sys.stdin.read()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, env=os.environ | mark, start_new_session=True, stdin=pipe, stdout=pipe) as leader:
        assert leader.stdout is not None
        member = int(leader.stdout.readline())
        record.add("worker", leader.pid)
        leader.communicate()
    try:
        leftovers.stop(tmp_path / "record", grace_s=0)
        assert alive(member) is not ours
    finally:
        if not ours:
            os.kill(member, signal.SIGKILL)


def test_child_of_a_dead_supervisor_does_not_run() -> None:
    argv = [sys.executable, child.__file__, "999999999", "echo", "running"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "the supervisor is gone\n")
