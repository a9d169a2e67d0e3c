"""The networks that a process keeps warm, within a budget; a load is waited for in parts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from imagekin.catalog import Space
from imagekin.settings import Settings

if TYPE_CHECKING:
    # torch comes with it, and who catches StillLoading has none
    from imagekin_worker.network.backbones import Backbone


class StillLoading(Exception):
    """A backbone is being loaded and takes longer than its caller waits; it will be there later."""


class Models:
    """The warm backbones by space, at most `model_memory_bytes`; the least recently used are dropped first."""

    def __init__(self, settings: Settings, loader: Callable[[Space, Settings], Backbone]) -> None:
        self._settings = settings
        self._loader = loader
        self._warm: OrderedDict[str, Backbone] = OrderedDict()
        self._coming: dict[str, Future[Backbone]] = {}
        # a thread of its own, which no task's time limit ends; one, since a load has all cores
        self._thread = ThreadPoolExecutor(1, "load")
        self._lock = threading.Lock()

    def get(self, space: Space, within_s: float | None = None) -> Backbone:
        """Return the backbone of a space, and load it if it is not warm.

        Raises StillLoading if that takes longer than `within_s`, and WeightsUnavailable.
        """
        key = space.fingerprint
        with self._lock:
            if key in self._warm:
                self._warm.move_to_end(key)
                return self._warm[key]
            coming = self._coming.get(key)
            if coming is None:
                coming = self._coming[key] = self._thread.submit(self._loader, space, self._settings)
        try:
            backbone = coming.result(within_s)
        except TimeoutError:
            # the loader's own look the same
            if not coming.done():
                raise StillLoading(space.backbone) from None
            self._forget(key, coming)
            raise
        except BaseException:
            self._forget(key, coming)
            raise
        with self._lock:
            self._forget(key, coming)
            self._warm[key] = backbone
            self._warm.move_to_end(key)
            self._evict()
        return backbone

    @property
    def warm(self) -> tuple[str, ...]:
        """The fingerprints of the spaces whose backbones are warm, least recently used first."""
        return tuple(self._warm)

    def _forget(self, key: str, coming: Future[Backbone]) -> None:
        if self._coming.get(key) is coming and coming.done():
            del self._coming[key]

    def _evict(self) -> None:
        while len(self._warm) > 1 and sum(each.nbytes for each in self._warm.values()) > (
            self._settings.model_memory_bytes
        ):
            self._warm.popitem(last=False)
