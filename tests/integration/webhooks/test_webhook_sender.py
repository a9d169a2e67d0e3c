"""The webhook sender: webhooks signed and sent at least once, whatever breaks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from standardwebhooks import Webhook, WebhookVerificationError

from imagekin.database import sql, tables
from imagekin.database.engine import Database
from imagekin.jobs import callbacks, view
from imagekin.jobs.callbacks import DELAYS_S, DeliveryStatus
from imagekin.net import webhooks
from imagekin.settings import Settings
from imagekin.stack.environment import child_environment
from kit.hand import Hand
from kit.outbox import ended, pass_time, row, wait_for
from kit.receiving import SECRET, Receiver, answer, drip, receiver

ROOT = Path(__file__).parents[3]
NEW = "whsec_" + "N" * 32
ONE = pytest.mark.parametrize("engine", ["sqlite"])


def test_a_message_arrives_signed(hand: Hand, database: Database, there: Receiver, webhook_sender: Any) -> None:
    webhook_sender()
    job_id = ended(hand, f"{there.url}/hook?token=a%20b")
    (message,) = there.wait(1)
    found = wait_for(database, job_id, attempts=1)
    assert message.path == "/hook?token=a%20b"
    assert message.headers["content-type"] == "application/json"
    assert message.headers["host"] == there.url.removeprefix("http://")
    said = message.verified()
    assert said.keys() == {"type", "timestamp", "data"}
    assert said["type"] == "job.cancelled"
    job = database.read(lambda session: view.view(session, session.get_one(tables.Job, job_id)))
    assert said["data"] == job.model_dump(mode="json")
    assert said["timestamp"] == said["data"]["finished_at"]
    assert found.status == DeliveryStatus.DELIVERED
    assert [(each["status_code"], each["error"]) for each in found.attempts] == [(204, None)]


def test_a_receiver_that_was_down_hears_of_it_when_it_is_up(
    hand: Hand, database: Database, webhook_sender: Any
) -> None:
    with receiver() as gone:
        url = gone.url
    webhook_sender()
    job_id = ended(hand, url)
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
    hand: Hand, database: Database, there: Receiver, webhook_sender: Any
) -> None:
    webhook_sender()
    there.behave[""] = answer(500)
    job_id = ended(hand, there.url)
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
def test_who_says_gone_is_left_alone(hand: Hand, database: Database, there: Receiver, webhook_sender: Any) -> None:
    webhook_sender()
    there.behave[""] = answer(410)
    found = wait_for(database, ended(hand, there.url), attempts=1)
    assert found.status == DeliveryStatus.GIVEN_UP


@ONE
@pytest.mark.parametrize("slow", ["hang", "drip"])
def test_a_slow_receiver_is_given_up_on_and_holds_up_nobody(
    hand: Hand,
    database: Database,
    there: Receiver,
    webhook_sender: Any,
    monkeypatch: pytest.MonkeyPatch,
    slow: str,
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 3.0)
    released = threading.Event()
    there.behave["/slow"] = drip if slow == "drip" else lambda _: released.wait(30) and None
    try:
        late = [ended(hand, f"{there.url}/slow") for _ in range(10)]
        webhook_sender()
        there.wait(callbacks.MOST_PER_OWNER)
        quick = ended(hand.of("bob"), f"{there.url}/quick")
        assert wait_for(database, quick, attempts=1).status == DeliveryStatus.DELIVERED
        assert not any(found.attempts for each in late if (found := row(database, each)))
        (error,) = {each["error"] for each in wait_for(database, late[0], attempts=1).attempts}
        assert error == "The receiver took too long to answer."
    finally:
        released.set()


@ONE
def test_nothing_is_sent_into_the_own_network(
    hand: Hand, database: Database, there: Receiver, webhook_sender: Any
) -> None:
    webhook_sender(fetch_allow=())
    port = there.url.rpartition(":")[2]
    hosts = ("127.0.0.1", "localhost", "169.254.169.254", "[::1]", "10.0.0.1")
    for job_id in [ended(hand, f"http://{host}:{port}") for host in hosts]:
        found = wait_for(database, job_id, attempts=1)
        assert found.attempts[0]["error"].endswith("is not on the public internet.")
    assert there.messages == []


@ONE
def test_without_a_secret_nothing_is_sent(hand: Hand, database: Database, there: Receiver, webhook_sender: Any) -> None:
    unsigned = webhook_sender(webhook_secret="")
    ended(hand, there.url)
    assert database.read(callbacks.due)
    assert not any(thread.name == "webhook-sender" for thread in threading.enumerate())
    unsigned.stop()


@ONE
def test_while_the_secret_changes_receivers_take_messages_with_either(
    hand: Hand, database: Database, there: Receiver, webhook_sender: Any
) -> None:
    old, new, other = (f"whsec_{letter * 32}" for letter in "ABC")
    webhook_sender(webhook_secret=new, webhook_previous_secret=old)
    job_id = ended(hand, there.url)
    wait_for(database, job_id, attempts=1)
    (message,) = there.messages
    for secret in (old, new):
        assert Webhook(secret).verify(message.body, message.headers)["data"]["id"] == job_id
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(message.body, message.headers)


def test_a_sender_killed_between_sending_and_noting_sends_the_same_again(
    hand: Hand, database: Database, there: Receiver, settings: Settings, webhook_sender: Any
) -> None:
    program = "import threading; from imagekin.settings import Settings; "
    program += "from imagekin_worker.process.webhook_sender import WebhookSender; "
    program += "WebhookSender(Settings()); threading.Event().wait()"
    with subprocess.Popen([sys.executable, "-c", program], env=child_environment(settings)) as process:

        def kill(_handler: Any) -> None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()

        there.behave[""] = kill
        job_id = ended(hand, there.url)
        try:
            assert process.wait(60) == -signal.SIGKILL
        finally:
            process.kill()
    found = row(database, job_id)
    assert found is not None
    assert (found.status, found.attempts) == (DeliveryStatus.PENDING, [])
    there.behave[""] = answer(204)
    webhook_sender()
    pass_time(database, callbacks.LEASE_S + 1)
    assert wait_for(database, job_id, attempts=1).status == DeliveryStatus.DELIVERED
    assert [message.id for message in there.messages] == [f"msg_{job_id}"] * 2
    assert len({message.body for message in there.messages}) == 1


@ONE
def test_the_workers_wrong_clock_does_not_date_messages(
    hand: Hand, database: Database, there: Receiver, webhook_sender: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda real=time.time: real() - 3600)
    webhook_sender()
    job_id = ended(hand, there.url)
    wait_for(database, job_id, attempts=1)
    clock = database.read(lambda session: session.scalars(sa.select(sql.clock())).one())
    assert abs(clock - int(there.messages[0].headers["webhook-timestamp"])) < 30


@ONE
def test_the_example_takes_what_is_genuine_once(
    hand: Hand, database: Database, settings: Settings, webhook_sender: Any
) -> None:
    command = [sys.executable, str(ROOT / "examples" / "webhook_receiver.py"), "--port", "0"]
    env = {**os.environ, "IMAGEKIN_WEBHOOK_SECRET": SECRET}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found
            url = found[0]
            webhook_sender()
            job_id = ended(hand, url)
            assert wait_for(database, job_id, attempts=1).status == DeliveryStatus.DELIVERED
            clock = database.read(lambda session: session.scalars(sa.select(sql.clock())).one())
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
