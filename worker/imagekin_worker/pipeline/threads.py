"""Threads that do one job together, and the bounded channels between them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from imagekin.telemetry import logs

E = TypeVar("E")


class Crew:
    """Threads that do one job; the last one to end closes the channel."""

    def __init__(
        self, count: int, work: Callable[[], None], close: Callable[[], None], fail: Callable[[BaseException], None]
    ) -> None:
        self._count = self._working = count
        self._work, self._close, self._fail = work, close, fail
        self._lock = threading.Lock()

    def start(self) -> list[threading.Thread]:
        """Start the threads; `fail` receives what one of them raises."""
        threads = [
            threading.Thread(target=logs.in_context(self._thread), name=f"lane-{n}", daemon=True)
            for n in range(self._count)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _thread(self) -> None:
        try:
            self._work()
        except BaseException as failure:  # noqa: BLE001  raised again by the thread that runs the pipeline
            self._fail(failure)
        finally:
            with self._lock:
                self._working -= 1
                last = self._working == 0
            if last:
                self._close()


class Channel(Generic[E]):
    """A bounded queue between threads that can be closed by its writers and abandoned by its readers."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: deque[E] = deque()
        self._changed = threading.Condition()
        self.closed = False

    def put(self, elements: Iterable[E]) -> None:
        """Add elements, waiting while the channel is full; a closed channel ignores them."""
        for element in elements:
            with self._changed:
                self._changed.wait_for(lambda: self.closed or len(self._waiting) < self._capacity)
                if not self.closed:
                    self._waiting.append(element)
                    self._changed.notify_all()

    def take(self, count: int) -> list[E]:
        """Take `count` elements, waiting for them; fewer only at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or len(self._waiting) >= count)
            return [self._pop() for _ in range(min(count, len(self._waiting)))]

    def close(self) -> None:
        """Close the channel for new elements; those in it can still be taken."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Close the channel and drop its elements."""
        with self._changed:
            self._waiting.clear()
        self.close()

    def __iter__(self) -> Iterator[E]:
        while taken := self.take(1):
            yield from taken

    def _pop(self) -> E:
        self._changed.notify_all()
        return self._waiting.popleft()
