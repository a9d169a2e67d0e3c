"""The webhook sender: it sends webhooks from threads of its own, so that a slow receiver delays nothing else."""

from __future__ import annotations

import threading

import structlog
from sqlalchemy.exc import DBAPIError

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.jobs import callbacks
from imagekin.net import webhooks
from imagekin.settings import Settings

log = structlog.get_logger()

POLL_S = 1.0
HANDS = 8


class WebhookSender:
    """One thread that claims messages and up to `HANDS` threads that send them; idle without a webhook secret."""

    def __init__(self, settings: Settings) -> None:
        self._stopped = threading.Event()
        self._wake = threading.Event()
        self._free = threading.Semaphore(HANDS)
        if not settings.webhook_secret:
            self._stopped.set()
            return
        self._database = Database(settings.database, pool_size=2)
        self._sender = webhooks.Sender(settings)
        self._thread = threading.Thread(target=self._run, name="webhook-sender", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 2) -> None:
        """Claim nothing more and wait a moment for messages being sent; unrecorded ones are sent again by others."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                if self._send_some():
                    continue
            except DBAPIError as error:
                log.warning("webhook_sender_failed", error=str(error.orig))
            except Exception:
                # without this thread no message would be sent any more
                log.exception("webhook_sender_broken")
            self._wake.wait(POLL_S)
        for _ in range(HANDS):
            self._free.acquire(timeout=1)
        self._sender.close()
        self._database.dispose()

    def _send_some(self) -> bool:
        """Claim one message for each free thread; return whether there were any."""
        hands = 0
        while hands < HANDS and self._free.acquire(blocking=False):
            hands += 1
        errands: list[callbacks.Errand] = []
        try:
            if hands and self._database.read(callbacks.due):
                errands = self._database.write(callbacks.claim, tables.new_id(), hands)
        finally:
            for _ in range(hands - len(errands)):
                self._free.release()
        for errand in errands:
            threading.Thread(target=self._deliver, args=(errand,), name="delivery", daemon=True).start()
        return bool(errands)

    def _deliver(self, errand: callbacks.Errand) -> None:
        try:
            self._note(errand, *self._send(errand))
        finally:
            self._free.release()
            self._wake.set()

    def _send(self, errand: callbacks.Errand) -> tuple[int | None, str | None]:
        try:
            status_code = self._sender.send(errand.url, errand.message_id, errand.body, errand.sent_at)
        except webhooks.SendFailed as error:
            return None, error.detail
        except Exception:
            log.exception("webhook_broken", job_id=errand.job_id)
            return None, webhooks.SendFailed().detail
        return status_code, webhooks.verdict(status_code)

    def _note(self, errand: callbacks.Errand, status_code: int | None, error: str | None) -> None:
        try:
            status = self._database.write(callbacks.note, errand, status_code, error)
        except DBAPIError as failure:
            log.warning("webhook_sender_failed", error=str(failure.orig), job_id=errand.job_id)
            return
        # not the address: it may hold a secret of the receiver's
        log.info("webhook_sent", job_id=errand.job_id, status_code=status_code, error=error, delivery=status)
