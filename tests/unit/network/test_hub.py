"""Weights on the hub: the real client against a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save

PATH = "/timm/resnet10t.c3_in1k/resolve/main/model.safetensors"
CODE = """
import sys
from pathlib import Path
from imagekin import catalog, errors
from imagekin.enums import Precision
from imagekin.settings import Settings
where = Path(sys.argv[1])
try:
    space = catalog.resolve_space("timm/resnet10t.c3_in1k", None, Precision.EXACT, where)
    print(space.weights, space.weights_digest)
    if len(sys.argv) > 2:
        from imagekin_worker.network import backbones
        print(backbones.load(space, Settings(weights_dir=where, device="cpu")).space.dim)
except (errors.UnknownWeights, errors.WeightsUnavailable) as error:
    print(type(error).__name__, error)
"""


class Hub:
    """What the hub says of one file, and what it was asked."""

    def __init__(self) -> None:
        self.file = b""
        self.status = 200
        self.asked: list[tuple[str, str]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(b"")

            def do_GET(self) -> None:
                self._answer(hub.file)

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _answer(self, body: bytes) -> None:
                hub.asked.append((self.command, self.path))
                found = hub.status if self.path == PATH else 404
                self.send_response(found)
                self.send_header("X-Repo-Commit", "a" * 40)
                if found == 404:
                    self.send_header("X-Error-Code", "EntryNotFound")
                if found == 401:
                    self.send_header("X-Error-Code", "GatedRepo")
                self.send_header("ETag", f'"{hashlib.sha256(hub.file).hexdigest()}"')
                self.send_header("Content-Length", str(len(hub.file) if found == 200 else 0))
                self.end_headers()
                if found == 200:
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def hub() -> Iterator[Hub]:
    running = Hub()
    yield running
    running.close()


def load(hub: Hub, tmp_path: Path, *more: str, **environment: str) -> str:
    """Resolve a space of timm in a process of its own, since the library reads its environment once."""
    off = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
    environ = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), **off, **environment}
    arguments = [sys.executable, "-c", CODE, str(tmp_path / "weights"), *more]
    return subprocess.run(arguments, env=environ, capture_output=True, text=True, check=True).stdout


def test_weights_are_named_by_the_hubs_digest_and_fetched_once(hub: Hub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet10t")
    hub.file = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    digest = hashlib.sha256(hub.file).hexdigest()
    assert load(hub, tmp_path) == f"c3_in1k {digest}\n"
    assert {method for method, _ in hub.asked} == {"HEAD"}, "the API asks for no weights"
    assert load(hub, tmp_path, "embed") == f"c3_in1k {digest}\n512\n"
    assert ("GET", PATH) in hub.asked
    hub.asked.clear()
    assert load(hub, tmp_path, "embed", HF_HUB_OFFLINE="1") == f"c3_in1k {digest}\n512\n"
    assert hub.asked == [], "they are in the cache"


@pytest.mark.parametrize("status", [401, 404, 503])
def test_a_hub_that_does_not_say_is_no_riddle(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.status = status
    said = load(hub, tmp_path)
    assert said.startswith("UnknownWeights The weights of timm/resnet10t.c3_in1k are not on this machine")
    assert str(tmp_path / "weights/timm/resnet10t.c3_in1k.safetensors") in said
    assert "HF_TOKEN" in said


def test_without_a_way_to_the_hub_nothing_is_asked(hub: Hub, tmp_path: Path) -> None:
    said = load(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert said.startswith("UnknownWeights")
    assert hub.asked == []
