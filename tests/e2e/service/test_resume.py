"""An upload that was interrupted goes on where it stopped: what crosses the wire is counted on the wire."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagekin import Client
from imagekin.stack import Stack

PICTURES = 12
SIDE_PX = 256
# As noise does not compress.
PICTURE_BYTES = SIDE_PX * SIDE_PX * 3
# What requests, tar headers and padding may come to.
OVERHEAD_BYTES = 60_000
COMMAND = f"""
from imagekin.client import uploads
uploads.PART_BYTES = {4 * PICTURE_BYTES + 4_000}
from imagekin.cli import main
main()
"""


class Wire:
    """A connection to the service that counts what clients send, and freezes after `freeze_at` bytes."""

    def __init__(self, url: str) -> None:
        host, _, port = url.rpartition("/")[2].partition(":")
        self._to = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._named = f"Host: {host}:{port}".encode()
        self._name = f"Host: 127.0.0.1:{self._listener.getsockname()[1]}".encode()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = 0
        self.freeze_at: float = float("inf")
        self.frozen = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._to)
                threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError), source, target:
            while piece := source.recv(1 << 16):
                if counted:
                    self.sent += len(piece)
                    if self.sent > self.freeze_at:
                        self.frozen.set()
                        # until the client is gone, whose bytes then end
                        while source.recv(1 << 16):
                            pass
                        return
                # a service of this machine alone wants to be called by its own name
                target.sendall(piece.replace(self._name, self._named) if counted else piece)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def wire(service: Stack) -> Iterator[Wire]:
    wire = Wire(service.url)
    yield wire
    wire.close()


def draw(folder: Path, seed: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(seed)
    for number in range(PICTURES):
        pixels = random.integers(0, 255, (SIDE_PX, SIDE_PX, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


@contextlib.contextmanager
def embedding(wire: Wire, photos: Path, name: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    arguments = ["embed", str(photos), "-c", name, "--backbone", "fake", "--upload", *options]
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        env={**os.environ, "IMAGEKIN_URL": wire.url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def embed(wire: Wire, photos: Path, name: str, *options: str) -> tuple[int, str, str]:
    with embedding(wire, photos, name, *options) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_client_killed_while_uploading_sends_the_rest_the_next_time(
    client: Client, wire: Wire, tmp_path: Path, how: signal.Signals
) -> None:
    # content of its own, lest it be reused
    name, photos = f"resumed-{how.name}", draw(tmp_path / "photos", how)
    # in the middle of the second of three parts
    wire.freeze_at = 6 * PICTURE_BYTES
    with embedding(wire, photos, name) as first:
        assert wire.frozen.wait(60)
        first.send_signal(how)
        out, err = first.communicate(timeout=60)
    assert (out, first.returncode) == ("", 130 if how is signal.SIGINT else -how)
    assert ("the same command continues from here" in err) == (how is signal.SIGINT)
    (job,) = client.jobs(collection=name)

    wire.sent, wire.freeze_at = 0, float("inf")
    code, out, err = embed(wire, photos, name, "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["progress"]["done"] == shown["progress"]["total"] == PICTURES
    # the first part's job may still have been at work
    assert (shown["upload"]["known"] + shown["upload"]["joined"], shown["upload"]["sent"]) == (4, 8)
    assert 8 * PICTURE_BYTES < wire.sent < 8 * PICTURE_BYTES + OVERHEAD_BYTES
    assert client.collection(name).image_count == PICTURES
    jobs = list(client.jobs(collection=name))
    assert sum(job.progress.embedded for job in jobs) == PICTURES
    assert job.id in {each.id for each in jobs}

    wire.sent = 0
    (photos / "new.png").write_bytes((photos / "00.png").read_bytes())
    code, out, err = embed(wire, photos, name)
    assert (code, out) == (0, f"{PICTURES + 1} images: {PICTURES + 1} reused\n")
    assert f"{PICTURES + 1} files: {PICTURES} there already, 1 sent" in err
    assert PICTURE_BYTES < wire.sent < PICTURE_BYTES + OVERHEAD_BYTES
