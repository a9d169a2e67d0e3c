"""A healthy system where much has happened, on both databases."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import Lane
from imagekin.jobs import blame, end
from imagekin.jobs import claim as claim_step
from imagekin.jobs import plan as plan_step
from imagekin.maintenance import collection_deletion, sweep
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from imagekin.store import ledger
from kit.archive import Archive
from kit.databases import copied, migrated


def live_an_eventful_life(archive: Archive) -> None:
    """Have everything happen that may happen to jobs, images, uploads and collections."""
    keys = [f"{number:02}" for number in range(12)]
    archive.embed(keys, size=4, broken=["05"], upload_id=archive.upload())
    archive.embed(["00", "01", "twin"], contents={"00": "replaced", "twin": "02"})
    archive.embed(["a", "a", "02"], name="half", contents={"a": "02"})
    archive.delete("03", "04")
    archive.upload()
    # cancelled with a chunk done, one claimed and one ready; and while it is being planned
    cancelled = archive.plan(["x1", "x2", "x3"], size=1)
    archive.finish(archive.claim(), "photos", {})
    archive.claim()
    archive.database.write(end.cancel, "ann", cancelled.id)
    planning = archive.submit()
    pieces = [[{"key": "y", "ref": {}}]]
    archive.database.write(plan_step.add, archive.claim(), pieces, ignored=0, cursor=None, finished=False)
    archive.database.write(end.cancel, "ann", planning.id)
    # poison: split down to the image
    archive.plan(["p1", "p2", "poison", "p3"])
    for _ in range(20):
        claims = archive.database.write(claim_step.claim, Lane.BULK, tables.new_id(), archive.settings)
        for claim in claims:
            if "poison" in manifest_keys(archive, claim):
                archive.database.write(blame.died, claim.claimed_by, "signal 9", archive.settings)
            else:
                archive.finish(claim, "photos", {})
    archive.search()
    failed = archive.submit(kind=JobKind.SEARCH)
    archive.claim(Lane.INTERACTIVE)
    archive.database.write(end.fail, failed.id, "internal_error", "broken")
    expired = archive.embed(["e"])
    archive.sql("UPDATE jobs SET expires_at = 1 WHERE id = :id", id=expired.id)
    archive.database.write(sweep.sweep, archive.settings)
    archive.embed(["gone"], name="gone")
    archive.database.write(collection_deletion.delete, "ann", "gone")
    archive.plan(["open1", "open2"], size=1)
    archive.claim()
    # the tests that look at this may take longer than a lease
    archive.sql("UPDATE chunks SET lease_until = lease_until + 86400 WHERE status = 'claimed'")


def manifest_keys(archive: Archive, claim: claim_step.Claim) -> list[str]:
    query = sa.select(tables.Chunk.manifest).filter_by(job_id=claim.job_id, seq=claim.seq)
    return [entry["key"] for entry in ledger.unpack(archive.database.read(lambda s: s.scalar(query)) or b"")]


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def healthy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """A system where much has happened, to copy: all the tests look at the same."""
    folder = tmp_path_factory.mktemp("healthy")
    with migrated(request, request.param, folder) as url:
        archive = Archive(Database(url), Settings(data_dir=folder, database_url=url, weights_dir=folder / "weights"))
        live_an_eventful_life(archive)
        archive.database.dispose()
        yield archive


@pytest.fixture
def archive(request: pytest.FixtureRequest, healthy: Archive, tmp_path: Path) -> Iterator[Archive]:
    """A copy of that system, to look at and to break."""
    shutil.copytree(healthy.settings.data_dir, tmp_path, dirs_exist_ok=True)
    with copied(request, healthy.database.engine.url, tmp_path) as url:
        changes = {"data_dir": tmp_path, "database_url": url}
        archive = Archive(Database(url), healthy.settings.model_copy(update=changes))
        archive.contents = {name: dict(held) for name, held in healthy.contents.items()}
        yield archive
        archive.database.dispose()
