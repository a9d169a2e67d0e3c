"""Webhooks' deliveries: written with a job's end, claimed, tried again, given up."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.jobs import callbacks, end, submit
from imagekin.jobs.callbacks import DELAYS_S, DeliveryStatus
from imagekin.maintenance import collection_deletion
from imagekin_worker.process.webhook_sender import HANDS
from kit.hand import Hand
from kit.outbox import claim, ended, pass_time, row


def test_every_end_of_a_job_with_a_callback_brings_one_delivery(hand: Hand, database: Database) -> None:
    url = "https://example.org/hook"
    ids = {
        "succeeded": hand.embed(["a"], callback_url=url).id,
        "partial": hand.embed(["b", "c"], broken=["c"], callback_url=url).id,
        "failed": hand.embed(["d"], broken=["d"], callback_url=url).id,
        "cancelled": ended(hand, url),
    }
    gone = hand.submit("other", callback_url=url)
    database.write(collection_deletion.delete, hand.owner, "other")
    messages = {errand.job_id: errand.body for errand in claim(database, 3) + claim(database, 3)}
    assert len(messages) == 3, "no more of one owner's at once"
    pass_time(database, 61)
    database.write(lambda session: session.execute(sa.update(tables.Delivery).values(owner=tables.Delivery.job_id)))
    found = {errand.job_id: errand for errand in claim(database, 10)}
    assert found.keys() == {*ids.values(), gone.id}
    for status, job_id in ids.items():
        assert f'"type":"job.{status}"' in found[job_id].body
        assert found[job_id].url == url
    assert '"code":"collection_deleted"' in found[gone.id].body
    assert messages.items() <= {(job_id, errand.body) for job_id, errand in found.items()}


def test_no_delivery_without_a_callback_or_without_an_end(hand: Hand, database: Database) -> None:
    assert row(database, ended(hand, None)) is None
    job = hand.submit(callback_url="https://example.org")
    assert row(database, job.id) is None

    def broken(session: Any) -> None:
        end.cancel(session, hand.owner, job.id)
        raise KeyError

    with pytest.raises(KeyError):
        database.write(broken)
    assert row(database, job.id) is None


def test_a_retried_job_calls_back_as_its_parent_did(hand: Hand, database: Database) -> None:
    parent = ended(hand, "https://example.org/parent")
    child, _ = database.write(submit.retry, hand.owner, parent, "all", hand.settings)
    assert child.callback_url == "https://example.org/parent"
    other = "https://example.org/child"
    child, _ = database.write(submit.retry, hand.owner, parent, "all", hand.settings, callback_url=other)
    assert child.callback_url == other


def test_a_deleted_jobs_delivery_goes_with_it(hand: Hand, database: Database) -> None:
    job_id = ended(hand, "https://example.org")
    (errand,) = claim(database)
    database.write(end.delete, hand.owner, job_id)
    assert row(database, job_id) is None
    assert database.write(callbacks.note, errand, 204, None) is None


def test_attempts_back_off_for_about_a_day_and_end(hand: Hand, database: Database) -> None:
    job_id = ended(hand, "https://example.org")
    passed = 0.0
    for delay_s in DELAYS_S:
        (errand,) = claim(database)
        assert database.write(callbacks.note, errand, 500, "The receiver answered 500.") == DeliveryStatus.PENDING
        pass_time(database, 0.9 * delay_s)
        assert not database.read(callbacks.due), "too early"
        pass_time(database, 0.2 * delay_s)
        passed += delay_s
    (errand,) = claim(database)
    assert database.write(callbacks.note, errand, None, "Gone.") == DeliveryStatus.GIVEN_UP
    assert 23 * 3600 < passed < 25 * 3600
    pass_time(database, 10 * 24 * 3600)
    assert not database.read(callbacks.due)
    log = database.read(lambda session: callbacks.attempts(session, session.get_one(tables.Job, job_id)))
    assert log is not None
    assert [each.status_code for each in log] == [500] * len(DELAYS_S) + [None]


def test_who_is_late_notes_nothing(hand: Hand, database: Database) -> None:
    job_id = ended(hand, "https://example.org")
    (first,) = claim(database)
    assert claim(database) == []
    pass_time(database, callbacks.LEASE_S + 1)
    (second,) = claim(database)
    assert second.message_id == first.message_id
    assert database.write(callbacks.note, first, 500, "late") is None
    assert database.write(callbacks.note, second, 204, None) == DeliveryStatus.DELIVERED
    found = row(database, job_id)
    assert found is not None
    assert [each["status_code"] for each in found.attempts] == [204]


def test_no_owner_takes_all_hands(hand: Hand, database: Database) -> None:
    for _ in range(20):
        ended(hand, "https://example.org/slow")
    other = hand.of("bob")
    quick = ended(other, "https://example.org/quick")
    errands = claim(database, HANDS)
    assert len(errands) == callbacks.MOST_PER_OWNER + 1
    assert quick in {errand.job_id for errand in errands}
    assert claim(database, HANDS) == []


def test_many_who_claim_at_once_share(hand: Hand, database: Database) -> None:
    ids = {ended(hand.of(f"owner{number}"), "https://example.org") for number in range(12)}
    taken: list[str] = []

    def take() -> None:
        while errands := claim(database, 2):
            taken.extend(errand.job_id for errand in errands)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken))
    assert set(taken) | {errand.job_id for errand in claim(database, 12)} == ids
