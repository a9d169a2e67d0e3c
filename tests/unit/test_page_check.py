"""`web/check.sh`: a stale page fails, and where Node is missing that is said, or in CI fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILT = "api/imagekin_api/web/static/app"


def check(root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if name != "CI"} | environment
    return subprocess.run(["/bin/sh", root / "web/check.sh"], env=given, capture_output=True, text=True, check=False)


@pytest.fixture
def without_node(tmp_path: Path) -> str:
    """A PATH that has what a shell needs, and no Node."""
    for name in ("dirname", "cmp", "diff", "mktemp", "rm"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    return str(tmp_path)


def test_without_node_it_says_what_it_did_not_check(without_node: str) -> None:
    done = check(ROOT, PATH=without_node)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Skipped: whether the built page is that of web/src, for there is no Node 20")


def test_in_ci_it_fails_without_node(without_node: str) -> None:
    done = check(ROOT, PATH=without_node, CI="true")
    assert done.returncode == 1
    assert done.stderr.startswith("The page cannot be checked: there is no Node 20")


def test_a_stale_page_fails(tmp_path: Path) -> None:
    if not (ROOT / "web/node_modules/.for").exists():
        pytest.skip("what builds the page is not installed; `make check` does that where Node 20 is")
    shutil.copytree(ROOT / "web", tmp_path / "web", ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "web/node_modules").symlink_to(ROOT / "web/node_modules")
    shutil.copytree(ROOT / BUILT, tmp_path / BUILT)
    fresh = check(tmp_path)
    assert fresh.returncode == 0, fresh.stderr + fresh.stdout
    with (tmp_path / "web/src/style.css").open("a") as style:
        style.write("body { color: red }\n")
    stale = check(tmp_path)
    assert stale.returncode == 1
    assert "run `make page`" in stale.stderr
