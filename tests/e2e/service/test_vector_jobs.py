"""Vectors out, in again and into clusters, through HTTP and real workers."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from imagekin import Client, errors
from imagekin.cli.app import app
from imagekin.enums import ItemStatus, JobStatus
from imagekin.stack import Stack

COUNT = 3000


@pytest.fixture
def names(client: Client, request: pytest.FixtureRequest) -> tuple[str, str]:
    """Two empty collections of one space."""
    test = re.sub(r"\W", "-", request.node.name)
    made = [f"{test}-{part}" for part in ("from", "to")]
    for name in made:
        client.create_collection(name, backbone="fake")
    return made[0], made[1]


def vectors_of(client: Client, name: str, count: int = COUNT, seed: int = 0) -> bytes:
    """An npz of random vectors, as somebody else's pipeline writes one."""
    there = client.collection(name)
    matrix = np.random.default_rng(seed).standard_normal((count, there.dim)).astype(np.float32)
    file = io.BytesIO()
    np.savez(file, space_id=there.space_id, keys=[f"{at:05}.jpg" for at in range(count)], embeddings=matrix)
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_vectors_go_round(client: Client, names: tuple[str, str], tmp_path: Path, suffix: str) -> None:
    first, second = names
    made = vectors_of(client, first)
    job = client.import_vectors(made, first).wait(timeout_s=90)
    assert (job.status, job.progress.embedded, job.result().total) == (JobStatus.SUCCEEDED, COUNT, COUNT)
    path = client.export(first, tmp_path / f"vectors.{suffix}")
    assert client.import_vectors(path, second).wait(timeout_s=90).progress.embedded == COUNT
    before, after = client.vectors(first), client.vectors(second)
    rows = np.argsort(after.keys)
    assert [after.keys[row] for row in rows] == sorted(before.keys)
    assert after.embeddings[rows].tobytes() == before.embeddings[np.argsort(before.keys)].tobytes()
    with np.load(io.BytesIO(made)) as given:
        assert before.embeddings[np.argsort(before.keys)].tobytes() == given["embeddings"].tobytes()
    again = client.import_vectors(path, second).wait(timeout_s=90)
    assert (again.status, again.progress.reused) == (JobStatus.SUCCEEDED, COUNT)
    # what came in is found
    [neighbor, _] = client.search(collection=second, embedding=before.embeddings[5], top_k=2).neighbors
    assert (neighbor.key, neighbor.score) == (before.keys[5], pytest.approx(1, abs=1e-5))


def test_a_file_of_another_space_is_refused(client: Client, names: tuple[str, str]) -> None:
    try:
        client.create_collection("another-space", backbone="efficientnet_lite0")
    except errors.CollectionExists:
        pass
    with pytest.raises(errors.InvalidRequest, match="different spaces never meet"):
        client.import_vectors(vectors_of(client, "another-space", 2), names[0])


def test_some_rows_fail(client: Client, names: tuple[str, str]) -> None:
    there = client.collection(names[0])
    matrix = np.ones((3, there.dim), np.float32)
    matrix[1, 0] = np.nan
    file = io.BytesIO()
    np.savez(file, space_id=there.space_id, keys=["a", "b", "a"], embeddings=matrix)
    job = client.import_vectors(file.getvalue(), names[0]).wait(timeout_s=60)
    assert job.status == JobStatus.PARTIAL
    failed = [(item.key, item.error.code) for item in job.items(ItemStatus.FAILED) if item.error]
    assert failed == [("b", "decode_error"), ("a", "duplicate_key")]
    again = job.retry().wait(timeout_s=60)
    assert (again.parent_id, again.progress.total, again.progress.failed) == (job.id, 2, 1)


def test_later_images_join_the_clusters(client: Client, names: tuple[str, str]) -> None:
    name, _ = names
    client.import_vectors(vectors_of(client, name, 200), name).wait(timeout_s=60)
    clustering = client.cluster(name, 3)
    clusters = clustering.result()
    assert client.assign(clustering).result().assignments == []
    known = {each.key: each for each in clusters.assignments}
    named = client.assign(clustering, image_keys=["00007.jpg", "00003.jpg"]).result()
    assert [(each.key, each.label) for each in named.assignments] == [
        (key, known[key].label) for key in ("00007.jpg", "00003.jpg")
    ]
    file = io.BytesIO()
    there, medoid = client.collection(name), clusters.clusters[2].medoid
    near = client.embedding(name, medoid.id) + np.float32(1e-3)
    np.savez(file, space_id=there.space_id, keys=["late.jpg"], embeddings=near[None])
    client.import_vectors(file.getvalue(), name).wait(timeout_s=60)
    [late] = client.assign(clustering.id).result().assignments
    assert (late.key, late.label) == ("late.jpg", 2)


def test_the_command_line_exports(
    client: Client, service: Stack, names: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.import_vectors(vectors_of(client, names[0], 50), names[0]).wait(timeout_s=60)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMAGEKIN_URL", service.url)
    done = CliRunner().invoke(app, ["export", "-c", names[0], "-o", "v.safetensors"])
    assert (done.exit_code, done.stdout) == (0, "v.safetensors\n"), done.stderr
    assert f"exported {names[0]}: " in done.stderr
    from safetensors.numpy import load_file

    assert load_file("v.safetensors")["embeddings"].shape == (50, client.collection(names[0]).dim)
