"""A worker's numbers: added up over processes, whatever state a killed one left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, time
from imagekin.telemetry import metrics
metrics.WORK.leases_lost.inc({count})
metrics.WORK.matrix_bytes.set({count} * 1000)
metrics.WORK.decode_seconds.observe(0.02)
print("ready", flush=True)
time.sleep(600)
"""
# In a process of its own: the library decides at its import where numbers are kept.
SCRAPE = """
import os, sys
from pathlib import Path
from imagekin.enums import Lane
from imagekin_worker.process.metrics_server import Exporter
import urllib.request
port = int(sys.argv[1])
with Exporter(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]), Lane.BULK, "127.0.0.1", port):
    print(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
"""


@pytest.fixture
def children(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes with numbers."""
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", SCRIPT.format(count=count)], env=env, stdout=subprocess.PIPE, text=True)
        for count in (2, 3)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    yield started
    for process in started:
        process.kill()
        process.communicate()


def scrape(folder: Path) -> dict[str, float]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    command = [sys.executable, "-c", SCRAPE, str(port)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    samples = [line.rpartition(" ") for line in ended.stdout.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in samples}


def test_the_numbers_of_all_processes_are_added_up(tmp_path: Path, children: list[subprocess.Popen[str]]) -> None:
    numbers = scrape(tmp_path)
    assert numbers["imagekin_leases_lost_total"] == 5
    assert numbers["imagekin_matrix_bytes"] == 5000
    assert numbers["imagekin_decode_seconds_count"] == 2
    assert numbers['imagekin_decode_seconds_bucket{le="0.025"}'] == 2
    assert numbers["imagekin_children"] == 2
    assert numbers["imagekin_children_resident_bytes"] > 10e6
    assert any(name.startswith('imagekin_worker_info{lane="bulk",version=') for name in numbers)


def test_what_a_dead_process_counted_stays_and_what_it_held_goes(
    tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    children[0].send_signal(signal.SIGKILL)
    children[0].wait()
    numbers = scrape(tmp_path)
    assert numbers["imagekin_leases_lost_total"] == 5
    assert numbers["imagekin_matrix_bytes"] == 3000
    assert numbers["imagekin_children"] == 1


def test_a_file_that_was_being_opened_breaks_nothing(tmp_path: Path, children: list[subprocess.Popen[str]]) -> None:
    (tmp_path / "counter_999999999.db").touch()
    (tmp_path / "gauge_livesum_999999999.db").touch()
    assert scrape(tmp_path)["imagekin_leases_lost_total"] == 5


def test_a_taken_port_ends_a_worker_with_the_reason(tmp_path: Path, migrated_sqlite: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        env = {**os.environ, "IMAGEKIN_DATABASE_URL": f"sqlite:///{migrated_sqlite}", "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-m", "imagekin_worker", "--lane", "bulk", "--metrics-port", str(port)]
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "IMAGEKIN_METRICS_PORT" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []
