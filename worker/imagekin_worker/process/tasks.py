"""The only task: on a ring, claim the next work, do it, and ring for what is left."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task, shared_task
from celery.signals import worker_process_init, worker_process_shutdown
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from imagekin import doorbell, errors
from imagekin.database import engine
from imagekin.enums import Lane
from imagekin.jobs import blame, claim, end
from imagekin.settings import Settings
from imagekin.telemetry import logs, metrics
from imagekin_worker.context import claim_log
from imagekin_worker.network import allocator
from imagekin_worker.network.models import StillLoading
from imagekin_worker.process import LANE_VARIABLE

if TYPE_CHECKING:
    from imagekin_worker.context.process_state import Node

log = structlog.get_logger()

# The parent sends it at a shutdown; what Celery itself sends to children means something else.
LEAVE_SIGNAL = signal.SIGUSR2
# Half of the grace that the embedded stack gives.
PATIENCE_S = 4.0

_node: Node | None = None


@worker_process_init.connect
def start(**_: object) -> None:
    """Build the process's node and load its models, before it takes work."""
    global _node  # noqa: PLW0603 - a worker process has one, and Celery gives its tasks no other place
    # before torch's threads are there
    allocator.keep_memory()
    # torch comes with these: in children only, and all of it now, so that a broken installation shows at the start
    from imagekin import presence
    from imagekin_worker.context.process_state import Node
    from imagekin_worker.process import dispatch  # noqa: F401 - see above

    settings = Settings()
    logs.configure(settings)
    _node = Node(settings, Lane(os.environ[LANE_VARIABLE]))
    signal.signal(LEAVE_SIGNAL, leave)
    try:
        engine.wait_until_migrated(_node.database, settings.wait_for_database_s)
    except errors.NotReady as error:
        # Celery would log an exception and give this process work; another one is started in its place
        log.error("process_not_started", reason=error.detail)
        os._exit(1)
    _node.warm()
    _node.database.write(presence.appear, presence.name(_node.lane, os.getppid()), _node.lane, str(_node.device))
    # whatever was asked for while nobody was here
    _node.doorbell.ring(_node.lane)


def leave(*_: object) -> None:
    """Hand back the current claims, unless they finish soon: a chunk takes a second or two."""
    if _node is not None:
        timer = threading.Timer(PATIENCE_S, _node.leaving.set)
        timer.daemon = True
        timer.start()


@worker_process_shutdown.connect
def stop(**_: object) -> None:
    """Close the connections."""
    if _node is not None:
        _node.close()


@shared_task(name=doorbell.RING, bind=True)
def ring(self: Task) -> None:
    """Answer a ring: do at most one claim."""
    assert _node is not None
    node = _node
    # a message may be delivered twice, so its id alone would not tell two claims apart
    claimed_by = f"{self.request.id}/{node.name}/{uuid4().hex[:8]}"
    try:
        claims = node.claim(claimed_by)
        metrics.WORK.rings.labels("work" if claims else "nothing").inc()
        if not claims:
            return
        with structlog.contextvars.bound_contextvars(**claim_log.context(claims)):
            work(node, claims)
    except DBAPIError as error:
        # not the chunk's fault: its lease runs out, and the sweep rings again
        log.error("database_lost", error=str(error.orig))
        return
    node.doorbell.ring(node.lane)


def work(node: Node, claims: Sequence[claim.Claim]) -> None:
    """Do the claimed chunks; failures are recorded in their jobs."""
    from imagekin_worker.process import dispatch

    report = claim_log.Report(claims)
    lease = node.lease(claims)
    try:
        with lease:
            dispatch.do(node, claims, lease)
        report.end("done")
    except StillLoading as network:
        # what is warm may go first
        node.database.write(claim.release, lease.claims)
        report.end("loading")
        log.info("waits_for_network", backbone=str(network), **claim_log.about(claims))
    except errors.LeaseLost:
        report.end("lost")
        log.info("claim_lost", **claim_log.about(claims))
    except errors.Unavailable as error:
        # not the chunk's fault, however long it lasts: its lease runs out, and the sweep rings again
        node.database.write(claim.excuse, lease.claims)
        report.end("unavailable")
        log.error("storage_lost", error=error.detail, **claim_log.about(claims))
    except errors.ImagekinError as error:
        report.end("failed")
        log.warning("job_failed", code=error.code, detail=error.detail, **claim_log.about(claims))
        for job_id in {claim.job_id for claim in claims}:
            node.database.write(end.fail, job_id, error.code, error.detail)
    except SoftTimeLimitExceeded:
        report.end("timeout")
        log.error("time_limit", seconds=node.settings.soft_time_limit_s, **claim_log.about(claims))
        _blame(node, claims, f"it took longer than {node.settings.soft_time_limit_s:g} s")
        # a thread that hangs in a decoder cannot be ended any other way
        os._exit(1)
    except Exception as error:
        # what the database refuses, it will refuse again; otherwise it is away, and the chunk not at fault
        if isinstance(error, DBAPIError) and not isinstance(error, DataError | IntegrityError):
            report.end("unavailable")
            raise
        report.end("broken")
        log.exception("chunk_failed", **claim_log.about(claims))
        _blame(node, claims, f"{type(error).__name__}: {error}"[:200])
    if node.leaving.is_set():
        log.info("handed_back", chunks=node.database.write(claim.release, lease.claims))


def _blame(node: Node, claims: Sequence[claim.Claim], reason: str) -> None:
    node.database.write(blame.died, claims[0].claimed_by, reason, node.settings)
