"""A healthy system where much has happened, on both databases."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagekin.database.engine import Database
from imagekin.enums import Lane
from imagekin.jobs import blame, end
from imagekin.jobs import plan as plan_step
from imagekin.maintenance import collection_deletion, sweep
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from kit.databases import copied, migrated
from kit.hand import Hand


def live_an_eventful_life(hand: Hand) -> None:
    """Have everything happen that may happen to jobs, images, uploads and collections."""
    keys = [f"{number:02}" for number in range(12)]
    hand.embed(keys, size=4, broken=["05"], upload_id=hand.upload())
    hand.embed(["00", "01", "twin"], contents={"00": "replaced", "twin": "02"})
    hand.embed(["a", "a", "02"], name="half", contents={"a": "02"})
    hand.delete("03", "04")
    hand.upload()
    # cancelled with a chunk done, one claimed and one ready; and while it is being planned
    cancelled = hand.plan(["x1", "x2", "x3"], size=1)
    hand.finish(hand.claim())
    hand.claim()
    hand.database.write(end.cancel, "ann", cancelled.id)
    planning = hand.submit()
    pieces = [[{"key": "y", "ref": {}}]]
    hand.database.write(plan_step.add, hand.claim(), pieces, ignored=0, cursor=None, finished=False)
    hand.database.write(end.cancel, "ann", planning.id)
    # poison: split down to the image
    hand.plan(["p1", "p2", "poison", "p3"])
    for _ in range(20):
        for claim in hand.claims():
            if "poison" in [made.key for made in hand.made_of(claim)]:
                hand.database.write(blame.died, claim.claimed_by, "signal 9", hand.settings)
            else:
                hand.finish(claim)
    hand.search()
    failed = hand.submit(kind=JobKind.SEARCH)
    hand.claim(Lane.INTERACTIVE)
    hand.database.write(end.fail, failed.id, "internal_error", "broken")
    expired = hand.embed(["e"])
    hand.sql("UPDATE jobs SET expires_at = 1 WHERE id = :id", id=expired.id)
    hand.database.write(sweep.sweep, hand.settings)
    hand.embed(["gone"], name="gone")
    hand.database.write(collection_deletion.delete, "ann", "gone")
    hand.plan(["open1", "open2"], size=1)
    hand.claim()
    # the tests that look at this may take longer than a lease
    hand.sql("UPDATE chunks SET lease_until = lease_until + 86400 WHERE status = 'claimed'")


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def healthy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    """A system where much has happened, to copy: all the tests look at the same."""
    folder = tmp_path_factory.mktemp("healthy")
    with migrated(request, request.param, folder) as url:
        settings = Settings(data_dir=folder, database_url=url, weights_dir=folder / "weights")
        hand = Hand(Database(url), settings, "ann", "photos")
        live_an_eventful_life(hand)
        hand.database.dispose()
        yield hand


@pytest.fixture
def hand(request: pytest.FixtureRequest, healthy: Hand, tmp_path: Path) -> Iterator[Hand]:
    """A copy of that system, to look at and to break."""
    shutil.copytree(healthy.settings.data_dir, tmp_path, dirs_exist_ok=True)
    with copied(request, healthy.database.engine.url, tmp_path) as url:
        changes = {"data_dir": tmp_path, "database_url": url}
        hand = Hand(Database(url), healthy.settings.model_copy(update=changes), healthy.owner, healthy.name)
        hand.contents = {name: dict(held) for name, held in healthy.contents.items()}
        yield hand
        hand.database.dispose()
