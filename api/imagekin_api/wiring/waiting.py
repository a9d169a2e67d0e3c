"""`Prefer: wait=N`: one thread polls the jobs of all held requests, and only while there are any."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter

import sqlalchemy as sa
import structlog
from sqlalchemy import exc
from sqlalchemy.orm import Session

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import TERMINAL

log = structlog.get_logger()

POLL_S = 0.025
# Who has waited long can wait this part of it longer: forty queries a second took 5 % of a core from the worker.
PATIENCE = 0.05
MOST_POLL_S = 0.25
# after a fault of the database
PAUSE_S = 0.5
MAX_WAIT_S = 60
_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)


def preferred_wait_s(headers: list[str]) -> int | None:
    """Return the seconds that `Prefer` headers ask to wait (RFC 7240), at most MAX_WAIT_S; None if they do not ask."""
    found = _WAIT.search(", ".join(headers))
    return min(int(found[1]), MAX_WAIT_S) if found else None


class Watcher:
    """Holds threads until their jobs are terminal; at most `max_waiting` of them, so that others are still served."""

    def __init__(self, database: Database, *, max_waiting: int, poll_s: float = POLL_S) -> None:
        self._database = database
        self._poll_s = poll_s
        self._seats = threading.BoundedSemaphore(max_waiting)
        self._changed = threading.Condition()
        self._waiting: Counter[str] = Counter()
        self._ended: set[str] = set()
        self._newest = 0.0
        self._thread: threading.Thread | None = None
        self._closing = False

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return self._waiting.total()

    def wait(self, job_id: str, timeout_s: float) -> bool:
        """Hold the caller until the job is terminal or gone, or the time is up; False if all slots are taken."""
        if self._closing or not self._seats.acquire(blocking=False):
            return False
        try:
            with self._changed:
                self._waiting[job_id] += 1
                self._newest = time.monotonic()
                self._ensure_thread()
                self._changed.wait_for(lambda: job_id in self._ended or self._closing, timeout_s)
                self._waiting[job_id] -= 1
                if not self._waiting[job_id]:
                    del self._waiting[job_id]
                    self._ended.discard(job_id)
        finally:
            self._seats.release()
        return True

    def stop_waiting(self) -> None:
        """Release all waiting threads within one poll; takes no lock, so a signal handler may call it."""
        self._closing = True

    def close(self) -> None:
        """Release all waiting threads, and end the polling thread."""
        self._closing = True
        with self._changed:
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="waiting", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while True:
            with self._changed:
                if self._closing or not self._waiting:
                    self._thread = None
                    self._changed.notify_all()
                    return
                ids = [job_id for job_id in self._waiting if job_id not in self._ended]
            pause_s = self._poll_s
            try:
                ended = self._database.read(_ended, ids) if ids else set()
            except exc.SQLAlchemyError as error:
                # those who wait are answered when their time is up, and meet the fault themselves
                log.warning("waiting_failed", error=str(error))
                ended, pause_s = set(), PAUSE_S
            with self._changed:
                self._ended |= ended & self._waiting.keys()
                if ended:
                    self._changed.notify_all()
            self._pause(pause_s)

    def _pause(self, pause_s: float) -> None:
        """Sleep for longer the longer all have waited; a new one is polled soon."""
        began = time.monotonic()
        while True:
            time.sleep(pause_s)
            now = time.monotonic()
            if self._closing or now - began >= min(MOST_POLL_S, PATIENCE * (now - self._newest)):
                return


def _ended(session: Session, ids: list[str]) -> set[str]:
    query = sa.select(tables.Job.id).where(tables.Job.id.in_(ids), tables.Job.status.not_in(TERMINAL))
    return set(ids) - set(session.scalars(query))
