"""`imagekin bench --quick`, all of it: every row that a CPU can measure has a figure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from peers import MARKS

from imagekin_worker.bench import rows

pytestmark = MARKS


def test_every_row_of_a_cpu_is_measured(own_environment: None, tmp_path: Path) -> None:
    call = [sys.executable, "-m", "imagekin", "bench", "--quick", "--json", "--data-dir", str(tmp_path)]
    run = subprocess.run(call, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr
    found = {row["name"]: row for row in json.loads(run.stdout)["rows"]}
    missing = {row.name: found[row.name]["reason"] for row in rows.CPU if found[row.name]["ratio"] is None}
    assert not missing
    assert found["large-photos"]["details"]["mean_cosine"] > 0.99
    assert list(tmp_path.iterdir()) == []
