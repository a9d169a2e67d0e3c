"""What is shown on a terminal while a job is at work, and what Ctrl-C does there."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imagekin.cli import following
from imagekin.client.progress import duration
from kit.fake_server import FakeServer, progress
from kit.terminal import COMMAND, on_terminal, plain


def test_ctrl_c_leaves_the_job_at_work(server: FakeServer, pictures: Path) -> None:
    server.steps = [{"status": "running", "progress": progress(total=5)}] * 100_000
    process = subprocess.Popen(
        [*COMMAND, "embed", str(pictures), "-c", "new"],
        env={**os.environ, "IMAGEKIN_URL": server.url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    seen = ""
    while "embed running" not in seen:
        seen = process.stderr.readline()
        assert seen, "it ended early"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert "Job j1 continues. Watch it: imagekin jobs watch j1" in err
    assert "imagekin jobs cancel j1" in err
    assert server.jobs["j1"]["status"] == "running"


def test_ctrl_c_on_a_terminal_asks(server: FakeServer, pictures: Path) -> None:
    server.steps = [{"status": "running", "progress": progress(total=5, done=2, embedded=2)}] * 100_000
    code, shown = on_terminal(
        server, ["embed", str(pictures), "-c", "new"], {"2 of 5 images": b"\x03", "Stop it now?": b"y\n"}
    )
    assert code == 130
    assert "━" in shown
    assert "Stopped; the images that were done stay." in shown
    assert server.jobs["j1"]["status"] == "cancelled"


def test_no_answer_in_time_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "ANSWER_S", 0.01)
    keyboard, terminal = pty.openpty()
    with os.fdopen(terminal) as stdin, os.fdopen(keyboard, "wb", buffering=0) as typed:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert not following.agreed("Stop it now?")
        for answer, meant in ((b"y\n", True), (b"Yes\n", True), (b"\n", False), (b"\x04", False)):
            typed.write(answer)
            assert following.agreed("Stop it now?") is meant


def test_a_bar_has_rate_and_time_left_and_stays_one_line(server: FakeServer, pictures: Path) -> None:
    numbers = {"total": 90_000, "done": 45_678, "embedded": 40_000, "reused": 5_000, "failed": 678}
    server.steps = [
        {"status": "running", "progress": progress(**numbers, images_per_s=123.0, eta_s=4000)},
        {"status": "partial", "progress": progress(**numbers)},
    ]
    server.roots = True
    code, shown = on_terminal(server, ["embed", str(pictures), "-c", "new"], {})
    assert code == 3
    running = next(line for line in plain(shown) if "embed running" in line)
    # the bar gives way
    assert re.search("━{8}", running)
    assert "45,678 of 90,000 images 5,000 reused, 678 failed, 123 images/s, 1 h 06 min left 0:00:0" in running


def test_nothing_empty_is_shown_where_nothing_is_uploaded(server: FakeServer, pictures: Path) -> None:
    server.roots = True
    code, shown = on_terminal(server, ["embed", str(pictures), "-c", "new", "--no-wait"], {})
    assert code == 0
    assert "uploaded" not in shown
    assert [line[:2] for line in shown.splitlines()] == ["Ne", "j1", "Wa"]


def test_a_table_on_a_terminal(server: FakeServer) -> None:
    server.add_collection("c", image_count=3)
    code, shown = on_terminal(server, ["collections", "list"], {})
    assert code == 0
    assert "\t" not in shown
    assert "efficientnet_lite0" in shown


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 59, 60, 200, 7500)] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
