"""The state machine, on both databases: claims, fences, splitting, cancelling, retrying, sweeping."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
import sqlalchemy as sa

from imagekin import catalog, collections, errors, jobs, ledger, models, segments
from imagekin.jobs import reports
from imagekin.types import ChunkKind, DType, ItemStatus, JobKind, JobStatus, Lane, OnConflict, Precision


@pytest.fixture
def space(database, settings):
    return catalog.resolve_space("fake", None, Precision.EXACT, settings.weights_dir)


@pytest.fixture
def collection(database, space):
    database.write(collections.create, "ann", "photos", space, DType.FLOAT32)
    return database.read(collections.get, "ann", "photos")


@pytest.fixture
def submit(database, settings, collection):
    def submit(kind=JobKind.EMBED, owner="ann", **fields):
        params = {"on_conflict": "replace"} | fields.pop("params", {})
        submission = jobs.Submission(
            owner=owner,
            kind=kind,
            params=params,
            **({"collection_id": collection.id, "space_id": collection.space_id} | fields),
        )
        return database.write(jobs.submit, submission, settings)[0]

    return submit


@pytest.fixture
def claim(database, settings):
    counter = iter(range(1000))

    def claim(lane=Lane.BULK, **options):
        return database.write(jobs.claim, lane, f"ring-{next(counter)}/x", settings, **options)

    return claim


@pytest.fixture
def planned(database, submit, claim):
    """A job planned into chunks of `size` images, whose keys are numbers."""

    def planned(images=8, size=4, owner="ann", keys=None):
        job = submit(owner=owner)
        (plan,) = claim()
        assert plan.job_id == job.id and plan.kind == ChunkKind.PLAN
        entries = [{"key": key, "ref": {}} for key in (keys or [f"{number:03}" for number in range(images)])]
        pieces = [entries[at : at + size] for at in range(0, len(entries), size)]
        database.write(jobs.plan, plan, pieces, ignored=2, cursor=len(entries), finished=True)
        return job

    return planned


def status(database, job):
    return database.read(lambda session: jobs.view(session, session.get_one(models.Job, job.id)))


def items_of(database, claim, broken=()):
    """Make the items that a worker would have made of a chunk."""

    def manifest(session):
        return session.scalar(sa.select(models.Chunk.manifest).filter_by(job_id=claim.job_id, seq=claim.seq))

    made = []
    for entry in ledger.unpack(database.read(manifest)):
        if "error" in entry:
            made.append(segments.Item(entry["key"], error=tuple(entry["error"])))
        elif entry["key"] in broken:
            made.append(segments.Item(entry["key"], error=("decode_error", "broken")))
        else:
            vector = np.full(64, float(hash(entry["key"]) % 97 + 1), np.float32)
            made.append(
                segments.Item(entry["key"], vector=vector, content_hash=entry["key"].rjust(64, "0"), thumbnail=b"jpeg")
            )
    return made


def finish(database, claim, **options):
    return database.write(jobs.finish_images, claim, items_of(database, claim, **options))


def test_a_job_goes_from_queued_to_succeeded(database, submit, claim):
    job = submit()
    assert status(database, job).status == JobStatus.QUEUED
    assert status(database, job).queue_position == 1
    assert status(database, job).progress.total is None
    (plan,) = claim()
    assert status(database, job).status == JobStatus.PLANNING
    pieces = [[{"key": "a", "ref": {}}, {"key": "b", "ref": {}}]]
    database.write(jobs.plan, plan, pieces, ignored=1, cursor=2, finished=True)
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
    page, _ = database.read(lambda s: jobs.items(s, jobs.get(s, "ann", job.id), None, None, 10))
    assert [(item.key, item.status.value, item.error.code if item.error else None) for item in page] == [
        ("a", "embedded", None),
        ("b", "embedded", None),
        ("a", "failed", "duplicate_key"),
        ("c", "embedded", None),
        ("a", "failed", "duplicate_key"),
    ]


def test_one_chunk_goes_to_one_claimant(database, planned, claim, settings):
    planned(images=60, size=1)
    taken, lock = [], threading.Lock()

    def work(name):
        while True:
            claims = database.write(jobs.claim, Lane.BULK, f"{name}-{len(taken)}/{name}", settings, most_images=2)
            if not claims:
                return
            with lock:
                taken.extend((claim.job_id, claim.seq) for claim in claims)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # a claim skips rows that another is taking, so a thread may leave early; nothing may be taken twice
    assert max(Counter(taken).values()) == 1
    while claims := claim(most_images=10):
        taken.extend((claim.job_id, claim.seq) for claim in claims)
    assert len(set(taken)) == 60


@pytest.fixture
def plans(database):
    """SQLite's plans for what is run from now on."""
    if not database.is_sqlite:
        pytest.skip("PostgreSQL chooses its plans by the statistics of the table")
    plans = []

    def explain(connection, cursor, statement, parameters, context, many):
        if not many:
            cursor.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            plans.extend(row[3] for row in cursor.fetchall())

    sa.event.listen(database.engine, "before_cursor_execute", explain)
    return plans


def test_a_claim_looks_at_no_more_rows_in_a_larger_job(database, planned, claim, plans):
    planned(images=8, size=1)
    plans.clear()
    claims = claim(most_images=4, warm=("other",), gathering=True)
    database.write(jobs.renew, claims, 30.0)
    database.write(jobs.release, claims)
    assert plans
    assert [plan for plan in plans if plan.startswith("SCAN chunks")] == []


def test_storing_looks_at_no_more_images_in_a_larger_collection(database, collection, planned, claim, plans):
    planned(images=2, size=2)
    (chunk,) = claim()
    items = items_of(database, chunk)
    plans.clear()
    contents = [(item.key, item.content_hash) for item in items]
    assert database.read(segments.known, collection, contents, OnConflict.REPLACE) == [None, None]
    finish(database, chunk)
    indexes = {plan.removeprefix("SEARCH images USING ") for plan in plans if " images " in plan}
    assert indexes == {
        "INDEX uq_images_collection_key (collection_id=? AND key=?)",
        "INDEX ix_images_content_hash (content_hash=?)",
    }


def test_what_is_known_elsewhere_is_copied_with_its_own_vector_and_thumbnail(
    database, space, collection, planned, claim
):
    planned(images=4, size=2)
    made = {}
    for chunk in claim(most_images=4):
        items = items_of(database, chunk)
        for item in items:
            item.vector = np.full(64, len(made) + 1.0, np.float32)
            item.thumbnail = item.key.encode() if made else None
            made[item.content_hash] = item
        database.write(jobs.finish_images, chunk, items)
    database.write(collections.create, "ann", "more", space, DType.FLOAT32)
    more = database.read(collections.get, "ann", "more")
    contents = [("a", "nowhere"), *((f"{at}.jpg", content) for at, content in enumerate(reversed(made)))]
    nowhere, *copies = database.read(segments.known, more, contents, OnConflict.REPLACE)
    assert nowhere is None
    for copy, item in zip(copies, reversed(made.values()), strict=True):
        assert isinstance(copy, segments.Copy)
        assert (copy.vector == item.vector).all()
        assert copy.thumbnail == item.thumbnail


def test_a_late_finish_is_refused(database, planned, claim, settings):
    job = planned(images=2, size=2)
    (late,) = claim()
    database.write(lambda s: s.execute(sa.update(models.Chunk).values(lease_until=0)))
    (second,) = claim()
    assert (second.seq, second.attempt) == (late.seq, late.attempt + 1)
    with pytest.raises(errors.LeaseLost):
        finish(database, late)
    assert database.write(jobs.renew, [late], 30) == set()
    assert database.write(jobs.renew, [second], 30) == {(job.id, second.seq)}
    finish(database, second)
    assert status(database, job).progress.embedded == 2
    assert database.read(lambda s: s.scalar(sa.select(sa.func.count()).select_from(models.Segment))) == 1


def test_finishing_again_what_is_finished_changes_nothing(database, planned, claim):
    job = planned(images=2, size=2)
    (chunk,) = claim()
    items = items_of(database, chunk)
    assert database.write(jobs.finish_images, chunk, items)[ItemStatus.EMBEDDED] == 2
    assert database.write(jobs.finish_images, chunk, items) == Counter()
    assert status(database, job).progress.done == 2


def test_owners_take_turns(submit, claim):
    for owner in ("ann", "ann", "ann", "bob", "cat"):
        submit(owner=owner)
    turns, last = [], ""
    for _ in range(5):
        (taken,) = claim(after_owner=last)
        last = taken.owner
        turns.append(last)
    assert turns == ["ann", "bob", "cat", "ann", "ann"]


def test_work_for_a_network_in_memory_comes_first(submit, claim):
    first, second = submit(kind=JobKind.SEARCH, space_id="cold"), submit(kind=JobKind.SEARCH, space_id="warm")
    assert [one.job_id for one in claim(Lane.INTERACTIVE, warm=("other", "warm"))] == [second.id]
    # and what nobody has in memory is done all the same
    assert [one.job_id for one in claim(Lane.INTERACTIVE, warm=("other", "warm"))] == [first.id]


def test_planning_needs_no_network_and_waits_for_none(submit, claim):
    first = submit(space_id="cold")
    submit(space_id="warm")
    assert claim(warm=("warm",))[0].job_id == first.id


def test_a_claim_takes_small_chunks_of_many_jobs(database, submit, claim):
    for _ in range(3):
        submit()
    for plan in [claim()[0] for _ in range(3)]:
        pieces = [[{"key": "a", "ref": {}}, {"key": "b", "ref": {}}]]
        database.write(jobs.plan, plan, pieces, ignored=0, cursor=2, finished=True)
    assert len(claim(most_images=5)) == 2
    assert len(claim(most_images=5)) == 1


def test_planning_and_images_take_turns(database, submit, claim):
    submit()
    (plan,) = claim()
    pieces = [[{"key": "a", "ref": {}}], [{"key": "b", "ref": {}}]]
    database.write(jobs.plan, plan, pieces, ignored=0, cursor=2, finished=False)
    database.write(jobs.release, [plan])
    assert claim(after_planning=True)[0].kind == ChunkKind.EMBED
    assert claim()[0].kind == ChunkKind.PLAN
    assert claim(after_planning=True)[0].kind == ChunkKind.EMBED
    assert claim(after_planning=True) == []


def test_searches_are_taken_together(submit, claim):
    for _ in range(5):
        submit(kind=JobKind.SEARCH)
    assert len(claim(Lane.INTERACTIVE, most_searches=4)) == 4
    assert claim(Lane.BULK) == []
    assert len(claim(Lane.INTERACTIVE, most_searches=4)) == 1


def test_poison_is_split_down_to_the_image(database, planned, claim, settings):
    job = planned(images=8, size=8)
    deaths = 0
    while claims := claim(most_images=100):
        (chunk,) = claims if len(claims) == 1 else [claims[0]]
        for other in claims[1:]:
            finish(database, other)
        keys = [item.key for item in items_of(database, chunk)]
        if "005" in keys:
            deaths += 1
            database.write(jobs.died, chunk.claimed_by.split("/")[0] + "/", "signal 9", settings)
        else:
            finish(database, chunk)
    seen = status(database, job)
    assert (seen.status, seen.progress.embedded, seen.progress.failed) == (JobStatus.PARTIAL, 7, 1)
    failed, _ = database.read(lambda s: jobs.items(s, jobs.get(s, "ann", job.id), ItemStatus.FAILED, None, 10))
    assert [(item.key, item.error.code) for item in failed] == [("005", "quarantined")]
    every, _ = database.read(lambda s: jobs.items(s, jobs.get(s, "ann", job.id), None, None, 10))
    assert [item.key for item in every] == [f"{number:03}" for number in range(8)]
    assert deaths == settings.max_deaths + 3


def test_a_search_that_kills_twice_fails(database, submit, claim, settings):
    job = submit(kind=JobKind.SEARCH)
    for _ in range(settings.max_deaths):
        (chunk,) = claim(Lane.INTERACTIVE)
        database.write(jobs.died, chunk.claimed_by, "signal 9", settings)
    assert status(database, job).error.code == "internal_error"


def test_cancelling_ends_a_job_at_once(database, planned, claim):
    job = planned(images=8, size=4)
    done, begun = claim()[0], claim()[0]
    finish(database, done)
    database.write(jobs.cancel, "ann", job.id)
    seen = status(database, job)
    assert seen.status == JobStatus.CANCELLED
    assert (seen.progress.embedded, seen.progress.cancelled, seen.progress.total) == (4, 4, 8)
    with pytest.raises(errors.LeaseLost):
        finish(database, begun)
    assert claim() == []
    database.write(jobs.cancel, "ann", job.id)
    cancelled, _ = database.read(lambda s: jobs.items(s, jobs.get(s, "ann", job.id), ItemStatus.CANCELLED, None, 10))
    assert len(cancelled) == 4


def test_cancelling_while_planning_counts_what_was_planned(database, submit, claim):
    job = submit()
    (plan,) = claim()
    pieces = [[{"key": "a", "ref": {}}]]
    database.write(jobs.plan, plan, pieces, ignored=0, cursor=1, finished=False)
    database.write(jobs.cancel, "ann", job.id)
    seen = status(database, job)
    assert (seen.status, seen.progress.total, seen.progress.cancelled) == (JobStatus.CANCELLED, 1, 1)
    with pytest.raises(errors.LeaseLost):
        database.write(jobs.plan, plan, pieces, ignored=0, cursor=2, finished=True)


def test_a_finished_job_cannot_be_cancelled(database, planned, claim):
    job = planned(keys=["a"])
    finish(database, claim()[0])
    with pytest.raises(errors.JobFinished):
        database.write(jobs.cancel, "ann", job.id)


def test_retry_names_its_parent_and_needs_an_end(database, planned, claim, settings):
    job = planned(keys=["a", "b"])
    with pytest.raises(errors.JobNotFinished):
        database.write(jobs.retry, "ann", job.id, "failed", settings)
    finish(database, claim()[0], broken=("a",))
    child, created = database.write(jobs.retry, "ann", job.id, "failed", settings)
    assert created and child.parent_id == job.id
    assert child.work["retry"] == {"job_id": job.id, "items": "failed"}


def test_one_idempotency_key_is_one_job(database, settings, collection):
    def post():
        submission = jobs.Submission(
            owner="ann",
            kind=JobKind.EMBED,
            collection_id=collection.id,
            space_id=collection.space_id,
            params={"on_conflict": "replace"},
            idempotency_key="key",
            idempotency_digest="digest",
        )
        made.append(database.write(jobs.submit, submission, settings))

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
        database.read(jobs.find_idempotent, "ann", "key", "another")


def test_past_quota_and_backlog_nothing_is_taken(database, settings, collection, submit):
    tight = settings.model_copy(update={"max_jobs_per_owner": 2, "max_backlog": 3})

    def attempt(owner):
        submission = jobs.Submission(
            owner=owner, kind=JobKind.SEARCH, collection_id=collection.id, space_id=collection.space_id, params={}
        )
        database.write(jobs.submit, submission, tight)

    attempt("ann")
    attempt("ann")
    with pytest.raises(errors.QuotaExceeded):
        attempt("ann")
    attempt("bob")
    with pytest.raises(errors.Backlog):
        attempt("cat")


def test_the_sweep_makes_expired_claims_ready(database, planned, claim, settings):
    planned(images=2, size=2)
    claim()
    assert database.write(jobs.sweep, settings).released == 0
    database.write(lambda s: s.execute(sa.update(models.Chunk).values(lease_until=0)))
    swept = database.write(jobs.sweep, settings)
    assert (swept.released, swept.lanes) == (1, {Lane.BULK: 1})


def test_a_chunk_that_is_never_finished_counts_as_poison(database, planned, claim, settings):
    job = planned(images=1, size=1)
    database.write(lambda s: s.execute(sa.update(models.Chunk).values(attempt=settings.max_attempts - 1)))
    claim()
    database.write(lambda s: s.execute(sa.update(models.Chunk).values(lease_until=0)))
    assert claim() == []
    database.write(jobs.sweep, settings)
    assert status(database, job).error.code == "quarantined"


def test_the_sweep_forgets_what_is_past_its_life(database, planned, claim, settings):
    job = planned(keys=["a"])
    finish(database, claim()[0])
    database.write(lambda s: s.execute(sa.update(models.Job).values(expires_at=1)))
    assert database.write(jobs.sweep, settings).expired_jobs == 1
    assert database.write(jobs.sweep, settings).expired_jobs == 0
    assert database.read(lambda s: reports.expired(s, jobs.get(s, "ann", job.id)))


def test_an_upload_lives_while_a_job_names_it(database, submit, settings):
    def add(session, id):
        session.add(
            models.Upload(id=id, owner="ann", path=f"uploads/{id}", sha256="", size=1, stored_bytes=1, expires_at=1)
        )

    for id in ("named", "free"):
        database.write(add, id)
    submit(upload_id="named")
    assert database.write(jobs.sweep, settings).paths == ["uploads/free"]


def test_one_process_holds_the_sweep(database):
    assert database.write(jobs.hold, "sweep", "a", 30)
    assert database.write(jobs.hold, "sweep", "a", 30)
    assert not database.write(jobs.hold, "sweep", "b", 30)
    database.write(lambda s: s.execute(sa.update(models.Lock).values(until=1)))
    assert database.write(jobs.hold, "sweep", "b", 30)


def test_what_is_another_owners_is_not_found(database, submit):
    job = submit()
    with pytest.raises(errors.JobNotFound):
        database.read(jobs.get, "bob", job.id)


def test_deleting_a_collection_cancels_its_jobs(database, submit):
    job = submit()
    database.write(collections.delete, "ann", "photos")
    seen = database.read(lambda s: jobs.view(s, jobs.get(s, "ann", job.id)))
    assert seen.status == JobStatus.CANCELLED
    assert seen.error.code == "collection_deleted"
    with pytest.raises(errors.CollectionNotFound):
        submit()
