"""A job of 100,000 pictures takes no more memory than one of 1,000, in the API and in the worker."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from kit import tiny
from kit.cluster import Cluster, children_of, peak_kib
from kit.patience import until

# The allocator's slack: what 10 % of a process of a few hundred MB is, whatever libraries it happens to have loaded.
SLACK = 1.10


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_memory_does_not_grow_with_the_job(tmp_path: Path, migrated_sqlite: Path) -> None:
    peaks = {count: peaks_of(tmp_path / str(count), migrated_sqlite, count) for count in (1_000, 100_000)}
    for name in ("api", "worker"):
        small, large = peaks[1_000][name], peaks[100_000][name]
        print(f"{name}: {small / 1024:.0f} MiB at 1,000 images, {large / 1024:.0f} MiB at 100,000")
        assert large <= SLACK * small, name


def peaks_of(folder: Path, migrated: Path, count: int) -> dict[str, int]:
    """Run a job of `count` pictures through processes of its own and return their peaks in KiB."""
    folder.mkdir()
    shutil.copy(migrated, folder / "imagekin.db")
    packed = folder / "pictures.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in tiny.keys("many", count):
            archive.writestr(name, tiny.bmp(name))
    url = f"sqlite:///{folder / 'imagekin.db'}"
    with Cluster(folder / "data", url, bulk=1, interactive=0, lease_s=30.0, chunk_images=64) as cluster:
        cluster.collection("many")
        with packed.open("rb") as file:
            answer = cluster.client.post(
                "/v1/jobs/embed",
                data={"collection": "many"},
                files={"archive": ("pictures.zip", file, "application/zip")},
                timeout=120,
            )
        assert answer.status_code == 202, answer.text
        job_id = answer.json()["id"]
        assert cluster.finish(job_id, timeout_s=1500) == ["succeeded"]
        assert cluster.done(job_id) == count
        # a client that reads everything must not cost memory either
        cursor = None
        while True:
            query = {"limit": 1000} | ({"cursor": cursor} if cursor else {})
            page = cluster.client.get(f"/v1/jobs/{job_id}/items", params=query).json()
            if not (cursor := page["next_cursor"]):
                break
        child = until(lambda: cluster.child("bulk-0"), "the child") or 0
        server = max(peak_kib(pid) for pid in [cluster.pid("api"), *children_of(cluster.pid("api"))])
        return {"api": server, "worker": peak_kib(child)}
