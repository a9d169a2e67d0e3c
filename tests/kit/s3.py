"""An S3 server of the tests' own, and the environment that leads there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest

SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@contextmanager
def server() -> Iterator[str]:
    """Run a server and give its address."""
    pytest.importorskip("moto", reason="moto gives the S3 server")
    pytest.importorskip("s3fs", reason="s3fs reads s3:// locations")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port
        yield f"http://127.0.0.1:{port}"
        process.communicate()


def lead_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables that every program for S3 knows, for this process and those that it starts."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    fsspec.filesystem("s3").clear_instance_cache()


def make_bucket(name: str) -> None:
    """Make a bucket."""
    fsspec.filesystem("s3").call_s3("create_bucket", Bucket=name)


def put(url: str, files: dict[str, bytes]) -> None:
    """Write files below the URL of a place on any file system."""
    fs, root = fsspec.url_to_fs(url)
    for name, data in files.items():
        fs.pipe_file(f"{root}/{name}", data)
