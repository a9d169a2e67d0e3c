"""A process on a database without tables says so and stops; the reason names what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("module", [["imagekin_api"], ["imagekin_worker", "--lane", "bulk"]], ids=["api", "worker"])
def test_it_says_so_and_stops(module: list[str], tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "IMAGEKIN_DATA_DIR": str(tmp_path),
        "IMAGEKIN_WAIT_FOR_DATABASE_S": "0.2",
        "IMAGEKIN_PORT": "65001",
        "IMAGEKIN_REDIS_URL": f"unix://{tmp_path}/nowhere.sock?db=0",
    }
    ended = subprocess.run(
        [sys.executable, "-m", *module], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "imagekin db upgrade" in ended.stderr
