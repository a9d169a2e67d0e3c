"""The command line in the tests' process, and as its own process on a terminal of the tests."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from kit.fake_server import FakeServer

Call: TypeAlias = Callable[..., "Done"]
COMMAND = [sys.executable, "-c", "from imagekin.cli import main; main()"]


@dataclass(frozen=True)
class Done:
    """How a call of the command line ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


def on_terminal(server: FakeServer, arguments: list[str], answers: dict[str, bytes]) -> tuple[int, str]:
    """Run a command on a pseudo-terminal; each answer is typed when its text has been shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "IMAGEKIN_URL": server.url, "TERM": "xterm-256color", "COLUMNS": "120"}
        os.execve(sys.executable, [*COMMAND, *arguments], environment)
    shown, waiting = "", list(answers.items())
    # The end of a pseudo-terminal is an error.
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 1 << 16):
            shown += piece.decode(errors="replace")
            if waiting and waiting[0][0] in shown:
                os.write(terminal, waiting.pop(0)[1])
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def plain(shown: str) -> list[str]:
    """Return the lines without what moves the cursor and colors the text."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown))
