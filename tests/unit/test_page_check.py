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
    assert done.stderr.startswith("Skipped: whether the built page is that of web/src, for there is no Node 18")


def test_in_ci_it_fails_without_node(without_node: str) -> None:
    done = check(ROOT, PATH=without_node, CI="true")
    assert done.returncode == 1
    assert done.stderr.startswith("The page cannot be checked: there is no Node 18")


def test_a_stale_page_fails(tmp_path: Path) -> None:
    if not (ROOT / "web/node_modules/.for").exists():
        pytest.skip("what builds the page is not installed; `make check` does that where Node 18 is")
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


@pytest.fixture
def bare_machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without Node and Chromium, whose apt-get and make say what they were asked."""
    for name in ("bash", "dirname", "env"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    for name in ("apt-get", "make"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $* (CI=$CI)"\n')
        (tmp_path / name).chmod(0o755)
    return {"PATH": str(tmp_path)}


def test_ci_installs_what_is_missing_or_names_it(bare_machine: dict[str, str]) -> None:
    run = subprocess.run([ROOT / ".ci/run"], env=bare_machine, capture_output=True, text=True, check=False)
    packages = "nodejs npm chromium chromium-driver"
    if os.geteuid() == 0:
        assert run.returncode == 0, run.stderr
        update, install, make = run.stdout.splitlines()
        assert update.startswith("apt-get update")
        assert f" {packages} " in install
        assert make == "make test (CI=true)"
    else:
        assert (run.returncode, run.stdout) == (1, "")
        assert run.stderr.startswith(f"Missing: {packages}. ")
