"""Originals: the pictures of stored images, read again from where they came, as long as that is there.

The jobs that are not deleted or expired still know what their sources call each image. What is read counts only if its
bytes are those that were embedded.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors, sources
from imagekin.database import tables
from imagekin.enums import ChunkStatus, ItemStatus
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from imagekin.store import ledger
from imagekin.store.exports.contents import Described
from imagekin.store.exports.pictures import Picture
from imagekin.store.exports.scratch import CANDIDATES, Scratch
from imagekin.uploads.files import Storage

# Some come over a network.
READERS = 8
# So many images, or bytes, are read ahead of the one that is handed on.
AHEAD, AHEAD_BYTES = 16, 64 << 20
# What an image counts whose size is not known.
UNKNOWN_BYTES = 8 << 20
# More than may be in use at a time: the ones that were asked for last are.
OPEN = 2 * AHEAD * CANDIDATES

NOWHERE = "It was not embedded from a source that is still known: its job expired, or it was imported."
CHANGED = "The file has changed since it was embedded."


class Originals:
    """Where the pictures of a collection's images may be read."""

    def __init__(self, storage: Storage, settings: Settings, scratch: Scratch) -> None:
        self._storage, self._settings, self._scratch = storage, settings, scratch
        self._specs: dict[str, dict[str, Any]] = {}
        self._open: OrderedDict[str, sources.Source | str] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(READERS, "originals")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        for source in self._open.values():
            _close(source)

    def find(self, session: Session, collection_id: str) -> None:
        """Note for each image what the jobs that embedded it called it, the newest job first."""
        Job, Chunk = tables.Job, tables.Chunk
        chunks = (
            sa.select(Job.id, Chunk.manifest, Chunk.ledger)
            .join(Job, Job.id == Chunk.job_id)
            .where(Chunk.collection_id == collection_id, Chunk.kind == JobKind.EMBED, Chunk.status == ChunkStatus.DONE)
            .order_by(Job.id.desc(), Chunk.seq)
        )
        with session.execute(chunks.execution_options(yield_per=8)) as found:
            for job_id, manifest, records in found:
                if manifest is None or records is None:
                    continue
                if job_id not in self._specs:
                    work = session.scalars(sa.select(Job.work).where(Job.id == job_id)).one()
                    self._specs[job_id] = work["source"]
                self._scratch.add_places(
                    (record.image_id, job_id, entry["ref"])
                    for entry, record in zip(ledger.unpack(manifest), ledger.records(records), strict=True)
                    if record.image_id and record.status in (ItemStatus.EMBEDDED, ItemStatus.REUSED)
                )

    def read(self, images: Iterator[Described]) -> Iterator[Picture]:
        """Yield the images with the bytes of their files, or why they cannot be read, in their order."""
        waiting: deque[tuple[Future[Picture], int]] = deque()
        held = 0
        for image in images:
            size = image.nbytes or UNKNOWN_BYTES
            waiting.append((self._pool.submit(self._picture, image, self._scratch.places(image.id)), size))
            held += size
            while len(waiting) >= AHEAD or held > AHEAD_BYTES:
                first, size = waiting.popleft()
                held -= size
                yield first.result()
        for first, _ in waiting:
            yield first.result()

    def _picture(self, image: Described, places: list[tuple[str, Any]]) -> Picture:
        reason = NOWHERE
        for job_id, ref in places:
            try:
                data = self._source(job_id).read(ref)
            except errors.ImagekinError as error:
                reason = error.detail
                continue
            if hashlib.sha256(data).hexdigest() == image.content_hash:
                return Picture(image, data)
            reason = CHANGED
        return Picture(image, None, reason)

    def _source(self, job_id: str) -> sources.Source:
        """Return the source of a job; raises SourceUnreadable and what opening it raises, again each time."""
        with self._lock:
            source = self._open.get(job_id)
            if source is None:
                try:
                    source = sources.open_source(self._specs[job_id], self._storage, self._settings)
                except errors.ImagekinError as error:
                    source = error.detail
                self._open[job_id] = source
            self._open.move_to_end(job_id)
            while len(self._open) > OPEN:
                _close(self._open.popitem(last=False)[1])
        if isinstance(source, str):
            raise errors.SourceUnreadable(source)
        return source


def _close(source: sources.Source | str) -> None:
    if not isinstance(source, str):
        source.close()
