"""The examples for other tools, as processes of their own, against these tools where they are installed.

EXAMPLES_PYTHON names the Python of an environment that has them, as `make examples` makes it; by default this one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pyarrow.parquet as pq
import pytest

from imagekin import Client
from imagekin.demo import furniture
from imagekin.stack import Stack
from kit.patience import until

EXAMPLES = Path(__file__).parents[3] / "examples"
PYTHON = os.environ.get("EXAMPLES_PYTHON", sys.executable)
VALIDATE = """
import json, sys
from pathlib import Path
from label_studio_sdk.label_interface import LabelInterface
interface = LabelInterface(Path(sys.argv[1]).with_suffix(".xml").read_text())
for task in json.loads(Path(sys.argv[1]).read_text()):
    assert interface.validate_task({"data": task["data"]}), task
    for made in (*task.get("predictions", ()), *task.get("annotations", ())):
        assert not (errors := interface.validate_prediction(made, return_errors=True)), errors
        made["result"][0]["value"]["choices"] = ["another"]
        assert interface.validate_prediction(made, return_errors=True)
print("validated")
"""


@pytest.fixture(scope="module")
def collection(service: Stack) -> str:
    """The demo's pictures; all but three of each kind are labelled, and each has a side."""
    name = "for-other-tools"
    with Client(service.url) as client:
        client.embed([picture.path for picture in furniture.pictures()], name).wait()
        for kind in ("shelf", "sofa", "table"):
            keys = [image.key for image in client.images(name, prefix=kind, order="key")]
            client.update_images(name, image_keys=keys[:7], metadata={"label": kind})
        client.split(name, stratify="label", shares={"train": 0.7, "val": 0.1, "test": 0.2}).result()
    return name


@pytest.fixture
def labelled(collection: str, client: Client) -> Counter[tuple[str, str]]:
    """How many images a side and a label have."""
    images = client.images(collection, filter={"!label": None})
    return Counter((image.metadata["split"], image.metadata["label"]) for image in images)


def has(package: str) -> bool:
    look = f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
    return subprocess.run([PYTHON, "-c", look], check=False).returncode == 0


def needs(package: str) -> None:
    if not has(package):
        pytest.skip(f"{package} is not installed; `make examples` has it")


def program(service: Stack, *arguments: object) -> dict[str, Any]:
    """Return what starts a program of the environment that has the tools."""
    environment = {"IMAGEKIN_URL": service.url, "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    return {"args": [PYTHON, *map(str, arguments)], "env": environment}


def run(service: Stack, name: str, *arguments: object) -> list[list[str]]:
    """Run an example and return what it printed, cut at tabs."""
    done = subprocess.run(
        **program(service, EXAMPLES / f"{name}.py", *arguments),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_webdataset_has_batches_of_a_shard(
    service: Stack, collection: str, client: Client, labelled: Counter[tuple[str, str]], tmp_path: Path
) -> None:
    needs("webdataset")
    client.export(collection, tmp_path / "train.tar", filter={"split": "train"})
    assert run(service, "webdataset_batches", tmp_path / "train.tar", "--batch", 4) == [
        [kind, str(labelled["train", kind])] for kind in ("shelf", "sofa", "table")
    ]


def test_coco_is_counted(service: Stack, collection: str, client: Client, tmp_path: Path) -> None:
    needs("pycocotools")
    file = client.export(collection, tmp_path / "coco.json", format="coco")
    assert run(service, "coco_classes", file) == [["shelf", "7"], ["sofa", "7"], ["table", "7"]]
    images = client.images(collection, filter={"label": "sofa"}, order="key")
    assert run(service, "coco_classes", file, "sofa") == [
        [image.key, str(image.width), str(image.height), image.id] for image in images
    ]


def test_datasets_has_splits_and_labels(
    service: Stack, collection: str, client: Client, labelled: Counter[tuple[str, str]], tmp_path: Path
) -> None:
    needs("datasets")
    file = client.export(collection, tmp_path / "set.zip")
    found = run(service, "imagefolder_dataset", file, tmp_path / "set")
    names = {"val": "validation"}
    assert sorted(found) == sorted(
        [names.get(split, split), label, str(count)] for (split, label), count in labelled.items()
    )


def test_datumaro_writes_another_format(
    service: Stack, collection: str, client: Client, labelled: Counter[tuple[str, str]], tmp_path: Path
) -> None:
    needs("datumaro")
    file = client.export(collection, tmp_path / "set.zip")
    found = run(service, "datumaro_dataset", file, tmp_path, "--format", "datumaro")
    assert found == [[*pair, str(count)] for pair, count in sorted(labelled.items())]
    assert (tmp_path / "datumaro" / "annotations" / "train.json").is_file()


def test_label_studio_gets_predictions_and_gives_labels(
    service: Stack, collection: str, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "tasks.json"
    assert run(service, "label_studio", collection, file) == [["30 tasks, 9 with a prediction"]]
    tasks = json.loads(file.read_text())
    predicted = {task["data"]["key"]: task["predictions"] for task in tasks if "predictions" in task}
    assert len(predicted) == 9 and all("annotations" in task for task in tasks if "predictions" not in task)
    for key, [prediction] in predicted.items():
        assert prediction["result"][0]["value"] == {"choices": [furniture.label(key)[0]]}
        assert 1 / 3 < prediction["score"] <= 1
    if has("label_studio_sdk"):
        validated = subprocess.run(
            **program(service, "-c", VALIDATE, file), capture_output=True, text=True, check=False
        )
        assert validated.stdout == "validated\n", validated.stderr
    # a person accepted them all, and cancelled one
    for task in tasks:
        task["annotations"] = [{"result": made["result"]} for made in task.pop("predictions", ())]
    first = next(task for task in tasks if task["annotations"])
    first["annotations"][0]["was_cancelled"] = True
    file.write_text(json.dumps(tasks))
    assert run(service, "label_studio", collection, file, "--field", "seen", "--back") == [["0 images labelled"]]
    assert run(service, "label_studio", collection, file, "--back") == [["8 images labelled"]]
    [left] = client.images(collection, filter={"label": None})
    assert left.key == first["data"]["key"]
    client.update_images(collection, image_keys=list(predicted), metadata={"label": None})


def test_the_atlas_gets_a_map_and_neighbors(service: Stack, collection: str, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "atlas.parquet"
    assert run(service, "embedding_atlas_table", collection, file, "--neighbors") == [[f"30 images in {file}"]]
    rows = pq.read_table(file).to_pylist()
    assert {row["id"] for row in rows} == {image.id for image in client.images(collection)}
    for row in rows[:3]:
        assert 0 <= row["x"] <= 1 and 0 <= row["y"] <= 1
        near = [rows[at] for at in row["neighbors"]["ids"]]
        found = client.search(image_key=row["key"], collection=collection, top_k=10, view="raw").neighbors
        assert [each["key"] for each in near[:5]] == [each.key for each in found[:5]]
        assert row["neighbors"]["distances"][0] == pytest.approx(1 - found[0].score, abs=1e-4)


@pytest.mark.timeout(300)
def test_spotlight_shows_our_vectors(service: Stack, collection: str, client: Client) -> None:
    needs("renumics")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api/table/"

    def shown() -> dict[str, Any] | None:
        try:
            return httpx2.get(address, trust_env=False).raise_for_status().json()
        except httpx2.HTTPError:
            return None

    started = program(service, EXAMPLES / "spotlight_browser.py", collection, "--port", port)
    with subprocess.Popen(**started, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as spotlight:
        try:
            until(lambda: shown() is not None, "the table", timeout_s=240)
            columns = {column["name"]: column for column in (shown() or {})["columns"]}
        finally:
            spotlight.terminate()
    ids, keys, embeddings = client.vectors(collection)
    assert columns["key"]["values"] == keys and columns["embedding"]["dtype"]["name"] == "Embedding"
    assert columns["thumbnail"]["dtype"]["name"] == "Image" and columns["label"]["dtype"]["name"] == "Category"
    assert len(columns["embedding"]["values"]) == len(embeddings) == len(ids)
