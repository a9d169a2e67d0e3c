"""The working folder is not code: modules beside somebody's pictures are never run, by whatever name."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

from PIL import Image

from imagekin import Client

IMAGEKIN = [sys.executable, "-P", "-m", "imagekin"]  # as the installed command, which has its own folder on its path


def test_nothing_of_the_working_folder_is_run(hostile_folder: Path, tmp_path: Path) -> None:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("IMAGEKIN_")}
    env = {**outside, "IMAGEKIN_WARM": "fake", "IMAGEKIN_COMPILE_AFTER_S": "0", "PYTHONUNBUFFERED": "1"}
    picture = io.BytesIO()
    Image.new("RGB", (32, 24), "teal").save(picture, "PNG")
    (hostile_folder / "a.png").write_bytes(picture.getvalue())
    command = [*IMAGEKIN, "up", "--port", "0", "--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(command, cwd=hostile_folder, env=env, stdout=subprocess.PIPE, text=True) as up:
        try:
            assert up.stdout is not None
            url = up.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:")
            with Client(url) as client:
                client.create_collection("archive", backbone="fake")
            for arguments in (
                ["embed", ".", "-c", "archive"],
                ["search", "a.png", "-c", "archive"],
                ["collections", "list"],
                ["jobs", "list"],
                ["doctor"],
            ):
                data = {"IMAGEKIN_URL": url, "IMAGEKIN_DATA_DIR": str(tmp_path / "data")}
                done = subprocess.run(
                    [*IMAGEKIN, *arguments],
                    cwd=hostile_folder,
                    env={**env, **data},
                    capture_output=True,
                    text=True,
                    timeout=90,
                    check=False,
                )
                assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(60)
