"""Faults that hit between two lines of code: the state machine is called as it would be then, on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from imagekin import catalog, collections, jobs, models
from imagekin.config import Settings
from imagekin.db import Database
from imagekin.types import DType, JobKind, JobStatus, Lane, Precision


@pytest.fixture
def submission(database: Database, settings: Settings) -> jobs.Submission:
    space = catalog.resolve_space("fake", None, Precision.EXACT, settings.weights_dir)
    database.write(collections.create, "ann", "photos", space, DType.FLOAT32)
    collection = database.read(collections.get, "ann", "photos")
    return jobs.Submission(
        owner="ann",
        kind=JobKind.EMBED,
        collection_id=collection.id,
        space_id=collection.space_id,
        params={"on_conflict": "replace"},
    )


@pytest.fixture
def job(database: Database, settings: Settings, submission: jobs.Submission) -> models.Job:
    return database.write(jobs.submit, submission, settings)[0]


def claim(database: Database, settings: Settings, name: str = "ring/1") -> jobs.Claim:
    (claimed,) = database.write(jobs.claim, Lane.BULK, name, settings)
    return claimed


def pieces(*keys: str) -> list[list[dict]]:
    return [[{"key": key, "ref": {}} for key in keys]]


def test_submitting_again_what_was_committed_is_one_job(
    database: Database, settings: Settings, submission: jobs.Submission
) -> None:
    made = [database.write(jobs.submit, submission, settings) for _ in range(2)]
    assert [(job.id, new) for job, new in made] == [(submission.id, True)] * 2
    assert database.read(lambda session: session.scalar(sa.select(sa.func.count()).select_from(models.Job))) == 1


def test_planning_again_what_was_committed_adds_nothing(
    database: Database, settings: Settings, job: models.Job
) -> None:
    planning = claim(database, settings)
    for _ in range(2):  # the connection was lost as the first commit's answer came
        database.write(jobs.plan, planning, pieces("a", "b"), ignored=1, cursor={"at": 2}, finished=False)
    database.write(jobs.plan, planning, pieces("c"), ignored=0, cursor={"at": 3}, finished=True)
    seen = database.read(lambda session: session.get_one(models.Job, job.id))
    assert (seen.total, seen.ignored, seen.planned) == (3, 1, True)


def test_a_last_attempt_that_ends_a_process_ends_the_job(
    database: Database, settings: Settings, job: models.Job
) -> None:
    planning = claim(database, settings)
    database.write(jobs.plan, planning, pieces("a"), ignored=0, cursor={"at": 1}, finished=True)
    last = {"attempt": settings.max_attempts - 1}
    database.write(lambda session: session.execute(sa.update(models.Chunk).values(last)))
    claim(database, settings, "ring/2")
    database.write(jobs.died, "ring/2", "signal 9", settings)
    seen = database.read(lambda session: jobs.view(session, session.get_one(models.Job, job.id)))
    # nobody could claim it again, so it must not be ready
    assert seen.status == JobStatus.FAILED
    assert seen.error is not None and seen.error.code == "quarantined"


def test_slices_do_not_add_up_to_poison(database: Database, settings: Settings, job: models.Job) -> None:
    for slice in range(settings.max_attempts + 1):
        lost = claim(database, settings, f"lost-{slice}/1")
        database.write(lambda session: session.execute(sa.update(models.Chunk).values(lease_until=0)))
        planning = claim(database, settings, f"ring-{slice}/1")
        assert planning.attempt == lost.attempt + 1
        database.write(jobs.plan, planning, pieces(str(slice)), ignored=0, cursor={"at": slice}, finished=False)
        database.write(jobs.release, [planning])
        database.write(lambda session: session.execute(sa.delete(models.Chunk).where(models.Chunk.seq >= 0)))
    assert database.read(lambda session: session.get_one(models.Job, job.id)).status == JobStatus.PLANNING
