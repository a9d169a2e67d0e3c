"""The API as operators run it: granian, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from imagekin import catalog
from imagekin.database.engine import Database
from imagekin.enums import DType, OnConflict, Precision
from imagekin.settings import Settings
from imagekin.stack.port import claim
from imagekin.store import collections, segments
from kit.patience import until
from kit.wire import ADMIN_KEY


@dataclass(frozen=True)
class Production:
    """A running API, and a client of the owner `admin`."""

    settings: Settings
    process: subprocess.Popen[bytes]
    client: httpx2.Client

    def files(self) -> set[str]:
        """Return the names of what is stored of uploads."""
        return {path.name for path in (self.settings.data_dir / "storage").rglob("*") if path.is_file()}


class Peak:
    """The most memory that the process which answers has had since `begin`."""

    def __init__(self, parent: int) -> None:
        tasks = Path(f"/proc/{parent}/task").iterdir()
        (self._pid,) = (pid for task in tasks for pid in (task / "children").read_text().split())
        self._before = 0

    def begin(self) -> None:
        """Forget the peak until now."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")
        self._before = self._read()

    def growth(self) -> int:
        """Return by how many bytes the peak rose."""
        return self._read() - self._before

    def _read(self) -> int:
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def environment(settings: Settings, **changes: Any) -> dict[str, str]:
    values = {
        "DATA_DIR": settings.data_dir,
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "FIRST_KEY": settings.first_key,
        "AUTH": settings.auth,
        "WAIT_FOR_DATABASE_S": 0,
        **changes,
    }
    outside = {name: value for name, value in os.environ.items() if not name.startswith("IMAGEKIN_")}
    return {**outside, **{f"IMAGEKIN_{name}": str(value) for name, value in values.items()}}


@contextmanager
def produced(settings: Settings, **changes: Any) -> Iterator[Production]:
    """Run the API with some settings changed, until the block ends."""
    port = claim("127.0.0.1", 0)
    command = [sys.executable, "-m", "imagekin_api"]
    with (
        subprocess.Popen(command, env=environment(settings, PORT=port, **changes)) as process,
        httpx2.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {ADMIN_KEY}"},
            timeout=60,
            trust_env=False,
        ) as client,
    ):

        def answers() -> bool:
            assert process.poll() is None
            try:
                return client.get("/healthz").status_code == 200
            except httpx2.TransportError:
                return False

        try:
            until(answers, "the API")
            yield Production(settings, process, client)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)


def run(settings: Settings, **changes: Any) -> subprocess.CompletedProcess[str]:
    """Run an API that is expected to end."""
    command = [sys.executable, "-m", "imagekin_api"]
    return subprocess.run(
        command, env=environment(settings, **changes), capture_output=True, text=True, timeout=60, check=False
    )


def fill(settings: Settings, name: str, count: int) -> None:
    """Make a collection with so many vectors, in segments as workers write them."""
    space = catalog.resolve_space("efficientnet_lite0", None, Precision.EXACT, settings.weights_dir)
    vectors = np.random.default_rng(0).standard_normal((64, 1280)).astype(np.float32)
    database = Database(settings.database)
    database.write(collections.create, "admin", name, space, DType.FLOAT32)
    for start in range(0, count, 1000):
        items = [
            segments.Item(f"{at:08}.jpg", vector=vectors[at % 64], content_hash=f"{at:064x}")
            for at in range(start, min(start + 1000, count))
        ]
        database.write(
            lambda session, items=items: segments.store(
                session, collections.get(session, "admin", name).id, items, OnConflict.REPLACE
            )
        )
    database.dispose()
