"""What a worker's parent process does besides Celery: blame for dead children, presence, the sweep."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

import structlog
from billiard import active_children  # pyright: ignore[reportAttributeAccessIssue] - made at import
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.signals import task_failure, worker_ready, worker_shutdown, worker_shutting_down
from sqlalchemy.exc import DBAPIError

from imagekin import doorbell, errors, presence
from imagekin.database.engine import Database
from imagekin.enums import Lane
from imagekin.jobs import blame
from imagekin.maintenance import index_renewal, sweep
from imagekin.maintenance.upkeep import Upkeep
from imagekin.settings import Settings
from imagekin.store.blobs import Blobs
from imagekin.telemetry import metrics
from imagekin.uploads.files import Storage
from imagekin_worker.matrix import file_cache, index_rows
from imagekin_worker.matrix.file_cache import MatrixCache
from imagekin_worker.process import LANE_VARIABLE
from imagekin_worker.process.tasks import LEAVE_SIGNAL
from imagekin_worker.process.webhook_sender import WebhookSender

log = structlog.get_logger()

SWEEP_LOCK = "sweep"
# How often files of matrices are looked through that nobody needs; what is deleted is gone from them that soon.
PRUNE_S = 600.0
# How long one sweep keeps house: less than a heartbeat.
UPKEEP_S = 3.0


class Supervisor:
    """The parent's thread and its connections."""

    def __init__(self, settings: Settings, lane: Lane) -> None:
        self._settings = settings
        self.database = Database(settings.database, pool_size=2, blobs=Blobs.of(settings))
        self._storage = Storage(settings)
        self._upkeep = Upkeep(self.database, self._storage)
        self._doorbell = doorbell.Doorbell(settings)
        self._lane = lane
        self._webhook_sender = WebhookSender(settings)
        self._name = presence.name(lane, os.getpid())
        self._matrices = MatrixCache.of(settings)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def child_died(self, task_id: str, reason: str) -> None:
        """Blame the chunks that the dead child had claimed, and ring for them."""
        metrics.WORK.child_deaths.inc()
        blamed = self.database.write(blame.died, f"{task_id}/", reason, self._settings)
        log.warning("child_died", task_id=task_id, reason=reason, chunks=blamed)
        self._doorbell.ring(self._lane)

    def stop(self) -> None:
        """Ask the thread to sign off and end; does not wait, since it is called in a signal handler."""
        self._stopped.set()

    def join(self, timeout_s: float = 5) -> None:
        """Wait for the thread's end."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        self._supervise()
        try:
            self.database.write(presence.vanish, self._name)
        except DBAPIError as error:
            log.warning("presence_left", error=str(error.orig))
        self._webhook_sender.stop()
        self._doorbell.close()
        self.database.dispose()

    def _supervise(self) -> None:
        beat_at = sweep_at = prune_at = time.monotonic()
        while not self._stopped.wait(max(0.05, min(beat_at, sweep_at) - time.monotonic())):
            try:
                if time.monotonic() >= beat_at:
                    beat_at = time.monotonic() + presence.HEARTBEAT_S
                    self.database.write(presence.refresh, self._name)
                if time.monotonic() >= sweep_at:
                    sweep_at = time.monotonic() + self._settings.sweep_s
                    self._sweep()
                if time.monotonic() >= prune_at:
                    prune_at = time.monotonic() + PRUNE_S
                    self._matrices.prune(lambda ids: self.database.read(file_cache.living, ids))
            except DBAPIError as error:
                log.warning("sweep_failed", error=str(error.orig))
            except errors.Unavailable as error:
                log.warning("sweep_failed", error=error.detail)
            except OSError as error:
                log.warning("sweep_failed", error=str(error))
            except Exception:
                # what one row does to the sweep must not end the others, nor the presence
                log.exception("sweep_broken")

    def _sweep(self) -> None:
        if not self.database.write(sweep.hold, SWEEP_LOCK, self._name, 2 * self._settings.sweep_s):
            return
        swept = self.database.write(sweep.sweep, self._settings)
        # work waits for a ring, files for nothing
        for lane, count in swept.lanes.items():
            self._doorbell.ring(lane, count)
        for path in swept.paths:
            self._storage.delete(path)
        if swept.released or swept.expired_jobs or swept.paths:
            log.info("swept", released=swept.released, expired_jobs=swept.expired_jobs, uploads=len(swept.paths))
        if done := self._upkeep.run(UPKEEP_S):
            log.info("kept_house", **done)
        if renewed := self.database.write(index_renewal.renew, self._settings):
            log.info("indexes_renewed", jobs=renewed)
            self._doorbell.ring(Lane.BULK, renewed)
        if steps := index_rows.catch_up_all(self.database, UPKEEP_S):
            log.info("indexes_caught_up", steps=steps)


_supervisor: Supervisor | None = None


@worker_ready.connect
def start(**_: object) -> None:
    """Start supervising once the consumer runs; in the parent only."""
    global _supervisor  # noqa: PLW0603 - a worker has one, and Celery's signals carry no other place
    _supervisor = Supervisor(Settings(), Lane(os.environ[LANE_VARIABLE]))


@worker_shutting_down.connect
def stop(**_: object) -> None:
    """Stop supervising, and tell the children, before they are waited for."""
    if _supervisor is not None:
        _supervisor.stop()
    for child in active_children():
        with suppress(ProcessLookupError):
            os.kill(child.pid, LEAVE_SIGNAL)


@worker_shutdown.connect
def finish(**_: object) -> None:
    """Let the supervisor sign off."""
    if _supervisor is not None:
        _supervisor.join()


@task_failure.connect
def hear_death(task_id: str | None = None, exception: BaseException | None = None, **_: object) -> None:
    """Note that a child has ended, or was killed for taking too long."""
    if _supervisor is not None and task_id and isinstance(exception, WorkerLostError | TimeLimitExceeded):
        _supervisor.child_died(task_id, str(exception) or type(exception).__name__)
