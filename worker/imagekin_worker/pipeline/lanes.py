"""The pipeline from images to embeddings: read, hash, settle, decode, forward, all at once and in bounded memory.

On a CPU each core is a lane that decodes a batch and then runs it through the network with one intra-op thread: both
halves release the GIL, no lane waits for another, and a forward pass never shares its core with a decoder. The usual
way, decoders next to a forward pass on all cores, reaches two thirds of that. On a GPU the usual way is right.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from imagekin import errors
from imagekin.settings import Settings
from imagekin.telemetry.metrics import WORK
from imagekin_worker.network import devices, preprocess
from imagekin_worker.network.backbones import Backbone
from imagekin_worker.network.slots import Stream
from imagekin_worker.pipeline.threads import Channel, Crew

T = TypeVar("T")

HANDFUL = 16
"""How many images a lane reads, and settles in one call, before it decodes them: settling queries the database."""

HANDFUL_BYTES = 8 << 20
"""A handful is large enough once its files have this many bytes."""

BACKLOG = 64
"""How many outcomes may wait for their caller, about 16 KiB each: lanes work while it stores a chunk."""

TAKEN = 4
"""How many items a lane takes at a time when items come over a network, so that other lanes get their share."""


@dataclass(frozen=True, slots=True)
class Fetched(Generic[T]):
    """An item and its bytes. `content_hash`: their SHA-256 in hex."""

    item: T
    data: bytes
    content_hash: str


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The outcome of an item: exactly one of `embedding` (float32, dim), `settled` and `error`.

    `settled`: the caller has its vector already. An embedded item has size, format and thumbnail (a JPEG); an item that
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
    nbytes: int | None = None


Read = Callable[[T], bytes]
Settle = Callable[[list[Fetched[T]]], set[int]]


def settle_nothing(_fetched: list[Fetched[T]]) -> set[int]:
    """Settle no items: everything is computed."""
    return set()


def go_on() -> bool:
    """Never stop."""
    return False


def endless() -> float:
    """Expect no end."""
    return math.inf


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How the cores share the work: `lanes` threads, each with its own batches and `threads` inside a layer."""

    lanes: int
    threads: int
    batch: int


def arrangement_of(backbone: Backbone, settings: Settings) -> Arrangement:
    """Arrange the cores as the settings say, or else as is right for most machines."""
    return Arrangement(settings.lanes or devices.cores(), 1, settings.batch_size or backbone.batch_size)


class Pipeline(Generic[T]):
    """One run of items through a backbone: its threads, and the two channels between them.

    `read` returns an item's bytes; its ItemError becomes the item's. `settle` gets a handful of fetched items and
    returns the indexes of those that need no computation. `read` and `should_stop` are called by several threads at
    once; `settle` and `items` by one at a time. `left`: about how many items are still to come, asked before each; the
    last batches are then made smaller, so that all lanes end at about the same time.
    """

    def __init__(
        self,
        backbone: Backbone,
        settings: Settings,
        items: Iterable[T],
        read: Read[T],
        *,
        settle: Settle[T] = settle_nothing,
        should_stop: Callable[[], bool] = go_on,
        left: Callable[[], float] = endless,
        arrangement: Arrangement | None = None,
    ) -> None:
        self._backbone = backbone
        self._settings = settings
        arrangement = arrangement or arrangement_of(backbone, settings)
        self._lanes, self._threads, self._size = arrangement.lanes, arrangement.threads, arrangement.batch
        self._items = iter(items)
        self._read = read
        self._settle = settle
        self._should_stop = should_stop
        self._left = left
        self._loads: list[_Load] = []
        self._taking = threading.Lock()
        self._settling = threading.Lock()
        self._outcomes: Channel[Outcome[T]] = Channel(max(BACKLOG, self._lanes * self._size))
        self._decoded: Channel[_Decoded[T]] = Channel(2 * self._size)
        self._failure: BaseException | None = None

    def outcomes(self) -> Generator[Outcome[T], None, None]:
        """Yield the outcome of each item once, in any order, as soon as it is known.

        When `should_stop` returns True, batches in progress are finished, and items not yielded were not done. Any
        exception except an ItemError of `read` ends the run and is raised here. All threads have ended when the
        iterator has, also when it is closed early; at most lanes x (batch + handful) pictures and as many outcomes
        are in memory, of outcomes BACKLOG if that is more.
        """
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
            decoders = Crew(self._lanes, self._decode_lane, self._decoded.close, self._fail)
            forward = Crew(1, self._forward_lane, self._outcomes.close, self._fail)
            return decoders.start() + forward.start()
        return Crew(self._lanes, self._lane, self._outcomes.close, self._fail).start()

    def _lane(self) -> None:
        torch.set_num_threads(self._threads)
        buffer = np.empty((self._size, *self._backbone.space.preprocess.shape, 3), np.uint8)
        batch: list[_Decoded[T]] = []
        load = _Load()
        for fetched in self._handfuls(load):
            load.gathered = len(batch) + len(fetched)
            for each in fetched:
                if self._stopped():
                    return
                decoded = self._decode(each, buffer[len(batch)])
                if decoded is None:
                    load.gathered -= 1
                    continue
                batch.append(decoded)
                if len(batch) >= load.batch:
                    self._embed(batch, buffer, load)
                    batch.clear()
        if batch and not self._stopped():
            self._embed(batch, buffer, load)

    def _decode_lane(self) -> None:
        shape = self._backbone.space.preprocess.shape
        load = _Load()
        for fetched in self._handfuls(load):
            load.gathered = 0
            decoded = (self._decode(each, np.empty((*shape, 3), np.uint8)) for each in fetched)
            self._decoded.put(each for each in decoded if each is not None)

    def _forward_lane(self) -> None:
        stream = self._backbone.stream(self._size)
        flying: deque[list[_Decoded[T]]] = deque()
        try:
            while batch := self._decoded.take(self._size):
                self._note_fill(batch)
                flying.append(batch)
                stream.begin([each.pixels for each in batch])
                if stream.full:
                    self._collect(flying, stream)
            while flying:
                self._collect(flying, stream)
        finally:
            stream.drop()

    def _handfuls(self, load: _Load) -> Iterator[list[Fetched[T]]]:
        """Take handfuls of items while there are any; output those that need no embedding, and yield the rest."""
        self._loads.append(load)
        while handful := self._handful(load):
            settled = self._settled(handful)
            self._put(Outcome(handful[at].item, handful[at].content_hash, settled=True) for at in sorted(settled))
            yield [each for at, each in enumerate(handful) if at not in settled]

    def _handful(self, load: _Load) -> list[Fetched[T]]:
        """Read as many items as a lane should at once; an empty list at the end."""
        handful: list[Fetched[T]] = []
        size = 0
        while size < HANDFUL_BYTES and (items := self._take(load, len(handful))):
            for fetched in filter(None, map(self._fetch, items)):
                handful.append(fetched)
                size += len(fetched.data)
        return handful

    def _take(self, load: _Load, taken: int) -> list[T]:
        """Take a few more items for a handful that has `taken` already, unless it is large enough."""
        with self._taking:
            share = (self._left() + sum(other.left for other in self._loads)) / self._lanes
            batch = max(1, math.ceil(min(self._size, share)))
            # half of a lane's share, so that none has a handful while the others have nothing, but what fills a batch
            half = (share - (load.gathered - taken)) / 2 - taken
            count = math.ceil(min(TAKEN, HANDFUL - taken, max(batch - load.gathered, half)))
            if taken and count <= 0:
                return []
            load.batch, count = batch, max(1, count)
            items = [] if self._stopped() else list(itertools.islice(self._items, count))
            load.gathered += len(items)
            return items

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

    def _decode(self, fetched: Fetched[T], pixels: NDArray[np.uint8]) -> _Decoded[T] | None:
        try:
            with WORK.decode_seconds.time():
                picture, _ = preprocess.prepare(fetched.data, self._backbone.space, self._settings, into=pixels)
                thumbnail = preprocess.thumbnail(picture, self._settings.thumbnail_px)
        except errors.ItemError as error:
            return self._put([Outcome(fetched.item, fetched.content_hash, error=error)])
        size = (picture.width, picture.height)
        return _Decoded(fetched.item, fetched.content_hash, len(fetched.data), size, picture.format, thumbnail, pixels)

    def _embed(self, batch: list[_Decoded[T]], buffer: NDArray[np.uint8], load: _Load) -> None:
        self._note_fill(batch)
        load.gathered, load.embedding = load.gathered - len(batch), len(batch)
        with WORK.forward_seconds.time():
            # pictures lie in memory as (height, width, channel), and so the network reads them
            embeddings = self._backbone.embed(buffer[: len(batch)].transpose(0, 3, 1, 2))
        load.embedding = 0
        self._emit(batch, embeddings)

    def _collect(self, flying: deque[list[_Decoded[T]]], stream: Stream) -> None:
        with WORK.forward_seconds.time():
            embeddings = stream.collect()
        self._emit(flying.popleft(), embeddings)

    def _note_fill(self, batch: list[_Decoded[T]]) -> None:
        WORK.batch_fill.observe(len(batch) / self._size)

    def _emit(self, batch: list[_Decoded[T]], embeddings: NDArray[np.float32]) -> None:
        self._put(each.outcome(row) for each, row in zip(batch, embeddings, strict=True))

    def _put(self, outcomes: Iterable[Outcome[T]]) -> None:
        self._outcomes.put(outcomes)

    def _fail(self, failure: BaseException) -> None:
        self._failure = self._failure or failure
        self._abort()

    def _abort(self) -> None:
        self._outcomes.abort()
        self._decoded.abort()


@dataclass(slots=True)
class _Load:
    """A lane's current work, in images. `batch`: how many it should embed at once, fewer towards the end."""

    batch: int = 0
    gathered: int = 0
    embedding: int = 0

    @property
    def left(self) -> float:
        """The part not done yet; a batch in the network is half done, on average."""
        return self.gathered + self.embedding / 2


@dataclass(frozen=True, slots=True)
class _Decoded(Generic[T]):
    item: T
    content_hash: str
    nbytes: int
    size: tuple[int, int]
    format: str
    thumbnail: bytes
    pixels: NDArray[np.uint8]

    def outcome(self, embedding: NDArray[np.float32]) -> Outcome[T]:
        if not np.isfinite(embedding).all():
            error = errors.DecodeError("The backbone computed numbers for this image that are not finite.")
            return Outcome(self.item, self.content_hash, error=error)
        return Outcome(
            self.item, self.content_hash, embedding, *self.size, self.format, self.thumbnail, nbytes=self.nbytes
        )
