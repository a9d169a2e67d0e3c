"""Faults that hit between two lines of code: the state machine is called as it would be then, on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import JobStatus
from imagekin.jobs import blame, submit
from imagekin.jobs import claim as claim_step
from imagekin.jobs import plan as plan_step
from imagekin.settings import Settings
from kit.hand import Hand


@pytest.fixture
def hand(database: Database, settings: Settings) -> Hand:
    return Hand(database, settings)


@pytest.fixture
def job(hand: Hand) -> tables.Job:
    return hand.submit()


def pieces(*keys: str) -> list[list[dict]]:
    return [[{"key": key, "ref": {}} for key in keys]]


def test_submitting_again_what_was_committed_is_one_job(database: Database, settings: Settings, hand: Hand) -> None:
    submission = hand.submission()
    made = [database.write(submit.submit, submission, settings) for _ in range(2)]
    assert [(job.id, new) for job, new in made] == [(submission.id, True)] * 2
    assert database.read(lambda session: session.scalar(sa.select(sa.func.count()).select_from(tables.Job))) == 1


def test_planning_again_what_was_committed_adds_nothing(database: Database, hand: Hand, job: tables.Job) -> None:
    planning = hand.claim()
    for _ in range(2):  # the connection was lost as the first commit's answer came
        database.write(plan_step.add, planning, pieces("a", "b"), ignored=1, cursor={"at": 2}, finished=False)
    database.write(plan_step.add, planning, pieces("c"), ignored=0, cursor={"at": 3}, finished=True)
    seen = database.read(lambda session: session.get_one(tables.Job, job.id))
    assert (seen.total, seen.ignored, seen.planned) == (3, 1, True)


def test_a_last_attempt_that_ends_a_process_ends_the_job(
    database: Database, settings: Settings, hand: Hand, job: tables.Job
) -> None:
    planning = hand.claim()
    database.write(plan_step.add, planning, pieces("a"), ignored=0, cursor={"at": 1}, finished=True)
    last = {"attempt": settings.max_attempts - 1}
    database.write(lambda session: session.execute(sa.update(tables.Chunk).values(last)))
    database.write(blame.died, hand.claim().claimed_by, "signal 9", settings)
    seen = hand.view(job)
    # nobody could claim it again, so it must not be ready
    assert seen.status == JobStatus.FAILED
    assert seen.error is not None and seen.error.code == "quarantined"


def test_slices_do_not_add_up_to_poison(database: Database, settings: Settings, hand: Hand, job: tables.Job) -> None:
    for slice in range(settings.max_attempts + 1):
        lost = hand.claim()
        database.write(lambda session: session.execute(sa.update(tables.Chunk).values(lease_until=0)))
        planning = hand.claim()
        assert planning.attempt == lost.attempt + 1
        database.write(plan_step.add, planning, pieces(str(slice)), ignored=0, cursor={"at": slice}, finished=False)
        database.write(claim_step.release, [planning])
        database.write(lambda session: session.execute(sa.delete(tables.Chunk).where(tables.Chunk.seq >= 0)))
    assert database.read(lambda session: session.get_one(tables.Job, job.id)).status == JobStatus.PLANNING
