"""Reads images ahead of the pipeline when they come over a network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class ReadAhead(Generic[T]):
    """Items whose bytes are read by separate threads, returned as the bytes arrive.

    The pipeline's lanes read one image after the other, which is right for disks; but one slow server would stop them
    all. Here a slow read delays only itself, and at most `threads` images are being read or waiting to be taken. Items
    that are not `slow` pass through, and `read` reads them on demand.
    """

    def __init__(self, items: Iterable[T], read: Callable[[T], bytes], slow: Callable[[T], bool], threads: int) -> None:
        self._items = iter(items)
        self._read = read
        self._slow = slow
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
        self._flying: dict[Future[bytes], T] = {}
        self._landed: dict[T, Future[bytes]] = {}

    def __enter__(self) -> ReadAhead[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Return an item that can be read now; one thread at a time may call this."""
        while len(self._flying) < self._threads:
            try:
                item = next(self._items)
            except StopIteration:
                break
            if not self._slow(item):
                return item
            self._flying[self._pool.submit(self._read, item)] = item
        if not self._flying:
            raise StopIteration
        future = next(iter(wait(self._flying, return_when=FIRST_COMPLETED).done))
        item = self._flying.pop(future)
        self._landed[item] = future
        return item

    def read(self, item: T) -> bytes:
        """Return the bytes of a returned item, once; raises what reading it raised."""
        future = self._landed.pop(item, None)
        return self._read(item) if future is None else future.result()
