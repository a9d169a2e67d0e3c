"""Blobs behind a network that loses requests and answers: nothing accepted is lost, nothing is doubled or stays."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from imagekin import errors
from imagekin.database import tables
from imagekin.maintenance import relocation, upkeep
from imagekin.maintenance.relocation import Place
from imagekin.store import blobs
from kit import s3
from kit.blobs import named, pass_hours, settle, there
from kit.flaky import Fault, Road, road
from kit.hand import Hand, numbered

pytestmark = [pytest.mark.parametrize("engine", ["sqlite"]), pytest.mark.parametrize("place", ["s3"])]


def _of(*faults: Fault) -> list[Any]:
    """Return faults as parameters; waiting for those in vain takes seconds, so only two of them run always."""
    quick = (Fault.BUSY, Fault.LOST)
    return [fault if fault in quick else pytest.param(fault, marks=pytest.mark.faults) for fault in faults]


PASSING = _of(Fault.BUSY, Fault.BROKEN, Fault.LOST, Fault.SILENT, Fault.SLOW)
LASTING = _of(Fault.BUSY, Fault.BROKEN, Fault.LOST, Fault.SILENT)
# Done before the answer was lost.
DONE = (Fault.LOST, Fault.SILENT)


@pytest.fixture
def between(s3_server: str, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Road]:
    """The road to the S3 server that everything takes from here on."""
    config = {"read_timeout": 1, "retries": {"mode": "standard", "total_max_attempts": 2}}
    monkeypatch.setitem(blobs.S3, "config_kwargs", config)
    with road(s3_server) as (opened, address):
        s3.lead_to(address, monkeypatch)
        yield opened


@pytest.fixture
def storage(between: Road, url: str) -> blobs.Blobs:
    return blobs.Blobs(url)


@pytest.mark.parametrize("fault", PASSING)
def test_a_put_that_fails_for_a_moment_is_tried_again(hand: Hand, url: str, between: Road, fault: Fault) -> None:
    between.next(fault, method="PUT")
    hand.embed(numbered(6))
    assert between.happened == {fault: 1}
    hand.check()
    assert there(url) == named(hand)
    settle(hand, url)


def test_a_storage_that_does_not_answer_is_not_ready_soon(
    hand: Hand, storage: blobs.Blobs, between: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hand.database.blobs is storage
    storage.try_out()
    monkeypatch.setattr(blobs, "TRY_S", 0.5)
    between.always(Fault.SILENT, "PUT")
    began = time.monotonic()
    with pytest.raises(errors.Unavailable, match="storage of blobs failed"):
        storage.try_out()
    # four requests give up after a second each
    assert time.monotonic() - began < 3
    between.clear()
    storage.try_out()


@pytest.mark.parametrize("fault", LASTING)
def test_puts_that_fail_for_long_leave_the_chunk_to_the_next_claimant(
    hand: Hand, url: str, between: Road, fault: Fault
) -> None:
    hand.plan(numbered(6), size=6)
    between.always(fault, "PUT")
    with pytest.raises(errors.Unavailable):
        hand.finish(hand.claim())
    assert between.happened[fault] > 1
    between.clear()
    assert hand.count(tables.Segment) == hand.count(tables.Image) == 0
    hand.sql("UPDATE chunks SET lease_until = 1")
    hand.finish(hand.claim())
    hand.check()
    assert hand.count(tables.Segment) == 1 and hand.collection().image_count == 6
    # what was written for nothing stays for as long as its writer might come back, and then goes
    upkeep.Upkeep(hand.database, hand.storage).run(30)
    assert bool(there(url) - named(hand)) == (fault in DONE)
    settle(hand, url)
    hand.check()


@pytest.mark.parametrize("fault", [*PASSING, *_of(Fault.HALF)])
def test_a_read_that_fails_for_a_moment_is_tried_again(hand: Hand, between: Road, fault: Fault) -> None:
    hand.embed(numbered(6))
    between.next(fault, method="GET")
    hand.check()
    assert between.happened == {fault: 1}


@pytest.mark.parametrize("fault", _of(Fault.BROKEN, Fault.BUSY, Fault.HALF))
def test_reads_that_fail_for_long_say_so(hand: Hand, between: Road, fault: Fault) -> None:
    hand.embed(numbered(6))
    between.always(fault, "GET")
    with pytest.raises(errors.Unavailable, match="storage of blobs failed"):
        hand.check()
    between.clear()
    hand.check()


@pytest.mark.parametrize("fault", LASTING[-2:])
def test_removals_that_fail_are_done_by_a_later_sweep(hand: Hand, url: str, between: Road, fault: Fault) -> None:
    hand.embed(numbered(4))
    hand.embed(numbered(4), contents={key: f"new {key}" for key in numbered(4)})
    pass_hours(hand)
    between.always(fault, "DELETE")
    with pytest.raises(errors.Unavailable):
        upkeep.Upkeep(hand.database, hand.storage).run(30)
    between.clear()
    hand.check()
    settle(hand, url)
    hand.check()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.faults)])
def test_all_of_it_at_random(
    hand: Hand, url: str, storage: blobs.Blobs, between: Road, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Embed, replace, delete, compact and move both ways while one request in six fails somehow."""
    monkeypatch.setattr(relocation, "SLICE_SEGMENTS", 4)
    chance = random.Random(seed)
    kinds = [Fault.BUSY, Fault.BROKEN, Fault.LOST, Fault.HALF]
    between.fate = lambda method: chance.choice(kinds) if chance.random() < 1 / 6 else None
    for turn in range(4):
        # the worst falls into one go now and then; the next one continues
        for _ in range(20):
            try:
                _turn(hand, storage, turn)
                break
            except errors.Unavailable:
                hand.sql("UPDATE chunks SET lease_until = 1 WHERE status = 'claimed'")
    assert between.happened.total() > 3
    between.clear()
    storage.read_only = False
    for claim in hand.claims():
        hand.finish(claim)
    hand.check()
    settle(hand, url)
    hand.check()


def _turn(hand: Hand, storage: blobs.Blobs, turn: int) -> None:
    keys = [f"{turn}-{number}" for number in range(4)]
    if any(key not in hand.contents.get("photos", {}) for key in keys):
        if not (claims := hand.claims()):
            hand.plan(keys, size=2)
            claims = hand.claims()
        for claim in [*claims, *hand.claims()]:
            hand.finish(claim)
    hand.check()
    to = list(Place)[turn % 2]
    storage.read_only = to == Place.DATABASE
    for _ in relocation.move(hand.database, storage, hand.collection().id, to):
        pass
    storage.read_only = False
    upkeep.Upkeep(hand.database, hand.storage).run(30)
