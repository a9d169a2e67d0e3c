"""What a killed stack left running: written down while it runs, stopped once it is gone.

Children die with their supervisor by themselves (`child.py`), but one may ignore the signal, and its own children do
not get it. So the record is read twice: by a watcher, a process that waits for the supervisor's end
(`python -I -S leftovers.py RECORD RUN`, by its path and without imports of imagekin), and by the next start on the
folder. Where there is no /proc, nothing is stopped.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any, NamedTuple
from uuid import uuid4

RUN = "IMAGEKIN_STACK_RUN"
GRACE_S = 5.0
KILL_S = 5.0
POLL_S = 0.05


class Seen(NamedTuple):
    """A process as /proc shows it; `started` is unique for its pid."""

    pid: int
    session: int
    started: str
    alive: bool


class Session(NamedTuple):
    """The living processes of one service; its leader is None if that has ended."""

    leader: int | None
    members: set[int]


class Record:
    """The processes of one run of the stack, in a file of its data folder."""

    def __init__(self, path: Path) -> None:
        self.run = uuid4().hex
        self._path = path
        self._services: dict[str, tuple[int, str]] = {}
        self._watcher: Popen[bytes] | None = None

    def watch(self) -> None:
        """Start the process that stops what is left when this one is killed."""
        argv = [sys.executable, "-I", "-S", __file__, str(self._path), self.run]
        # It waits for the end of its input, which comes however this process ends.
        self._watcher = Popen(argv, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)

    def add(self, name: str, pid: int) -> None:
        """Write down the process that a service has now, the leader of its session."""
        seen = see(pid)
        self._services[name] = (pid, seen.started if seen else "")
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps({"run": self.run, "services": self._services}))
        draft.replace(self._path)

    def close(self) -> None:
        """Forget the run: all its processes have ended."""
        self._path.unlink(missing_ok=True)
        if self._watcher is not None:
            self._watcher.communicate()


def stop(path: Path, run: str | None = None, grace_s: float = GRACE_S) -> list[int]:
    """Stop what the recorded run (if it is `run`) left, first politely; return the pids that did not end even so."""
    try:
        record = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    if run not in (None, record["run"]):
        return []
    for session in survivors(record):
        if session.leader is not None:
            _signal({session.leader}, signal.SIGTERM)
    politely_until = time.monotonic() + grace_s
    while (left := survivors(record)) and time.monotonic() < politely_until + KILL_S:
        for session in left:
            if session.leader is None or time.monotonic() >= politely_until:
                _signal(session.members, signal.SIGKILL)
        time.sleep(POLL_S)
    return sorted(pid for session in left for pid in session.members)


def survivors(record: dict[str, Any]) -> list[Session]:
    """Return what lives of a recorded run, and never a stranger that got the pid of one of its processes.

    A pid is not given out again while its session has members. So members are ours if the leader is the recorded
    process, or if it is gone and they carry the run's mark in their environment.
    """
    seen = {process.pid: process for process in _processes()}
    found = []
    for leader, started in record["services"].values():
        there = seen.get(leader)
        if there is not None and there.started != started:
            continue
        members = {process.pid for process in seen.values() if process.session == leader and process.alive}
        if there is None:
            members = {pid for pid in members if _marked(pid, record["run"])}
        if members:
            found.append(Session(leader if leader in members else None, members))
    return found


def see(pid: int) -> Seen | None:
    """Return what /proc says about a process; None if it does not exist."""
    try:
        # The name, in parentheses, may hold anything; fields are counted from 1 in proc(5), and 3 comes after it.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Seen(pid, session=int(fields[6 - 3]), started=f"{_boot()}:{fields[22 - 3]}", alive=fields[3 - 3] not in "ZX")


@cache
def _boot() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else ""


def _processes() -> Iterator[Seen]:
    pids = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    return (process for pid in pids if (process := see(pid)) is not None)


def _marked(pid: int, run: str) -> bool:
    try:
        return f"{RUN}={run}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        # Gone, or another user's: then it stays among those that did not end.
        except (ProcessLookupError, PermissionError):
            pass


if __name__ == "__main__":
    sys.stdin.buffer.read()
    sys.exit(1 if stop(Path(sys.argv[1]), run=sys.argv[2]) else 0)
