"""The examples do what they say, as processes of their own, against the service."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import pytest
from PIL import Image

from imagekin import Client, errors
from imagekin.stack import Stack
from kit.patience import until

EXAMPLES = Path(__file__).parents[3] / "examples"
TIMEOUT_S = 60


Start: TypeAlias = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(service: Stack) -> Iterator[Start]:
    """Start programs that know the service; what still runs at the end is killed."""
    started = []
    environment = {**os.environ, "IMAGEKIN_URL": service.url}

    def start(*arguments: object, cwd: Path | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(argument) for argument in arguments],
            env=environment,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, out + err
    return out


def draw(folder: Path, *numbers: int, seed: int) -> list[Path]:
    """Draw pictures of soft random colors; `seed` is the test's own, as content that is known would be reused."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.png" for number in numbers]
    for number, path in zip(numbers, paths, strict=True):
        noise = np.random.default_rng([seed, number]).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((96, 72), Image.Resampling.BICUBIC).save(path)
    return paths


def keys(client: Client, collection: str) -> set[str]:
    try:
        return {image.key for image in client.images(collection)}
    except errors.CollectionNotFound:
        return set()


def test_a_watched_folder_is_embedded_across_restarts(start: Start, client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    draw(folder, 1, 2, seed=1)
    (folder / "notes.txt").write_text("no picture")
    watch = (sys.executable, EXAMPLES / "watch_folder.py", folder, "watched", "--every", "0.1")
    first = start(*watch)
    until(lambda: keys(client, "watched") == {"1.png", "2.png"}, "the first pictures")
    draw(folder, 3, seed=1)
    until(lambda: "3.png" in keys(client, "watched"), "a picture that came later")
    first.kill()
    first.wait()
    draw(folder, 4, seed=1)
    before = client.image("watched", next(image.id for image in client.images("watched") if image.key == "2.png"))
    (folder / "2.png").write_bytes((folder / "1.png").read_bytes())
    start(*watch)
    until(lambda: "4.png" in keys(client, "watched"), "a picture that came between two runs")
    until(lambda: client.image("watched", before.id).content_hash != before.content_hash, "a changed picture")
    assert keys(client, "watched") == {"1.png", "2.png", "3.png", "4.png"}
    # none of them was computed twice: 4.png in the second run, and 2.png is 1.png now
    jobs = [job.wait() for job in client.jobs(collection="watched")]
    assert sum(job.progress.embedded for job in jobs) == 4
    assert sum(job.progress.reused for job in jobs) == 1


def test_a_watched_picture_that_is_cut_while_it_is_sent_is_looked_at_again(
    client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = example("watch_folder")
    draw(tmp_path / "inbox", 1, seed=11)
    picture = tmp_path / "inbox" / "2.png"
    noise = np.random.default_rng(11).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(picture)

    class Cutting:
        """The client, behind whose back the picture is cut while it is on its way, and written again later."""

        looks = 0

        def embed(self, paths: list[Path], collection: str) -> Any:
            self.looks += 1
            if self.looks == 1:
                return client.embed(paths, collection, on_upload=lambda sending: self.cut(sending.sent_bytes))
            return client.embed(paths, collection)

        def cut(self, sent_bytes: int) -> None:
            # past the small one before it
            if sent_bytes > 100_000:
                os.truncate(picture, 0)

    class Enough(Exception): ...

    def sleep(_s: float) -> None:
        if picture.stat().st_size == 0:
            draw(picture.parent, 2, seed=12)
        if keys(client, "cut") == {"1.png", "2.png"}:
            raise Enough

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Enough):
        patch.setattr(watched, "time", SimpleNamespace(sleep=sleep))
        watched.watch(Cutting(), picture.parent, "cut", 1)
    assert "became shorter" in capsys.readouterr().err


def test_a_script_ends_where_its_job_has_gone(start: Start, client: Client, tmp_path: Path) -> None:
    """Polling fails for good; the script says what the server said."""
    server = tmp_path / "bin" / "curl"
    server.parent.mkdir()
    curl = shutil.which("curl")
    # the job is deleted just before it is looked at
    server.write_text(
        "#!/bin/bash\n"
        'case "$*" in *Prefer*) ' + f'exec {curl} --silent --show-error --fail-with-body "${{!#}}-that-went";; esac\n'
        f'exec {curl} "$@"\n'
    )
    server.chmod(0o755)
    (picture,) = draw(tmp_path / "pictures", 1, seed=13)
    process = start("env", f"PATH={server.parent}:{os.environ['PATH']}", "bash", EXAMPLES / "curl.sh", "gone", picture)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert '"job_not_found"' in err


def test_four_processes_ingest_the_same_batch_once(start: Start, client: Client, tmp_path: Path) -> None:
    pictures = draw(tmp_path / "batch", *range(12), seed=2)
    client.create_collection("ingested")
    ingest = (sys.executable, EXAMPLES / "ingest.py", "--batch", 5, "ingested", *pictures)
    outputs = {finish(process) for process in [start(*ingest) for _ in range(4)]}
    assert len(outputs) == 1
    jobs = list(client.jobs(collection="ingested"))
    assert sorted(job.progress.total or 0 for job in jobs) == [2, 5, 5]
    assert sum(job.progress.embedded for job in jobs) == 12
    assert client.collection("ingested").image_count == 12


def test_a_training_set_is_gathered_by_example(start: Start, client: Client, tmp_path: Path) -> None:
    pictures = draw(tmp_path / "archive", *range(6), seed=3)
    client.embed(tmp_path / "archive", "archive-of-examples", upload=True).wait()
    for image in client.images("archive-of-examples"):
        split = "train" if int(image.key[0]) % 2 else "test"
        client.update_image("archive-of-examples", image.id, metadata={"split": split, "n": int(image.key[0])})
    gather = (sys.executable, EXAMPLES / "training_set.py", "archive-of-examples")
    finish(start(*gather, tmp_path / "all", pictures[2], "--min-score", "-1"))
    lines = [json.loads(line) for line in (tmp_path / "all" / "manifest.jsonl").read_text().splitlines()]
    assert {line["key"] for line in lines} == {path.name for path in pictures}
    assert (lines[0]["key"], lines[0]["score"]) == ("2.png", 1)
    assert all((tmp_path / "all" / line["file"]).read_bytes().startswith(b"\xff\xd8") for line in lines)

    options = ("--filter", "split=train", "--top-k", 1, "--min-score", "0.999", "--originals", tmp_path / "archive")
    finish(start(*gather, tmp_path / "some", "1.png", pictures[3], pictures[4], *options))
    lines = [json.loads(line) for line in (tmp_path / "some" / "manifest.jsonl").read_text().splitlines()]
    assert [(line["key"], line["metadata"]) for line in lines] == [
        ("1.png", {"split": "train", "n": 1}),
        ("3.png", {"split": "train", "n": 3}),
    ]
    assert [(tmp_path / "some" / line["file"]).read_bytes() for line in lines] == [
        pictures[1].read_bytes(),
        pictures[3].read_bytes(),
    ]

    finish(start(*gather, tmp_path / "one", "1.png", "--filter", "n=4", "--min-score", "-1"))
    (line,) = (tmp_path / "one" / "manifest.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "4.png"


def test_curl_alone(start: Start, client: Client, tmp_path: Path) -> None:
    pictures = draw(tmp_path / "pictures", *range(4), seed=4)
    (tmp_path / "pictures" / "broken.png").write_bytes(b"\x89PNG")
    script = ("bash", EXAMPLES / "curl.sh", "by-curl", *pictures, tmp_path / "pictures" / "broken.png")
    for _ in range(2):
        out = finish(start(*script, cwd=tmp_path))
        assert '"unsupported_format"' in out
    assert client.collection("by-curl").image_count == 4
    assert len(list(client.jobs(collection="by-curl", kind="embed"))) == 1
    neighbors = list(csv.DictReader((tmp_path / "neighbors.csv").read_text().splitlines()))
    assert (neighbors[0]["key"], float(neighbors[0]["score"]), len(neighbors)) == ("0.png", 1, 4)
    assert (tmp_path / "neighbors.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "clusters.csv").read_text().splitlines()) == 5
