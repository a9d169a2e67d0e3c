"""What README shows works: its commands run as they stand, against a service of the test's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagekin.stack import Stack

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()


def block(heading: str) -> str:
    """Return the first fenced block below a heading of README."""
    found = re.search(rf"^#+ {re.escape(heading)}\n.*?^```\w+\n(.*?)^```", README, re.M | re.S)
    assert found, heading
    return found[1]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with what README's examples name."""
    (tmp_path / "photos").mkdir()
    for number in range(1, 5):
        noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((120, 90), Image.Resampling.BICUBIC).save(tmp_path / "photos" / f"{number}.jpg")
    (tmp_path / "query.jpg").write_bytes((tmp_path / "photos" / "2.jpg").read_bytes())
    return tmp_path


def run(arguments: list[str], script: str, folder: Path, url: str) -> str:
    port = url.rpartition(":")[2]
    environment = {
        **os.environ,
        "IMAGEKIN_URL": url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        [*arguments, script.replace("127.0.0.1:8000", f"127.0.0.1:{port}")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_command_line(service: Stack, here: Path) -> None:
    out = run(["bash", "-euc"], block("Command line"), here, service.url)
    assert "photos/2.jpg" in out or "2.jpg" in out
    assert (here / "neighbors.png").is_file()
    assert len(list((here / "clusters").glob("*.png"))) == 3


def test_python(service: Stack, here: Path) -> None:
    out = run([sys.executable, "-c"], block("Python"), here, service.url)
    assert re.search(r"^1 1\.0 2\.jpg$", out, re.M)
    assert len(re.findall(r"^[012] \d+ \d\.jpg$", out, re.M)) == 3


def test_curl(service: Stack, here: Path) -> None:
    out = run(["bash", "-euc"], block("curl"), here, service.url)
    assert '"neighbors"' in out and '"2.jpg"' in out
    assert (here / "neighbors.png").read_bytes().startswith(b"\x89PNG")


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
