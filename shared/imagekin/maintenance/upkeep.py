"""Upkeep: the sweep's slow work, a slice at a time, beside everything else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import analyze, tables
from imagekin.database.engine import Database
from imagekin.maintenance import collection_deletion, compaction, expiry, forgetting, sweep
from imagekin.store import blobs, indexes
from imagekin.uploads.files import Storage

# How often what only time makes due is looked for.
SELDOM_S = 600.0
# A file that is being written is younger than this.
ABANDONED_S = 3600.0
# Ids whose blobs are removed from the storage between two looks at the clock.
BLOBS_PER_SLICE = 100


class Upkeep:
    """What one process remembers of its earlier looks; losing it costs one more look."""

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage
        self._looked: dict[str, int] = {}
        self._due_at = 0.0
        self._abandoned_since = 0.0

    def run(self, seconds: float) -> Counter[str]:
        """Work for about `seconds`, and return how many of each kind were done; the next call continues."""
        deadline = time.monotonic() + seconds
        done = Counter(tables_analyzed=self._database.write(analyze.refresh))
        for name, count in self._slices():
            done[name] += count
            if time.monotonic() > deadline:
                break
        return +done

    def _slices(self) -> Iterator[tuple[str, int]]:
        # the sweep itself takes one slice of these; more may be due than that
        while count := self._database.write(sweep.expire_jobs):
            yield "jobs_expired", count
        while paths := self._database.write(sweep.expire_uploads):
            for path in paths:
                self._storage.delete(path)
            yield "uploads_expired", len(paths)
        for collection_id in self._database.read(collection_deletion.pending):
            while self._database.write(collection_deletion.remove, collection_id):
                yield "slices_removed", 1
        for index_id in self._database.read(indexes.leftovers):
            yield "indexes_dropped", int(self._database.write(indexes.drop, index_id))
        yield from self._compact()
        if time.monotonic() >= self._due_at:
            for collection_id in self._database.read(forgetting.forgettable):
                while count := self._in(collection_id, forgetting.forget):
                    yield "images_forgotten", count
            looked, found = self._database.read(forgetting.abandoned, self._abandoned_since)
            for collection_id, segment_id in found:
                yield "segments_abandoned", self._in(collection_id, forgetting.drop_abandoned, segment_id) or 0
            self._abandoned_since = looked
            yield from self._remove_blobs()
            yield "files_abandoned", self._storage.remove_abandoned(ABANDONED_S)
            self._due_at = time.monotonic() + SELDOM_S

    def _compact(self) -> Iterator[tuple[str, int]]:
        current = self._database.read(_revisions)
        self._looked = {id: revision for id, revision in self._looked.items() if id in current}
        for collection_id, revision in current.items():
            if self._looked.get(collection_id) == revision:
                continue
            if self._in(collection_id, compaction.pinned, reads=True):
                continue
            for group in self._in(collection_id, compaction.choose, reads=True) or []:
                yield "segments_merged", self._merge(collection_id, group)
            # one that began since had nothing merged: look again when it is over
            if not self._in(collection_id, compaction.pinned, reads=True):
                self._looked[collection_id] = revision

    def _merge(self, collection_id: str, group: Sequence[str]) -> int:
        try:
            return compaction.merge(self._database, collection_id, group)
        except (errors.CollectionDeleted, NoResultFound):
            return 0

    def _remove_blobs(self) -> Iterator[tuple[str, int]]:
        storage = self._database.blobs
        while isinstance(storage, blobs.Blobs):
            ids = self._database.write(blobs.begin_removing, expiry.STAGED_S, BLOBS_PER_SLICE)
            for id in ids:
                storage.remove(id)
            self._database.write(blobs.end_removing, ids)
            if not ids:
                break
            yield "blobs_removed", len(ids)

    def _in(self, collection_id: str, work: Callable[..., Any], *args: Any, reads: bool = False) -> Any:
        """Run work on a collection in a transaction; None if the collection is gone."""
        run = self._database.read if reads else self._database.write
        try:
            return run(work, collection_id, *args)
        except (errors.CollectionDeleted, NoResultFound):
            return None


def _revisions(session: Session) -> dict[str, int]:
    query = sa.select(tables.Collection.id, tables.Collection.revision).where(tables.Collection.deleted_at.is_(None))
    return dict(session.execute(query).all())
