"""Embed, search and cluster through HTTP, real workers and the default backbone."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagekin import Client, errors
from imagekin.enums import ItemStatus, JobStatus

# An orientation tag and what a camera that was held so would have stored.
UPSIDE_DOWN = 3


Picture = Callable[[int], Image.Image]


@pytest.fixture
def picture(name: str) -> Picture:
    """Draw soft random colors, others in each test: what one test has stored, the next would reuse."""

    def picture(seed: int) -> Image.Image:
        noise = np.random.default_rng([seed, *name.encode()]).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        return Image.fromarray(noise).resize((96, 72), Image.Resampling.BICUBIC)

    return picture


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path, picture: Picture) -> Path:
    """Twelve pictures, in folders, in several formats; one broken, one hidden, one that is none."""
    root = tmp_path / "pictures"
    for seed in range(9):
        save(picture(seed), root / "a" / f"{seed}.png")
    save(picture(20), root / "b" / "shout.JPG")
    save(picture(21), root / "b" / "web.webp", lossless=True)
    save(picture(22), root / "b" / "old.bmp")
    (root / "b" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (root / ".hidden.png").write_bytes(b"")
    (root / "notes.txt").write_text("not a picture")
    return root


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A collection of the test's own."""
    return request.node.name.replace("[", "-").replace("]", "").replace("_", "-")[:100]


def embedding(client: Client, collection: str, key: str) -> np.ndarray:
    image = next(image for image in client.images(collection) if image.key == key)
    return client.embedding(collection, image.id)


def test_a_folder_becomes_a_collection(client: Client, folder: Path, name: str) -> None:
    job = client.embed(folder, collection=name, upload=True).wait()
    assert job.status == JobStatus.PARTIAL
    progress = job.progress
    assert (progress.total, progress.done, progress.embedded, progress.failed) == (13, 13, 12, 1)
    (failed,) = job.items(ItemStatus.FAILED)
    assert failed.error is not None
    assert (failed.key, failed.error.code) == ("b/broken.jpg", "decode_error")
    assert {image.key for image in client.images(name)} == {f"a/{seed}.png" for seed in range(9)} | {
        "b/shout.JPG",
        "b/web.webp",
        "b/old.bmp",
    }
    assert client.collection(name).image_count == 12


def test_the_same_again_is_reused(client: Client, folder: Path, name: str) -> None:
    client.embed(folder, collection=name, upload=True).wait()
    again = client.embed(folder, collection=name, upload=True).wait()
    assert (again.progress.embedded, again.progress.reused, again.progress.failed) == (0, 12, 1)
    other = client.embed(folder, collection=f"{name}-2", upload=True).wait()
    assert (other.progress.embedded, other.progress.reused) == (0, 12)
    assert (embedding(client, name, "a/3.png") == embedding(client, f"{name}-2", "a/3.png")).all()


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archives(client: Client, folder: Path, tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / f"archive.{kind}"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            for file in files:
                archive.add(file, str(file.relative_to(folder)))
    job = client.embed(path, collection=name, backbone="fake").wait()
    assert (job.progress.embedded, job.progress.failed, job.progress.ignored) == (12, 1, 2)


def test_a_folder_below_the_roots_is_read_in_place(client: Client, picture: Picture, readable: Path, name: str) -> None:
    for seed in range(3):
        save(picture(seed), readable / f"{seed}.png")
    (readable / "notes.txt").write_text("not a picture")
    job = client.embed(readable, collection=name, backbone="fake", upload=False).wait()
    assert (job.progress.embedded, job.progress.ignored) == (3, 1)
    assert job.params["source"]["type"] == "folder"
    with pytest.raises(errors.SourceRefused):
        client.embed("/etc", collection=name, upload=False)


def test_every_file_that_is_named_has_an_answer(client: Client, picture: Picture, tmp_path: Path, name: str) -> None:
    save(picture(1), tmp_path / ".hidden.png")
    save(picture(2), tmp_path / "no suffix.png")
    (tmp_path / "no suffix.png").rename(tmp_path / "no suffix")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "drawing").write_bytes(b"8BPS\0\1" + bytes(90))
    (tmp_path / "nothing.txt").touch()
    job = client.embed(sorted(tmp_path.iterdir()), collection=name, backbone="fake").wait()
    found = {item.key: item.error.code if item.error else None for item in job.items()}
    assert found == {
        ".hidden.png": None, "no suffix": None, "notes.txt": "unsupported_format",
        "drawing": "unsupported_format", "nothing.txt": "empty_file",
    }  # fmt: skip
    assert job.progress.ignored == 0
    alone = client.embed(tmp_path / "drawing", collection=name).wait()
    [item] = alone.items()
    assert item.error is not None
    assert "Photoshop" in item.error.detail


def test_what_is_ignored_is_told_with_its_reason(client: Client, picture: Picture, readable: Path, name: str) -> None:
    save(picture(1), readable / "a.png")
    (readable / "b.psd").write_bytes(b"8BPS\0\1" + bytes(90))
    (readable / "letter.pdf").write_bytes(b"%PDF-1.7\n")
    save(picture(2), readable / ".hidden.png")
    for number in range(120):
        (readable / f"note {number:03}.txt").write_text("not a picture")
    job = client.embed(readable, collection=name, backbone="fake", upload=False).wait()
    assert (job.progress.total, job.progress.failed, job.progress.ignored) == (2, 1, 122)
    told = list(job.items("ignored"))
    assert [item.key for item in told[:3]] == [".hidden.png", "letter.pdf", "note 000.txt"]
    assert len(told) == 100
    reasons = [item.error.detail for item in told if item.error]
    assert "hidden" in reasons[0]
    assert "PDF" in reasons[1]
    assert [item.key for item in job.items()] == ["a.png", "b.psd"]


def test_pictures_of_every_kind_give_right_embeddings(
    client: Client, picture: Picture, tmp_path: Path, name: str
) -> None:
    """Each odd picture must lie by the plain RGB picture that shows the same."""
    base = picture(1).resize((256, 192), Image.Resampling.BICUBIC)
    palette = base.quantize(64)
    gray = base.convert("L")
    alpha = base.copy()
    alpha.putalpha(255)
    turned = Image.Exif()
    turned[0x0112] = UPSIDE_DOWN
    odd = {
        "alpha.png": (alpha, base, {}),
        "palette.png": (palette, palette.convert("RGB"), {}),
        "cmyk.jpg": (base.convert("CMYK"), base, {"quality": 95}),
        "gray.png": (gray, gray.convert("RGB"), {}),
        "gray16.png": (Image.fromarray(np.asarray(gray, np.uint16) * 257), gray.convert("RGB"), {}),
    }
    for key, (image, plain, options) in odd.items():
        save(image, tmp_path / "odd" / key, **options)
        save(plain, tmp_path / "odd" / f"plain-{key}.png")
    save(base.rotate(180), tmp_path / "odd" / "turned.jpg", exif=turned)
    with Image.open(tmp_path / "odd" / "turned.jpg") as image:
        save(image.rotate(180), tmp_path / "odd" / "plain-turned.jpg.png")
    job = client.embed(tmp_path / "odd", collection=name, upload=True).wait()
    assert job.status == JobStatus.SUCCEEDED
    for key in [*odd, "turned.jpg"]:
        one, other = embedding(client, name, key), embedding(client, name, f"plain-{key}.png")
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert cosine > 0.97, (key, cosine)


def test_search_is_brute_force(client: Client, folder: Path, name: str) -> None:
    client.embed(folder, collection=name, upload=True).wait()
    vectors = {image.key: client.embedding(name, image.id).astype(np.float64) for image in client.images(name)}
    units = {key: vector / np.linalg.norm(vector) for key, vector in vectors.items()}
    query = units["a/4.png"]
    ranked = sorted(((float(unit @ query), key) for key, unit in units.items()), key=lambda pair: (-pair[0], pair[1]))

    by_picture = client.search(folder / "a" / "4.png", collection=name, top_k=20)
    assert [neighbor.key for neighbor in by_picture.neighbors] == [key for _, key in ranked]
    for neighbor, (score, _) in zip(by_picture.neighbors, ranked, strict=True):
        assert abs(neighbor.score - score) < 1e-5
    assert [neighbor.rank for neighbor in by_picture.neighbors] == list(range(1, 13))

    by_key = client.search(image_key="a/4.png", collection=name, top_k=3)
    assert [neighbor.key for neighbor in by_key.neighbors] == [key for _, key in ranked[1:4]]
    with_itself = client.search(image_key="a/4.png", collection=name, top_k=3, exclude_query=False)
    assert with_itself.neighbors[0].key == "a/4.png"
    by_vector = client.search(embedding=vectors["a/4.png"], collection=name, top_k=20)
    assert [neighbor.key for neighbor in by_vector.neighbors] == [key for _, key in ranked]
    close = client.search(embedding=vectors["a/4.png"], collection=name, top_k=20, min_score=ranked[4][0] - 1e-6)
    assert len(close.neighbors) == 5
    assert client.collection(name).image_count == 12


def test_a_search_sees_what_changed(client: Client, picture: Picture, tmp_path: Path, name: str) -> None:
    first = save(picture(1), tmp_path / "1.png")
    client.embed(first, collection=name, backbone="fake").wait()
    assert [found.key for found in client.search(first, collection=name).neighbors] == ["1.png"]
    client.embed(save(picture(2), tmp_path / "2.png"), collection=name).wait()
    assert len(client.search(first, collection=name).neighbors) == 2
    old = client.search(first, collection=name).neighbors[0]
    save(picture(3), first)
    replaced = client.embed(first, collection=name).wait()
    assert replaced.progress.embedded == 1
    found = {neighbor.key: neighbor for neighbor in client.search(first, collection=name).neighbors}
    assert found["1.png"].score == 1.0 and found["1.png"].id == old.id
    client.update_image(name, old.id, metadata={"label": "one"})
    only = client.search(first, collection=name, filter={"label": "one"})
    assert [(neighbor.key, neighbor.metadata) for neighbor in only.neighbors] == [("1.png", {"label": "one"})]
    client.delete_image(name, old.id)
    assert [found.key for found in client.search(first, collection=name).neighbors] == ["2.png"]


@pytest.mark.parametrize("on_conflict", ["replace", "skip", "fail"])
def test_conflicts(client: Client, picture: Picture, tmp_path: Path, name: str, on_conflict: str) -> None:
    path = save(picture(1), tmp_path / "1.png")
    client.embed(path, collection=name, backbone="fake").wait()
    before = embedding(client, name, "1.png")
    save(picture(2), path)
    job = client.embed(path, collection=name, on_conflict=on_conflict).wait()
    (item,) = job.items()
    expected = {"replace": "embedded", "skip": "skipped", "fail": "failed"}[on_conflict]
    assert item.status == expected
    assert (item.error.code if item.error else None) == ("duplicate_key" if on_conflict == "fail" else None)
    assert (embedding(client, name, "1.png") == before).all() == (on_conflict != "replace")


@pytest.mark.parametrize("algorithm", ["kmeans", "kmeans-pytorch"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_clusters(client: Client, folder: Path, name: str, algorithm: str, metric: str) -> None:
    client.embed(folder, collection=name, upload=True).wait()
    jobs = [client.cluster(name, 3, metric=metric, algorithm=algorithm, n_init=2) for _ in range(2)]
    first, second = (job.result() for job in jobs)
    assert first.assignments == second.assignments, "the same seed gives the same labels"
    sizes = [cluster.size for cluster in first.clusters]
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) == 12
    labels = [row.label for row in first.assignments]
    assert sizes == [labels.count(label) for label in range(3)]
    assert [row.key for row in first.assignments] == sorted(row.key for row in first.assignments)
    vectors = {image.key: client.embedding(name, image.id).astype(np.float64) for image in client.images(name)}
    for cluster in first.clusters:
        members = np.stack([vectors[row.key] for row in first.assignments if row.label == cluster.label])
        if metric == "cosine":
            members /= np.linalg.norm(members, axis=1, keepdims=True)
        center = members.mean(axis=0)
        cohesion = (members @ center / np.linalg.norm(members, axis=1) / np.linalg.norm(center)).mean()
        assert abs(cohesion - cluster.cohesion) < 1e-3
        distances = {row.key: row.distance for row in first.assignments if row.label == cluster.label}
        assert distances[cluster.medoid.key] <= min(distances.values()) + 1e-6
    sheet = Image.open(io.BytesIO(jobs[0].sheet(label=0)))
    assert sheet.format == "PNG"


def test_more_clusters_than_images_is_refused(client: Client, picture: Picture, tmp_path: Path, name: str) -> None:
    client.embed(save(picture(1), tmp_path / "1.png"), collection=name, backbone="fake").wait()
    with pytest.raises(errors.InvalidRequest, match="2"):
        client.cluster(name, 2)


def test_retry_takes_the_failed_ones(client: Client, picture: Picture, readable: Path, name: str) -> None:
    save(picture(1), readable / "good.png")
    (readable / "late.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    job = client.embed(readable, collection=name, backbone="fake", upload=False).wait()
    assert job.status == JobStatus.PARTIAL
    save(picture(2), readable / "late.png")
    retried = job.retry("failed").wait()
    assert (retried.status, retried.progress.total, retried.parent_id) == (JobStatus.SUCCEEDED, 1, job.id)
    every = job.retry("all").wait()
    assert (every.progress.reused, every.progress.total) == (2, 2)


def test_jobs_of_many_owners_images_and_kinds_run_side_by_side(
    client: Client, picture: Picture, tmp_path: Path, name: str
) -> None:
    client.embed(save(picture(0), tmp_path / "0.png"), collection=name, backbone="fake").wait()
    small = [client.embed(save(picture(n), tmp_path / f"{n}.png"), collection=name) for n in range(1, 20)]
    searches = [client.search_job(tmp_path / "0.png", collection=name) for _ in range(20)]
    for job in small + searches:
        assert job.wait(timeout_s=60).status == JobStatus.SUCCEEDED
    assert client.collection(name).image_count == 20


def test_weights_that_cannot_be_had_fail_the_job_with_what_to_do(
    client: Client, picture: Picture, tmp_path: Path, name: str
) -> None:
    client.create_collection(name, backbone="resnet18")
    job = client.embed(save(picture(1), tmp_path / "1.png"), collection=name).wait(timeout_s=100)
    assert job.error is not None
    assert job.error.code == "weights_unavailable"
    assert "resnet18" in job.error.detail and "weights" in job.error.detail


def test_a_vector_of_another_space_is_refused(client: Client, picture: Picture, tmp_path: Path, name: str) -> None:
    client.embed(save(picture(1), tmp_path / "1.png"), collection=name, backbone="fake").wait()
    with pytest.raises(errors.InvalidRequest, match="64"):
        client.search(embedding=np.ones(1280, np.float32), collection=name)
    with pytest.raises(errors.Conflict):
        client.embed(tmp_path / "1.png", collection=name, backbone="efficientnet_lite0")
