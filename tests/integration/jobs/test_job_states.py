"""Jobs from their submission to their end, on both databases."""

from __future__ import annotations

import threading

import pytest

from imagekin import errors
from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import ItemStatus, JobStatus
from imagekin.jobs import end, items, view
from imagekin.jobs import plan as plan_step
from imagekin.jobs import submit as submit_step
from imagekin.maintenance import collection_deletion
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from kit.hand import Hand, numbered


def test_a_job_goes_from_queued_to_succeeded(hand: Hand, database: Database) -> None:
    job = hand.submit()
    assert hand.view(job).status == JobStatus.QUEUED
    assert hand.view(job).queue_position == 1
    assert hand.view(job).progress.total is None
    plan = hand.claim()
    assert hand.view(job).status == JobStatus.PLANNING
    pieces = [[{"key": "a", "ref": {}}, {"key": "b", "ref": {}}]]
    database.write(plan_step.add, plan, pieces, ignored=1, cursor=2, finished=True)
    seen = hand.view(job)
    assert (seen.status, seen.progress.total, seen.progress.ignored) == (JobStatus.RUNNING, 2, 1)
    chunk = hand.claim()
    hand.finish(chunk)
    seen = hand.view(job)
    assert (seen.status, seen.progress.done, seen.progress.embedded) == (JobStatus.SUCCEEDED, 2, 2)
    assert seen.finished_at is not None and seen.expires_at is not None
    assert hand.claims() == []


@pytest.mark.parametrize(
    ("broken", "expected"),
    [((), JobStatus.SUCCEEDED), (("a",), JobStatus.PARTIAL), (("a", "b"), JobStatus.FAILED)],
)
def test_the_end_tells_successes_from_failures(hand: Hand, broken: tuple[str, ...], expected: JobStatus) -> None:
    job = hand.plan(["a", "b"], size=4)
    hand.finish(hand.claim(), broken=broken)
    seen = hand.view(job)
    assert seen.status == expected
    assert seen.progress.done == seen.progress.total == 2
    assert (seen.error is not None) == (expected == JobStatus.FAILED)


def test_an_empty_source_fails(hand: Hand) -> None:
    job = hand.plan([], size=4)
    error = hand.view(job).error
    assert error is not None and error.code == "empty_source"


def test_the_second_entry_of_a_key_fails(hand: Hand, database: Database) -> None:
    job = hand.plan(["a", "b", "a", "c", "a"], size=2)
    for _ in range(3):
        hand.finish(hand.claim())
    page, _ = database.read(lambda s: items.page(s, view.get(s, "ann", job.id), None, None, 10))
    assert [(item.key, item.status.value, item.error.code if item.error else None) for item in page] == [
        ("a", "embedded", None),
        ("b", "embedded", None),
        ("a", "failed", "duplicate_key"),
        ("c", "embedded", None),
        ("a", "failed", "duplicate_key"),
    ]


def test_cancelling_ends_a_job_at_once(hand: Hand, database: Database) -> None:
    job = hand.plan(numbered(8), size=4)
    done, begun = hand.claim(), hand.claim()
    hand.finish(done)
    database.write(end.cancel, "ann", job.id)
    seen = hand.view(job)
    assert seen.status == JobStatus.CANCELLED
    assert (seen.progress.embedded, seen.progress.cancelled, seen.progress.total) == (4, 4, 8)
    with pytest.raises(errors.LeaseLost):
        hand.finish(begun)
    assert hand.claims() == []
    database.write(end.cancel, "ann", job.id)
    cancelled, _ = database.read(lambda s: items.page(s, view.get(s, "ann", job.id), ItemStatus.CANCELLED, None, 10))
    assert len(cancelled) == 4


def test_cancelling_while_planning_counts_what_was_planned(hand: Hand, database: Database) -> None:
    job = hand.submit()
    plan = hand.claim()
    pieces = [[{"key": "a", "ref": {}}]]
    database.write(plan_step.add, plan, pieces, ignored=0, cursor=1, finished=False)
    database.write(end.cancel, "ann", job.id)
    seen = hand.view(job)
    assert (seen.status, seen.progress.total, seen.progress.cancelled) == (JobStatus.CANCELLED, 1, 1)
    with pytest.raises(errors.LeaseLost):
        database.write(plan_step.add, plan, pieces, ignored=0, cursor=2, finished=True)


def test_a_finished_job_cannot_be_cancelled(hand: Hand, database: Database) -> None:
    job = hand.plan(["a"], size=4)
    hand.finish(hand.claim())
    with pytest.raises(errors.JobFinished):
        database.write(end.cancel, "ann", job.id)


def test_retry_names_its_parent_and_needs_an_end(hand: Hand, database: Database, settings: Settings) -> None:
    job = hand.plan(["a", "b"], size=4)
    with pytest.raises(errors.JobNotFinished):
        database.write(submit_step.retry, "ann", job.id, "failed", settings)
    hand.finish(hand.claim(), broken=("a",))
    child, created = database.write(submit_step.retry, "ann", job.id, "failed", settings)
    assert created and child.parent_id == job.id
    assert child.work["retry"] == {"job_id": job.id, "items": "failed"}


def test_one_idempotency_key_is_one_job(hand: Hand, database: Database, settings: Settings) -> None:
    hand.collection()

    def post() -> None:
        submission = hand.submission(idempotency_key="key", idempotency_digest="digest")
        made.append(database.write(submit_step.submit, submission, settings))

    made: list[tuple[tables.Job, bool]] = []
    threads = []
    for _ in range(20):
        thread = threading.Thread(target=post)
        threads.append(thread)
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for job, _ in made}) == 1
    assert sorted(created for _, created in made) == [False] * 19 + [True]
    with pytest.raises(errors.IdempotencyMismatch):
        database.read(submit_step.find_idempotent, "ann", "key", "another")


def test_past_quota_and_backlog_nothing_is_taken(hand: Hand, database: Database, settings: Settings) -> None:
    tight = settings.model_copy(update={"max_jobs_per_owner": 2, "max_backlog": 3})

    def attempt(owner: str) -> None:
        submission = hand.submission(kind=JobKind.SEARCH, owner=owner)
        database.write(submit_step.submit, submission, tight)

    attempt("ann")
    attempt("ann")
    with pytest.raises(errors.QuotaExceeded):
        attempt("ann")
    attempt("bob")
    with pytest.raises(errors.Backlog):
        attempt("cat")


def test_what_is_another_owners_is_not_found(hand: Hand, database: Database) -> None:
    job = hand.submit()
    with pytest.raises(errors.JobNotFound):
        database.read(view.get, "bob", job.id)


def test_deleting_a_collection_cancels_its_jobs(hand: Hand, database: Database) -> None:
    job = hand.submit()
    database.write(collection_deletion.delete, "ann", "photos")
    seen = database.read(lambda s: view.view(s, view.get(s, "ann", job.id)))
    assert seen.status == JobStatus.CANCELLED
    assert seen.error is not None and seen.error.code == "collection_deleted"
    with pytest.raises(errors.CollectionNotFound):
        hand.submit()
