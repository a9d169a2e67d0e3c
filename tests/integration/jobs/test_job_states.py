"""Jobs from their submission to their end, on both databases."""

from __future__ import annotations

import threading

import pytest

from imagekin import errors
from imagekin.enums import ItemStatus, JobStatus
from imagekin.jobs import end, items, view
from imagekin.jobs import plan as plan_step
from imagekin.jobs import submit as submit_step
from imagekin.maintenance import collection_deletion
from imagekin.schemas.kinds import JobKind
from kit.chunks import finish, status


def test_a_job_goes_from_queued_to_succeeded(database, submit, claim):
    job = submit()
    assert status(database, job).status == JobStatus.QUEUED
    assert status(database, job).queue_position == 1
    assert status(database, job).progress.total is None
    (plan,) = claim()
    assert status(database, job).status == JobStatus.PLANNING
    pieces = [[{"key": "a", "ref": {}}, {"key": "b", "ref": {}}]]
    database.write(plan_step.add, plan, pieces, ignored=1, cursor=2, finished=True)
    seen = status(database, job)
    assert (seen.status, seen.progress.total, seen.progress.ignored) == (JobStatus.RUNNING, 2, 1)
    (chunk,) = claim()
    finish(database, chunk)
    seen = status(database, job)
    assert (seen.status, seen.progress.done, seen.progress.embedded) == (JobStatus.SUCCEEDED, 2, 2)
    assert seen.finished_at is not None and seen.expires_at is not None
    assert claim() == []


@pytest.mark.parametrize(
    ("broken", "expected"),
    [((), JobStatus.SUCCEEDED), (("a",), JobStatus.PARTIAL), (("a", "b"), JobStatus.FAILED)],
)
def test_the_end_tells_successes_from_failures(database, planned, claim, broken, expected):
    job = planned(keys=["a", "b"])
    finish(database, claim()[0], broken=broken)
    seen = status(database, job)
    assert seen.status == expected
    assert seen.progress.done == seen.progress.total == 2
    assert (seen.error is not None) == (expected == JobStatus.FAILED)


def test_an_empty_source_fails(database, planned):
    job = planned(images=0, keys=[])
    assert status(database, job).error.code == "empty_source"


def test_the_second_entry_of_a_key_fails(database, planned, claim):
    job = planned(keys=["a", "b", "a", "c", "a"], size=2)
    for _ in range(3):
        finish(database, claim()[0])
    page, _ = database.read(lambda s: items.page(s, view.get(s, "ann", job.id), None, None, 10))
    assert [(item.key, item.status.value, item.error.code if item.error else None) for item in page] == [
        ("a", "embedded", None),
        ("b", "embedded", None),
        ("a", "failed", "duplicate_key"),
        ("c", "embedded", None),
        ("a", "failed", "duplicate_key"),
    ]


def test_cancelling_ends_a_job_at_once(database, planned, claim):
    job = planned(images=8, size=4)
    done, begun = claim()[0], claim()[0]
    finish(database, done)
    database.write(end.cancel, "ann", job.id)
    seen = status(database, job)
    assert seen.status == JobStatus.CANCELLED
    assert (seen.progress.embedded, seen.progress.cancelled, seen.progress.total) == (4, 4, 8)
    with pytest.raises(errors.LeaseLost):
        finish(database, begun)
    assert claim() == []
    database.write(end.cancel, "ann", job.id)
    cancelled, _ = database.read(lambda s: items.page(s, view.get(s, "ann", job.id), ItemStatus.CANCELLED, None, 10))
    assert len(cancelled) == 4


def test_cancelling_while_planning_counts_what_was_planned(database, submit, claim):
    job = submit()
    (plan,) = claim()
    pieces = [[{"key": "a", "ref": {}}]]
    database.write(plan_step.add, plan, pieces, ignored=0, cursor=1, finished=False)
    database.write(end.cancel, "ann", job.id)
    seen = status(database, job)
    assert (seen.status, seen.progress.total, seen.progress.cancelled) == (JobStatus.CANCELLED, 1, 1)
    with pytest.raises(errors.LeaseLost):
        database.write(plan_step.add, plan, pieces, ignored=0, cursor=2, finished=True)


def test_a_finished_job_cannot_be_cancelled(database, planned, claim):
    job = planned(keys=["a"])
    finish(database, claim()[0])
    with pytest.raises(errors.JobFinished):
        database.write(end.cancel, "ann", job.id)


def test_retry_names_its_parent_and_needs_an_end(database, planned, claim, settings):
    job = planned(keys=["a", "b"])
    with pytest.raises(errors.JobNotFinished):
        database.write(submit_step.retry, "ann", job.id, "failed", settings)
    finish(database, claim()[0], broken=("a",))
    child, created = database.write(submit_step.retry, "ann", job.id, "failed", settings)
    assert created and child.parent_id == job.id
    assert child.work["retry"] == {"job_id": job.id, "items": "failed"}


def test_one_idempotency_key_is_one_job(database, settings, collection):
    def post():
        submission = submit_step.Submission(
            owner="ann",
            kind=JobKind.EMBED,
            collection_id=collection.id,
            space_id=collection.space_id,
            params={"on_conflict": "replace"},
            idempotency_key="key",
            idempotency_digest="digest",
        )
        made.append(database.write(submit_step.submit, submission, settings))

    made, threads = [], []
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


def test_past_quota_and_backlog_nothing_is_taken(database, settings, collection, submit):
    tight = settings.model_copy(update={"max_jobs_per_owner": 2, "max_backlog": 3})

    def attempt(owner):
        submission = submit_step.Submission(
            owner=owner, kind=JobKind.SEARCH, collection_id=collection.id, space_id=collection.space_id, params={}
        )
        database.write(submit_step.submit, submission, tight)

    attempt("ann")
    attempt("ann")
    with pytest.raises(errors.QuotaExceeded):
        attempt("ann")
    attempt("bob")
    with pytest.raises(errors.Backlog):
        attempt("cat")


def test_what_is_another_owners_is_not_found(database, submit):
    job = submit()
    with pytest.raises(errors.JobNotFound):
        database.read(view.get, "bob", job.id)


def test_deleting_a_collection_cancels_its_jobs(database, submit):
    job = submit()
    database.write(collection_deletion.delete, "ann", "photos")
    seen = database.read(lambda s: view.view(s, view.get(s, "ann", job.id)))
    assert seen.status == JobStatus.CANCELLED
    assert seen.error.code == "collection_deleted"
    with pytest.raises(errors.CollectionNotFound):
        submit()
