"""A worker's parent process: small, for it only watches."""

from __future__ import annotations

import subprocess
import sys


def test_the_parent_holds_no_torch() -> None:
    """Torch takes some 500 MB, and there is a parent beside each child that needs it."""
    code = "import sys, imagekin_worker.process.parent; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
