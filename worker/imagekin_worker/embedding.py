"""The way of images through a backbone: read, hash, settle, decode, forward, all at once and in bounded memory.

On a CPU each core is a lane that decodes a batch and then runs it through the network with one intra-op thread: both
halves release the GIL, no lane waits for another, and a forward pass never shares its core with a decoder. Decoders
beside a forward pass on all cores, the usual way, gives two thirds of that. On a GPU the usual way is right.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from imagekin import errors, telemetry
from imagekin.config import Settings
from imagekin.metrics import WORK
from imagekin_worker import preprocess
from imagekin_worker.backbones import Backbone

T = TypeVar("T")
E = TypeVar("E")

HANDFUL = 4
"""How many images a lane reads, and settles in one call, before it decodes them."""


@dataclass(frozen=True, slots=True)
class Fetched(Generic[T]):
    """An item and its bytes. `content_hash`: their SHA-256 in hex."""

    item: T
    data: bytes
    content_hash: str


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of an item: exactly one of `embedding` (float32, dim), `settled` and `error`.

    `settled`: the caller has its vector already. An embedded item has size, format and thumbnail (a JPEG); whatever
    could be read has its content_hash.
    """

    item: T
    content_hash: str | None = None
    embedding: NDArray[np.float32] | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    thumbnail: bytes | None = None
    settled: bool = False
    error: errors.ItemError | None = None


Read = Callable[[T], bytes]
Settle = Callable[[list[Fetched[T]]], set[int]]


def settle_nothing(_fetched: list[Fetched[T]]) -> set[int]:
    """Settle no item: everything is computed."""
    return set()


def go_on() -> bool:
    """Never stop."""
    return False


class Pipeline:
    """Runs items through one backbone."""

    def __init__(self, backbone: Backbone, settings: Settings) -> None:
        self._backbone = backbone
        self._settings = settings

    def run(
        self,
        items: Iterable[T],
        read: Read[T],
        settle: Settle[T] = settle_nothing,
        should_stop: Callable[[], bool] = go_on,
    ) -> Generator[Outcome[T], None, None]:
        """Yield the outcome of each item, in any order, as it comes.

        `read` gives an item's bytes; an ItemError of it becomes the item's. `settle` gets a handful of fetched items
        and gives the indexes of those that need no computing. `read` and `should_stop` are called by several threads
        at once; of `settle` and `items` there is one call at a time. After `should_stop` says so, a batch that is
        begun is finished, and an item that is not yielded was not done. Any other exception ends the run and is raised
        here. All threads have ended when the iterator has, also when it is closed early; at most lanes x (batch +
        handful) pictures and as many outcomes are in memory.
        """
        work = _Run(self._backbone, self._settings, items, read, settle, should_stop)
        return work.outcomes()


class _Run(Generic[T]):
    """One run: its threads, and the two channels that they speak through."""

    def __init__(
        self,
        backbone: Backbone,
        settings: Settings,
        items: Iterable[T],
        read: Read[T],
        settle: Settle[T],
        should_stop: Callable[[], bool],
    ) -> None:
        self._backbone = backbone
        self._settings = settings
        self._items = iter(items)
        self._read = read
        self._settle = settle
        self._should_stop = should_stop
        self._taking = threading.Lock()
        self._settling = threading.Lock()
        self._lanes = settings.lanes or cores()
        self._outcomes: _Channel[Outcome[T]] = _Channel(self._lanes * backbone.batch_size)
        self._decoded: _Channel[_Decoded[T]] = _Channel(2 * backbone.batch_size)
        self._failure: BaseException | None = None

    def outcomes(self) -> Generator[Outcome[T], None, None]:
        intra_op_threads = torch.get_num_threads()
        threads = self._start()
        try:
            yield from self._outcomes
        finally:
            self._abort()
            for thread in threads:
                thread.join()
            torch.set_num_threads(intra_op_threads)
        if self._failure is not None:
            raise self._failure

    def _start(self) -> list[threading.Thread]:
        if self._backbone.on_gpu:
            decoders = _Crew(self._lanes, self._decode_lane, self._decoded.close, self._fail)
            forward = _Crew(1, self._forward_lane, self._outcomes.close, self._fail)
            return decoders.start() + forward.start()
        return _Crew(self._lanes, self._lane, self._outcomes.close, self._fail).start()

    def _lane(self) -> None:
        torch.set_num_threads(1)
        carried: list[_Decoded[T]] = []
        size = self._backbone.batch_size
        for decoded in self._handfuls():
            carried += decoded
            while len(carried) >= size:
                self._forward(carried[:size])
                del carried[:size]
        if carried and not self._stopped():
            self._forward(carried)

    def _decode_lane(self) -> None:
        for decoded in self._handfuls():
            self._decoded.put(decoded)

    def _forward_lane(self) -> None:
        while batch := self._decoded.take(self._backbone.batch_size):
            self._forward(batch)

    def _handfuls(self) -> Iterator[list[_Decoded[T]]]:
        """Take handfuls of items while there are any; give what is to be embedded, put out the rest."""
        while items := self._take():
            fetched = [each for each in map(self._fetch, items) if each is not None]
            settled = self._settled(fetched)
            self._put(Outcome(fetched[at].item, fetched[at].content_hash, settled=True) for at in sorted(settled))
            remaining = [each for at, each in enumerate(fetched) if at not in settled]
            yield [each for each in map(self._decode, remaining) if each is not None]

    def _take(self) -> list[T]:
        with self._taking:
            return [] if self._stopped() else list(itertools.islice(self._items, HANDFUL))

    def _stopped(self) -> bool:
        return self._outcomes.closed or self._should_stop()

    def _fetch(self, item: T) -> Fetched[T] | None:
        try:
            with WORK.read_seconds.time():
                data = self._read(item)
        except errors.ItemError as error:
            return self._put([Outcome(item, error=error)])
        return Fetched(item, data, hashlib.sha256(data).hexdigest())

    def _settled(self, fetched: list[Fetched[T]]) -> set[int]:
        if not fetched:
            return set()
        with self._settling, WORK.lookup_seconds.time():
            return self._settle(fetched)

    def _decode(self, fetched: Fetched[T]) -> _Decoded[T] | None:
        try:
            with WORK.decode_seconds.time():
                picture, pixels = preprocess.prepare(fetched.data, self._backbone.space, self._settings)
                thumbnail = preprocess.thumbnail(picture, self._settings.thumbnail_px)
        except errors.ItemError as error:
            return self._put([Outcome(fetched.item, fetched.content_hash, error=error)])
        size = (picture.width, picture.height)
        return _Decoded(fetched.item, fetched.content_hash, size, picture.format, thumbnail, pixels)

    def _forward(self, batch: list[_Decoded[T]]) -> None:
        # Pictures lie in memory as (height, width, channel); so does a batch, which the network reads as it is.
        pixels = np.stack([each.pixels for each in batch]).transpose(0, 3, 1, 2)
        WORK.batch_fill.observe(len(batch) / self._backbone.batch_size)
        with WORK.forward_seconds.time():
            embeddings = self._backbone.embed(pixels)
        self._put(each.outcome(row) for each, row in zip(batch, embeddings, strict=True))

    def _put(self, outcomes: Iterable[Outcome[T]]) -> None:
        self._outcomes.put(outcomes)

    def _fail(self, failure: BaseException) -> None:
        self._failure = self._failure or failure
        self._abort()

    def _abort(self) -> None:
        self._outcomes.abort()
        self._decoded.abort()


@dataclass(frozen=True, slots=True)
class _Decoded(Generic[T]):
    item: T
    content_hash: str
    size: tuple[int, int]
    format: str
    thumbnail: bytes
    pixels: NDArray[np.uint8]

    def outcome(self, embedding: NDArray[np.float32]) -> Outcome[T]:
        if not np.isfinite(embedding).all():
            error = errors.DecodeError("The backbone made numbers of this image that are not finite.")
            return Outcome(self.item, self.content_hash, error=error)
        return Outcome(self.item, self.content_hash, embedding, *self.size, self.format, self.thumbnail)


class _Crew:
    """Threads that do one thing; the last to end closes the door behind it."""

    def __init__(
        self, count: int, work: Callable[[], None], close: Callable[[], None], fail: Callable[[BaseException], None]
    ) -> None:
        self._count = self._working = count
        self._work, self._close, self._fail = work, close, fail
        self._lock = threading.Lock()

    def start(self) -> list[threading.Thread]:
        threads = [
            threading.Thread(target=telemetry.in_context(self._thread), name=f"lane-{n}", daemon=True)
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


class _Channel(Generic[E]):
    """A bounded queue between threads that can be closed at one end and abandoned at the other."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: deque[E] = deque()
        self._changed = threading.Condition()
        self.closed = False

    def put(self, elements: Iterable[E]) -> None:
        """Add elements, waiting while the channel is full; into a closed one nothing goes."""
        for element in elements:
            with self._changed:
                self._changed.wait_for(lambda: self.closed or len(self._waiting) < self._capacity)
                if not self.closed:
                    self._waiting.append(element)
                    self._changed.notify_all()

    def take(self, count: int) -> list[E]:
        """Take `count` elements, waiting for them; fewer only where no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or len(self._waiting) >= count)
            return [self._pop() for _ in range(min(count, len(self._waiting)))]

    def close(self) -> None:
        """Say that no more will come; what waits can still be taken."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Close, and drop what waits."""
        with self._changed:
            self._waiting.clear()
        self.close()

    def __iter__(self) -> Iterator[E]:
        while taken := self.take(1):
            yield from taken

    def _pop(self) -> E:
        self._changed.notify_all()
        return self._waiting.popleft()


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
