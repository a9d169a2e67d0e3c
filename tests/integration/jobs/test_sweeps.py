"""What is made good of who dies, and what is past its life."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import ItemStatus, JobStatus, Lane
from imagekin.jobs import blame, items, view
from imagekin.maintenance import sweep
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from kit.hand import Hand, numbered


def failure(hand: Hand, job: tables.Job) -> str | None:
    error = hand.view(job).error
    return error.code if error else None


def test_poison_is_split_down_to_the_image(hand: Hand, database: Database, settings: Settings) -> None:
    job = hand.plan(numbered(8), size=8)
    deaths = 0
    while claims := hand.claims(most_images=100):
        chunk, *others = claims
        for other in others:
            hand.finish(other)
        keys = [item.key for item in hand.made_of(chunk)]
        if "005" in keys:
            deaths += 1
            database.write(blame.died, chunk.claimed_by.split("/")[0] + "/", "signal 9", settings)
        else:
            hand.finish(chunk)
    seen = hand.view(job)
    assert (seen.status, seen.progress.embedded, seen.progress.failed) == (JobStatus.PARTIAL, 7, 1)
    failed, _ = database.read(lambda s: items.page(s, view.get(s, "ann", job.id), ItemStatus.FAILED, None, 10))
    assert [(item.key, item.error and item.error.code) for item in failed] == [("005", "quarantined")]
    every, _ = database.read(lambda s: items.page(s, view.get(s, "ann", job.id), None, None, 10))
    assert [item.key for item in every] == [f"{number:03}" for number in range(8)]
    assert deaths == settings.max_deaths + 3


def test_a_search_that_kills_twice_fails(hand: Hand, database: Database, settings: Settings) -> None:
    job = hand.submit(kind=JobKind.SEARCH)
    for _ in range(settings.max_deaths):
        chunk = hand.claim(Lane.INTERACTIVE)
        database.write(blame.died, chunk.claimed_by, "signal 9", settings)
    assert failure(hand, job) == "internal_error"


def test_the_sweep_makes_expired_claims_ready(hand: Hand, database: Database, settings: Settings) -> None:
    hand.plan(numbered(2), size=2)
    hand.claims()
    assert database.write(sweep.sweep, settings).released == 0
    database.write(lambda s: s.execute(sa.update(tables.Chunk).values(lease_until=0)))
    swept = database.write(sweep.sweep, settings)
    assert (swept.released, swept.lanes) == (1, {Lane.BULK: 1})


def test_a_chunk_that_is_never_finished_counts_as_poison(hand: Hand, database: Database, settings: Settings) -> None:
    job = hand.plan(numbered(1), size=1)
    database.write(lambda s: s.execute(sa.update(tables.Chunk).values(attempt=settings.max_attempts - 1)))
    hand.claims()
    database.write(lambda s: s.execute(sa.update(tables.Chunk).values(lease_until=0)))
    assert hand.claims() == []
    database.write(sweep.sweep, settings)
    assert failure(hand, job) == "quarantined"


def test_the_sweep_forgets_what_is_past_its_life(hand: Hand, database: Database, settings: Settings) -> None:
    job = hand.plan(["a"], size=4)
    hand.finish(hand.claim())
    database.write(lambda s: s.execute(sa.update(tables.Job).values(expires_at=1)))
    assert database.write(sweep.sweep, settings).expired_jobs == 1
    assert database.write(sweep.sweep, settings).expired_jobs == 0
    assert database.read(lambda s: view.expired(s, view.get(s, "ann", job.id)))


def test_an_upload_lives_while_a_job_names_it(hand: Hand, database: Database, settings: Settings) -> None:
    def add(session: Session, id: str) -> None:
        session.add(
            tables.Upload(id=id, owner="ann", path=f"uploads/{id}", sha256="", size=1, stored_bytes=1, expires_at=1)
        )

    for id in ("named", "free"):
        database.write(add, id)
    hand.submit(upload_id="named")
    assert database.write(sweep.sweep, settings).paths == ["uploads/free"]


def test_one_process_holds_the_sweep(database: Database) -> None:
    assert database.write(sweep.hold, "sweep", "a", 30)
    assert database.write(sweep.hold, "sweep", "a", 30)
    assert not database.write(sweep.hold, "sweep", "b", 30)
    database.write(lambda s: s.execute(sa.update(tables.Lock).values(until=1)))
    assert database.write(sweep.hold, "sweep", "b", 30)
