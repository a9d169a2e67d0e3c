"""What is made good of who dies, and what is past its life."""

from __future__ import annotations

import sqlalchemy as sa

from imagekin.database import tables
from imagekin.enums import ItemStatus, JobStatus, Lane
from imagekin.jobs import blame, items, view
from imagekin.maintenance import sweep
from imagekin.schemas.kinds import JobKind
from kit.chunks import finish, items_of, status


def test_poison_is_split_down_to_the_image(database, planned, claim, settings):
    job = planned(images=8, size=8)
    deaths = 0
    while claims := claim(most_images=100):
        chunk, *others = claims
        for other in others:
            finish(database, other)
        keys = [item.key for item in items_of(database, chunk)]
        if "005" in keys:
            deaths += 1
            database.write(blame.died, chunk.claimed_by.split("/")[0] + "/", "signal 9", settings)
        else:
            finish(database, chunk)
    seen = status(database, job)
    assert (seen.status, seen.progress.embedded, seen.progress.failed) == (JobStatus.PARTIAL, 7, 1)
    failed, _ = database.read(lambda s: items.page(s, view.get(s, "ann", job.id), ItemStatus.FAILED, None, 10))
    assert [(item.key, item.error.code) for item in failed] == [("005", "quarantined")]
    every, _ = database.read(lambda s: items.page(s, view.get(s, "ann", job.id), None, None, 10))
    assert [item.key for item in every] == [f"{number:03}" for number in range(8)]
    assert deaths == settings.max_deaths + 3


def test_a_search_that_kills_twice_fails(database, submit, claim, settings):
    job = submit(kind=JobKind.SEARCH)
    for _ in range(settings.max_deaths):
        (chunk,) = claim(Lane.INTERACTIVE)
        database.write(blame.died, chunk.claimed_by, "signal 9", settings)
    assert status(database, job).error.code == "internal_error"


def test_the_sweep_makes_expired_claims_ready(database, planned, claim, settings):
    planned(images=2, size=2)
    claim()
    assert database.write(sweep.sweep, settings).released == 0
    database.write(lambda s: s.execute(sa.update(tables.Chunk).values(lease_until=0)))
    swept = database.write(sweep.sweep, settings)
    assert (swept.released, swept.lanes) == (1, {Lane.BULK: 1})


def test_a_chunk_that_is_never_finished_counts_as_poison(database, planned, claim, settings):
    job = planned(images=1, size=1)
    database.write(lambda s: s.execute(sa.update(tables.Chunk).values(attempt=settings.max_attempts - 1)))
    claim()
    database.write(lambda s: s.execute(sa.update(tables.Chunk).values(lease_until=0)))
    assert claim() == []
    database.write(sweep.sweep, settings)
    assert status(database, job).error.code == "quarantined"


def test_the_sweep_forgets_what_is_past_its_life(database, planned, claim, settings):
    job = planned(keys=["a"])
    finish(database, claim()[0])
    database.write(lambda s: s.execute(sa.update(tables.Job).values(expires_at=1)))
    assert database.write(sweep.sweep, settings).expired_jobs == 1
    assert database.write(sweep.sweep, settings).expired_jobs == 0
    assert database.read(lambda s: view.expired(s, view.get(s, "ann", job.id)))


def test_an_upload_lives_while_a_job_names_it(database, submit, settings):
    def add(session, id):
        session.add(
            tables.Upload(id=id, owner="ann", path=f"uploads/{id}", sha256="", size=1, stored_bytes=1, expires_at=1)
        )

    for id in ("named", "free"):
        database.write(add, id)
    submit(upload_id="named")
    assert database.write(sweep.sweep, settings).paths == ["uploads/free"]


def test_one_process_holds_the_sweep(database):
    assert database.write(sweep.hold, "sweep", "a", 30)
    assert database.write(sweep.hold, "sweep", "a", 30)
    assert not database.write(sweep.hold, "sweep", "b", 30)
    database.write(lambda s: s.execute(sa.update(tables.Lock).values(until=1)))
    assert database.write(sweep.hold, "sweep", "b", 30)
