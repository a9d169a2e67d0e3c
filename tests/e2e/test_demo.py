"""`imagekin demo`, as a user runs it, and the figures of its pictures, pinned so that a change of quality is seen."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from imagekin.demo import furniture


@pytest.mark.timeout(400)
def test_the_demo_says_what_it_found_and_leaves_nothing_running(tmp_path: Path, hostile_folder: Path) -> None:
    demo = subprocess.run(
        [sys.executable, "-P", "-m", "imagekin", "demo", "--data-dir", str(tmp_path / "demo")],
        cwd=hostile_folder,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    print(demo.stdout)
    assert demo.returncode == 0, demo.stderr
    assert "30 pictures: 30 embedded" in demo.stdout
    shared = [
        int(count) for count in re.findall(r"^Most similar to \S+: (\d) of 5 share its theme$", demo.stdout, re.M)
    ]
    assert len(shared) == 6
    # what was measured when this was written; another processor's rounding may move a picture or two, a change of
    # quality moves more
    assert abs(sum(shared) - 20) <= 2
    purities = dict(re.findall(r"^k=(\d): purity (.*)\.$", demo.stdout, re.M))
    assert purities.keys() == {"3", "6"}
    by_class = {k: float(text.split()[0]) for k, text in purities.items()}
    assert by_class["3"] == 1.0
    assert by_class["6"] >= 0.93
    by_theme = float(purities["6"].split()[3])
    assert 0.5 <= by_theme <= 0.8
    sheets = sorted((tmp_path / "demo" / "sheets").rglob("*.png"))
    assert len(sheets) == 6 + 6 + 3
    for sheet in sheets:
        with Image.open(sheet) as image:
            assert image.width > 300
    opening = re.fullmatch(r"Look at them in the gallery: (.*), then open (\S+)", demo.stdout.splitlines()[-1])
    assert opening is not None
    assert opening.groups() == (f"imagekin up --data-dir {tmp_path / 'demo'}", "http://127.0.0.1:8000/c/demo")
    assert processes_naming(tmp_path) == []


@pytest.mark.timeout(400)
def test_a_kept_demo_shows_its_pictures_in_the_gallery_until_ctrl_c(tmp_path: Path) -> None:
    own, data = tmp_path / "own pictures", tmp_path / "data"
    own.mkdir()
    for picture in list(furniture.pictures())[::6]:
        shutil.copy(picture.path, own)
    command = [sys.executable, "-m", "imagekin", "demo", str(own), "--data-dir", str(data), "--keep"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo,
        ExitStack() as ending,
    ):
        # before its end is waited for, which a test that fails has not asked for
        ending.callback(demo.kill)
        assert demo.stdout is not None
        lines = iter(demo.stdout.readline, "")
        url = next(
            line.rpartition(" ")[2].strip() for line in lines if line.startswith("Look at them in the gallery: ")
        )
        base, _, name = url.partition("/c/")
        with httpx2.Client(base_url=base, trust_env=False) as browser:
            page = browser.get(f"/c/{name}")
            assert page.headers["Content-Type"] == "text/html; charset=utf-8"
            assert "script-src 'self'" in page.headers["Content-Security-Policy"]
            [script] = re.findall(r'src="(/app/app\.js\?v=\w+)"', page.text)
            assert browser.get(script).headers["Cache-Control"].endswith("immutable")
            assert browser.get("/session").json()["owner"] == "local"
            images = browser.get(f"/v1/collections/{name}/images").json()
            assert images["total"] == 5
            [first, *_] = images["items"]
            at = f"/v1/collections/{name}/images/{first['id']}/thumbnail?v={first['content_hash']}"
            assert browser.get(at).headers["Cache-Control"] == "private, max-age=31536000, immutable"
        demo.send_signal(signal.SIGINT)
        rest, log = demo.communicate(timeout=60)
    assert demo.returncode == 0, log
    assert log.splitlines()[-1] == "Stopped."
    assert rest.splitlines()[-1] == (
        f"Look at them in the gallery: imagekin up --data-dir {data}, then open http://127.0.0.1:8000/c/{name}"
    )
    assert processes_naming(data) == []


def processes_naming(folder: Path) -> list[str]:
    """Return the command lines of processes that have the folder in their command line or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in seen:
            found.append((process / "cmdline").read_text().replace("\0", " "))
    return found
