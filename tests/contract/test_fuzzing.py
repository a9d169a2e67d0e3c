"""Every call of /openapi.json under generated requests: no 5xx, and no answer that the document does not have."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fuzzing_checks
import pytest

from kit.receiving import SECRET
from kit.serving import Running
from kit.wire import ADMIN_KEY

# FUZZING_EXAMPLES=50 FUZZING_SEED=2 looks longer, and elsewhere
EXAMPLES = int(os.environ.get("FUZZING_EXAMPLES", "4"))
SEED = os.environ.get("FUZZING_SEED", "1")


@pytest.mark.timeout(max(400, 50 * EXAMPLES))
def test_schemathesis_finds_nothing(serve: Callable[..., Running], tmp_path: Path) -> None:
    # nothing listens for what is generated here; the rate limit has tests of its own
    server = serve(rate_limit_per_s=0, webhook_secret=SECRET)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {ADMIN_KEY}"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", SEED),
            # valid by the document is not always valid by what is there: fuzzing_checks.py holds 422 to that
            *("--exclude-checks", "positive_data_acceptance"),
            *("--continue-on-failure", "--no-color", "--request-timeout", "30"),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "NO_PROXY": "127.0.0.1",
            "SCHEMATHESIS_HOOKS": fuzzing_checks.__name__,
            "PYTHONPATH": str(Path(__file__).parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    print(run.stdout[-8000:])
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
