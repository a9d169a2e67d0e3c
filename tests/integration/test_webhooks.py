"""Webhooks: written with a job's end, signed, sent at least once, whatever breaks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from archive import Archive
from standardwebhooks import Webhook, WebhookVerificationError

from imagekin import collections, db, jobs, models, webhooks
from imagekin.config import Settings
from imagekin.db import Database
from imagekin.jobs import deliveries
from imagekin.jobs.deliveries import DELAYS_S, DeliveryStatus, Errand
from imagekin.stack.environment import child_environment
from imagekin.types import JobKind
from imagekin_worker.courier import HANDS, Courier
from receiving import SECRET, Receiver, answer, drip, receiver

ROOT = Path(__file__).parents[2]
NEW = "whsec_" + "N" * 32
ONE = pytest.mark.parametrize("engine", ["sqlite"])


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_secret": SECRET, "fetch_allow": ("127.0.0.1",)})


@pytest.fixture
def archive(database: Database, settings: Settings) -> Archive:
    return Archive(database, settings)


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as received:
        yield received


@pytest.fixture
def courier(settings: Settings) -> Iterator[Callable[..., Courier]]:
    """Start couriers; they stop with the test."""
    started = []

    def start(**changes: Any) -> Courier:
        started.append(Courier(settings.model_copy(update=changes)))
        return started[-1]

    yield start
    for each in started:
        each.stop(timeout_s=30)


def ended(archive: Archive, url: str | None) -> str:
    """Return the id of a job that was cancelled."""
    job = archive.submit(kind=JobKind.SEARCH, callback_url=url)
    archive.database.write(jobs.cancel, archive.owner, job.id)
    return job.id


def row(database: Database, job_id: str) -> models.Delivery | None:
    return database.read(lambda session: session.get(models.Delivery, job_id))


def wait_for(database: Database, job_id: str, *, attempts: int, timeout_s: float = 20) -> models.Delivery:
    deadline = time.monotonic() + timeout_s
    while (found := row(database, job_id)) is None or len(found.attempts) < attempts:
        assert time.monotonic() < deadline, found and found.attempts
        time.sleep(0.02)
    return found


def pass_time(database: Database, seconds: float) -> None:
    """Let the deliveries be as they would be later."""
    Delivery = models.Delivery
    later = {"next_at": Delivery.next_at - seconds, "lease_until": Delivery.lease_until - seconds}
    database.write(lambda session: session.execute(sa.update(Delivery).values(**later)))


def claim(database: Database, most: int = 1) -> list[Errand]:
    return database.write(deliveries.claim, models.new_id(), most)


# --- what is written -------------------------------------------------------------------------------------------


def test_every_end_of_a_job_with_a_callback_brings_one_delivery(archive: Archive, database: Database) -> None:
    url = "https://example.org/hook"
    ids = {
        "succeeded": archive.embed(["a"], callback_url=url).id,
        "partial": archive.embed(["b", "c"], broken=["c"], callback_url=url).id,
        "failed": archive.embed(["d"], broken=["d"], callback_url=url).id,
        "cancelled": ended(archive, url),
    }
    gone = archive.submit("other", callback_url=url)
    database.write(collections.delete, archive.owner, "other")
    messages = {errand.job_id: errand.body for errand in claim(database, 3) + claim(database, 3)}
    assert len(messages) == 3, "no more of one owner's at once"
    pass_time(database, 61)
    database.write(lambda session: session.execute(sa.update(models.Delivery).values(owner=models.Delivery.job_id)))
    found = {errand.job_id: errand for errand in claim(database, 10)}
    assert found.keys() == {*ids.values(), gone.id}
    for status, job_id in ids.items():
        assert f'"type":"job.{status}"' in found[job_id].body
        assert found[job_id].url == url
    assert '"code":"collection_deleted"' in found[gone.id].body
    assert messages.items() <= {(job_id, errand.body) for job_id, errand in found.items()}


def test_no_delivery_without_a_callback_or_without_an_end(archive: Archive, database: Database) -> None:
    assert row(database, ended(archive, None)) is None
    job = archive.submit(callback_url="https://example.org")
    assert row(database, job.id) is None

    def broken(session: Any) -> None:
        jobs.cancel(session, archive.owner, job.id)
        raise KeyError

    with pytest.raises(KeyError):
        database.write(broken)
    assert row(database, job.id) is None


def test_a_retried_job_calls_back_as_its_parent_did(archive: Archive, database: Database) -> None:
    parent = ended(archive, "https://example.org/parent")
    child, _ = database.write(jobs.retry, archive.owner, parent, "all", archive.settings)
    assert child.callback_url == "https://example.org/parent"
    other = "https://example.org/child"
    child, _ = database.write(jobs.retry, archive.owner, parent, "all", archive.settings, callback_url=other)
    assert child.callback_url == other


def test_a_deleted_jobs_delivery_goes_with_it(archive: Archive, database: Database) -> None:
    job_id = ended(archive, "https://example.org")
    (errand,) = claim(database)
    database.write(jobs.delete, archive.owner, job_id)
    assert row(database, job_id) is None
    assert database.write(deliveries.note, errand, 204, None) is None


# --- when it is sent -------------------------------------------------------------------------------------------


def test_attempts_back_off_for_about_a_day_and_end(archive: Archive, database: Database) -> None:
    job_id = ended(archive, "https://example.org")
    passed = 0.0
    for delay_s in DELAYS_S:
        (errand,) = claim(database)
        assert database.write(deliveries.note, errand, 500, "The receiver answered 500.") == DeliveryStatus.PENDING
        pass_time(database, 0.9 * delay_s)
        assert not database.read(deliveries.due), "too early"
        pass_time(database, 0.2 * delay_s)
        passed += delay_s
    (errand,) = claim(database)
    assert database.write(deliveries.note, errand, None, "Gone.") == DeliveryStatus.GIVEN_UP
    assert 23 * 3600 < passed < 25 * 3600
    pass_time(database, 10 * 24 * 3600)
    assert not database.read(deliveries.due)
    log = database.read(lambda session: deliveries.attempts(session, session.get_one(models.Job, job_id)))
    assert log is not None
    assert [each.status_code for each in log] == [500] * len(DELAYS_S) + [None]


def test_who_is_late_notes_nothing(archive: Archive, database: Database) -> None:
    job_id = ended(archive, "https://example.org")
    (first,) = claim(database)
    assert claim(database) == []
    pass_time(database, deliveries.LEASE_S + 1)
    (second,) = claim(database)
    assert second.message_id == first.message_id
    assert database.write(deliveries.note, first, 500, "late") is None
    assert database.write(deliveries.note, second, 204, None) == DeliveryStatus.DELIVERED
    found = row(database, job_id)
    assert found is not None
    assert [each["status_code"] for each in found.attempts] == [204]


def test_no_owner_takes_all_hands(archive: Archive, database: Database) -> None:
    for _ in range(20):
        ended(archive, "https://example.org/slow")
    other = Archive(database, archive.settings, owner="bob")
    quick = ended(other, "https://example.org/quick")
    errands = claim(database, HANDS)
    assert len(errands) == deliveries.MOST_PER_OWNER + 1
    assert quick in {errand.job_id for errand in errands}
    assert claim(database, HANDS) == []


def test_many_who_claim_at_once_share(archive: Archive, database: Database) -> None:
    ids = {
        ended(Archive(database, archive.settings, owner=f"owner{number}"), "https://example.org")
        for number in range(12)
    }
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


# --- how it is sent --------------------------------------------------------------------------------------------


def test_a_message_arrives_signed(archive: Archive, database: Database, there: Receiver, courier: Any) -> None:
    courier()
    job_id = ended(archive, f"{there.url}/hook?token=a%20b")
    (message,) = there.wait(1)
    found = wait_for(database, job_id, attempts=1)
    assert message.path == "/hook?token=a%20b"
    assert message.headers["content-type"] == "application/json"
    assert message.headers["host"] == there.url.removeprefix("http://")
    said = message.verified()
    assert said.keys() == {"type", "timestamp", "data"}
    assert said["type"] == "job.cancelled"
    job = database.read(lambda session: jobs.view(session, session.get_one(models.Job, job_id)))
    assert said["data"] == job.model_dump(mode="json")
    assert said["timestamp"] == said["data"]["finished_at"]
    assert found.status == DeliveryStatus.DELIVERED
    assert [(each["status_code"], each["error"]) for each in found.attempts] == [(204, None)]


def test_a_receiver_that_was_down_hears_of_it_when_it_is_up(archive: Archive, database: Database, courier: Any) -> None:
    with receiver() as gone:
        url = gone.url
    courier()
    job_id = ended(archive, url)
    found = wait_for(database, job_id, attempts=1)
    assert found.attempts[0]["status_code"] is None
    assert found.attempts[0]["error"] == "The receiver could not be reached."
    with receiver(int(url.rpartition(":")[2])) as back:
        pass_time(database, 2 * DELAYS_S[0])
        (message,) = back.wait(1)
        found = wait_for(database, job_id, attempts=2)
    assert found.status == DeliveryStatus.DELIVERED
    assert message.id == f"msg_{job_id}"


@ONE
def test_errors_of_the_receiver_are_tried_again_under_one_id(
    archive: Archive, database: Database, there: Receiver, courier: Any
) -> None:
    courier()
    there.behave[""] = answer(500)
    job_id = ended(archive, there.url)
    found = wait_for(database, job_id, attempts=1)
    assert "500" in found.attempts[0]["error"]
    there.behave[""] = answer(302, Location=f"{there.url}/elsewhere")
    pass_time(database, 2 * DELAYS_S[0])
    assert "redirects are not followed" in wait_for(database, job_id, attempts=2).attempts[1]["error"]
    there.behave[""] = answer(200)
    pass_time(database, 2 * DELAYS_S[1])
    assert wait_for(database, job_id, attempts=3).status == DeliveryStatus.DELIVERED
    assert {message.path for message in there.messages} == {"/"}
    assert len({(message.id, message.body) for message in there.messages}) == 1
    assert [message.verified()["type"] for message in there.messages] == ["job.cancelled"] * 3


@ONE
def test_who_says_gone_is_left_alone(archive: Archive, database: Database, there: Receiver, courier: Any) -> None:
    courier()
    there.behave[""] = answer(410)
    found = wait_for(database, ended(archive, there.url), attempts=1)
    assert found.status == DeliveryStatus.GIVEN_UP


@ONE
@pytest.mark.parametrize("slow", ["hang", "drip"])
def test_a_slow_receiver_is_given_up_on_and_holds_up_nobody(
    archive: Archive, database: Database, there: Receiver, courier: Any, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 3.0)
    released = threading.Event()
    there.behave["/slow"] = drip if slow == "drip" else lambda _: released.wait(30) and None
    try:
        late = [ended(archive, f"{there.url}/slow") for _ in range(10)]
        courier()
        there.wait(deliveries.MOST_PER_OWNER)
        quick = ended(Archive(database, archive.settings, owner="bob"), f"{there.url}/quick")
        assert wait_for(database, quick, attempts=1).status == DeliveryStatus.DELIVERED
        assert not any(found.attempts for each in late if (found := row(database, each)))
        (error,) = {each["error"] for each in wait_for(database, late[0], attempts=1).attempts}
        assert error == "The receiver took too long to answer."
    finally:
        released.set()


@ONE
def test_nothing_is_sent_into_the_own_network(
    archive: Archive, database: Database, there: Receiver, courier: Any
) -> None:
    courier(fetch_allow=())
    port = there.url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "169.254.169.254", "[::1]", "10.0.0.1"):
        found = wait_for(database, ended(archive, f"http://{host}:{port}"), attempts=1)
        assert found.attempts[0]["error"].endswith("is not on the public internet.")
    assert there.messages == []


@ONE
def test_without_a_secret_nothing_is_sent(archive: Archive, database: Database, there: Receiver, courier: Any) -> None:
    unsigned = courier(webhook_secret="")
    ended(archive, there.url)
    assert database.read(deliveries.due)
    assert not any(thread.name == "courier" for thread in threading.enumerate())
    unsigned.stop()


@ONE
def test_while_the_secret_changes_receivers_take_messages_with_either(
    archive: Archive, database: Database, there: Receiver, courier: Any
) -> None:
    old, new, other = (f"whsec_{letter * 32}" for letter in "ABC")
    courier(webhook_secret=new, webhook_previous_secret=old)
    job_id = ended(archive, there.url)
    wait_for(database, job_id, attempts=1)
    (message,) = there.messages
    for secret in (old, new):
        assert Webhook(secret).verify(message.body, message.headers)["data"]["id"] == job_id
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(message.body, message.headers)


def test_a_courier_killed_between_sending_and_noting_sends_the_same_again(
    archive: Archive, database: Database, there: Receiver, settings: Settings, courier: Any
) -> None:
    program = "import threading; from imagekin.config import Settings; from imagekin_worker.courier import Courier; "
    program += "Courier(Settings()); threading.Event().wait()"
    with subprocess.Popen([sys.executable, "-c", program], env=child_environment(settings)) as process:

        def kill(_handler: Any) -> None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()

        there.behave[""] = kill
        job_id = ended(archive, there.url)
        try:
            assert process.wait(60) == -signal.SIGKILL
        finally:
            process.kill()
    found = row(database, job_id)
    assert found is not None
    assert (found.status, found.attempts) == (DeliveryStatus.PENDING, [])
    there.behave[""] = answer(204)
    courier()
    pass_time(database, deliveries.LEASE_S + 1)
    assert wait_for(database, job_id, attempts=1).status == DeliveryStatus.DELIVERED
    assert [message.id for message in there.messages] == [f"msg_{job_id}"] * 2
    assert len({message.body for message in there.messages}) == 1


@ONE
def test_the_workers_wrong_clock_does_not_date_messages(
    archive: Archive, database: Database, there: Receiver, courier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda real=time.time: real() - 3600)
    courier()
    job_id = ended(archive, there.url)
    wait_for(database, job_id, attempts=1)
    clock = database.read(lambda session: session.scalars(sa.select(db.clock())).one())
    assert abs(clock - int(there.messages[0].headers["webhook-timestamp"])) < 30


# --- the example -----------------------------------------------------------------------------------------------


@ONE
def test_the_example_takes_what_is_genuine_once(
    archive: Archive, database: Database, settings: Settings, courier: Any
) -> None:
    command = [sys.executable, str(ROOT / "examples" / "webhook_receiver.py"), "--port", "0"]
    env = {**os.environ, "IMAGEKIN_WEBHOOK_SECRET": SECRET}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found
            url = found[0]
            courier()
            job_id = ended(archive, url)
            assert wait_for(database, job_id, attempts=1).status == DeliveryStatus.DELIVERED
            clock = database.read(lambda session: session.scalars(sa.select(db.clock())).one())
            again = webhooks.Sender(settings)
            body = '{"type":"job.failed"}'
            # an answer 204 to the same id without a look into it: it is known
            assert again.send(url, f"msg_{job_id}", body, clock) == 204
            forged = webhooks.Sender(settings.model_copy(update={"webhook_secret": "whsec_" + "A" * 32}))
            assert forged.send(url, "msg_new", body, clock) == 400
            assert again.send(url, "msg_new", body, clock - 3600) == 400
            # the secret changes: the receiver has the old one, and then the new one
            changed = settings.model_copy(update={"webhook_secret": NEW, "webhook_previous_secret": SECRET})
            assert webhooks.Sender(changed).send(url, f"msg_{job_id}", body, clock) == 204
            assert (
                webhooks.Sender(settings.model_copy(update={"webhook_secret": NEW})).send(url, "m", body, clock) == 400
            )
        finally:
            process.terminate()
        assert process.stdout.read().splitlines() == [f"job.cancelled {job_id}: 0 images, 0 failed"]
