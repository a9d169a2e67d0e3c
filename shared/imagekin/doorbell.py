"""Redis as the doorbell: a message says that there may be work, and nothing more.

SQL has what the work is, its claimant and whether it is done, so a lost message costs a sweep, not a job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

import structlog
from celery import Celery
from celery.loaders.app import AppLoader
from kombu.entity import Queue

from imagekin.enums import Lane
from imagekin.settings import Settings

log = structlog.get_logger()

RING = "imagekin.ring"
PUBLISH_TIMEOUT_S = 0.5
LONGEST_PAUSE_S = 5.0


class Loader(AppLoader):
    """Celery's loader, but that it never puts the working folder on the path of modules: others' files lie there."""

    def import_from_cwd(self, module: str, imp: Callable[..., Any] | None = None, package: str | None = None) -> Any:
        """Import a module from where all others are."""
        return (imp or import_module)(module, package)


def broker_url(redis_url: str) -> str:
    """Return the address as kombu writes it: it says `redis+socket` where redis-py says `unix`."""
    if redis_url.startswith("unix://"):
        path, _, query = redis_url.removeprefix("unix://").partition("?")
        return f"redis+socket://{path}?virtual_host={_database(query)}"
    return redis_url


def _database(query: str) -> str:
    pairs = dict(part.split("=", 1) for part in query.split("&") if "=" in part)
    return pairs.get("db", "0")


def celery_app(settings: Settings) -> Celery:
    """Return the Celery app that API and workers share.

    Each setting has its reason beside it; those not given are Celery's own.
    """
    app = Celery("imagekin", broker=broker_url(settings.redis_url), set_as_current=False, loader=Loader)
    app.conf.update(worker_conf(settings))
    return app


def worker_conf(settings: Settings) -> dict[str, Any]:
    """Return Celery's configuration."""
    return {
        "task_queues": [Queue(lane.value, routing_key=lane.value) for lane in Lane],
        "task_default_queue": Lane.BULK.value,
        # CUDA refuses to start after fork; a crash costs a child, not the consumer
        "worker_pool": "prefork",
        "worker_pool_start_method": "spawn",
        # with the default 4 s a model that loads longer makes every replacement child be killed, without an end
        "worker_proc_alive_timeout": 120,
        # no hoarding: a ring is taken when there is a hand for it
        "task_acks_late": True,
        "worker_prefetch_multiplier": 1,
        # True would loop forever on a poison task; the database counts the deaths
        "task_reject_on_worker_lost": False,
        # a hung decode; a ring doesn't know what it will claim, so the limits cannot come from the chunk
        "task_soft_time_limit": settings.soft_time_limit_s,
        "task_time_limit": settings.time_limit_s,
        # SQL is the truth; no pickle anywhere
        "task_ignore_result": True,
        "accept_content": ["json"],
        "task_serializer": "json",
        "broker_transport_options": {
            # only a second net, so well above the time limit: an early one runs a ring twice
            "visibility_timeout": max(600, 4 * settings.time_limit_s),
            # half-open connections; the default waits forever
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "queue_order_strategy": "priority",
        },
        # never give up on Redis, also where it answers and refuses: without replicas, read-only, out of memory
        "broker_channel_error_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": True,
    }


class Doorbell:
    """Rings after a commit, from a thread of its own: a ring never blocks and never fails its caller.

    Rings of one lane that wait together are one ring. While Redis is away the thread keeps trying, with pauses; what
    a process that ends could not ring, the sweep will.
    """

    def __init__(self, settings: Settings) -> None:
        # a doorbell that hangs is worse than one that is silent
        app = celery_app(settings)
        limits = {"socket_timeout": PUBLISH_TIMEOUT_S, "socket_connect_timeout": PUBLISH_TIMEOUT_S}
        app.conf.broker_transport_options = {**app.conf.broker_transport_options, **limits}
        self._app = app
        self._waiting: dict[Lane, int] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
        self._thread.start()

    def ring(self, lane: Lane, times: int = 1) -> None:
        """Ring `times` times for the lane: there may be work."""
        with self._changed:
            self._waiting[lane] = max(self._waiting.get(lane, 0), times)
            self._changed.notify()

    def close(self, timeout_s: float = 2.0) -> None:
        """Ring what waits and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        pause_s = 0.05
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    break
                lane, times = self._waiting.popitem()
            try:
                for _ in range(times):
                    self._app.send_task(RING, queue=lane.value, ignore_result=True, retry=False)
                pause_s = 0.05
            except Exception as error:  # noqa: BLE001 - whatever it is: without this thread nothing would ring again
                with self._changed:
                    # by now its owner may have stopped waiting; the sweep rings
                    if self._closed:
                        break
                    log.warning("doorbell_silent", lane=lane.value, error=f"{type(error).__name__}: {error}")
                    self._waiting[lane] = max(self._waiting.get(lane, 0), times)
                    self._changed.wait_for(lambda: self._closed, timeout=pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self._app.close()
