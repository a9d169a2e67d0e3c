"""What every request works with: built once in each process, found through the running app."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import cast

import flask

from imagekin.database.engine import Database
from imagekin.doorbell import Doorbell
from imagekin.settings import Settings
from imagekin.store.blobs import Blobs
from imagekin.uploads.files import Storage
from imagekin_api.wiring.rates import Rates
from imagekin_api.wiring.waiting import Watcher

EXTENSION = "imagekin"


@dataclass(frozen=True)
class Service:
    """The parts of a process: settings, database, storage, doorbell, held answers, rates, slots for exports.

    An export holds a connection to the database for as long as its client reads.
    """

    settings: Settings
    database: Database
    storage: Storage
    doorbell: Doorbell
    watcher: Watcher
    rates: Rates | None
    exports: threading.BoundedSemaphore

    @classmethod
    def open(cls, settings: Settings) -> Service:
        """Open what the settings name; it does not connect yet."""
        database = Database(settings.database, pool_size=settings.api_threads, blobs=Blobs.of(settings))
        watcher = Watcher(database, max_waiting=settings.api_threads // 2)
        exports = threading.BoundedSemaphore(settings.api_threads // 2)
        return cls(settings, database, Storage(settings), Doorbell(settings), watcher, Rates.of(settings), exports)

    def close(self) -> None:
        """Answer all held requests, and close the connections."""
        self.watcher.close()
        self.doorbell.close()
        self.database.dispose()


def current() -> Service:
    """Return the service of the app that answers this request."""
    return cast(Service, flask.current_app.extensions[EXTENSION])


def owner() -> str:
    """Return the owner that this request was authenticated as."""
    return cast(str, flask.g.owner)
