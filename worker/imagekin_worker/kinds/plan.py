"""Turning a source into chunks, in slices, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer

from imagekin import sources
from imagekin.database import tables
from imagekin.enums import ItemStatus, Lane
from imagekin.jobs import checkpoint, fence, plan
from imagekin.jobs.claim import Claim, release
from imagekin.schemas.kinds import STORING, JobKind
from imagekin.settings import Settings
from imagekin.sources import Entry, Pause
from imagekin.store import ledger
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node

# A transaction's worth of chunks, and of ignored entries: so many chunks, or more of small ones.
CHUNKS_PER_COMMIT = 32
ENTRIES_PER_COMMIT = 8192
# Short: a single worker embeds between two slices.
SLICE_S = 1.0
# Below this a chunk costs more in the database than in the network.
SMALLEST_CHUNK = 4
# Vectors need no network: a chunk's worth is a few megabytes.
IMPORTED_ROWS = 512


class _Slice:
    """The time of a slice, from the first thing on that its source gives: so each slice gets somewhere."""

    def __init__(self) -> None:
        self._deadline = float("inf")

    @property
    def over(self) -> bool:
        return time.monotonic() > self._deadline

    def begin(self) -> None:
        """Begin with the first thing; the later ones change nothing."""
        self._deadline = min(self._deadline, time.monotonic() + SLICE_S)


@dataclass
class _Walk:
    """A way through a job's source, `at` its cursor; `saved` is that as SQL has it. `size`: images a chunk."""

    size: int
    at: Any
    entries: Iterator[Entry | Pause]
    source: sources.Source | None = None
    saved: bytes | None = None

    def close(self) -> None:
        """Let go of the source."""
        if self.source is not None:
            self.source.close()


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Plan a slice of a job: commit chunks with the source's cursor, and hand the rest back for the next slice.

    Raises JobError if the source cannot be read, LeaseLost.
    """
    (claim,) = claims
    walk = _begun(node, claim)
    try:
        finished = _walked(node, claim, walk, lease)
    except BaseException:
        walk.close()
        raise
    if finished:
        walk.close()
        return
    node.walks.keep(claim.job_id, walk)
    node.database.write(release, [claim])


def _begun(node: Node, claim: Claim) -> _Walk:
    """Return the walk where the last slice left it: as this process has it, else from its cursor on."""
    job = node.database.read(fence.job_of, claim)
    saved = node.database.read(checkpoint.kept, claim)
    if (kept := node.walks.take(claim.job_id, saved)) is not None:
        return kept
    cursor = None if saved is None else ledger.unpack(saved)
    if cursor is None or "chunk" not in cursor:
        cursor = {"chunk": _chunk_size(node, claim, job), "at": None}
    size, at = cursor["chunk"], cursor["at"]
    if "retry" in job.work:
        return _Walk(size, at, _again(node, job.work["retry"], at))
    source = sources.open_source(job.work["source"], node.storage, node.settings)
    return _Walk(size, at, source.entries(at), source)


def _walked(node: Node, claim: Claim, walk: _Walk, lease: Lease) -> bool:
    """Work for a slice; return whether the source came to its end."""
    part = _Slice()
    for pieces, ignored, told, finished in _commits(walk, part):
        cursor = {"chunk": walk.size, "at": walk.at}
        chunks = node.database.write(
            plan.add, claim, pieces, ignored=ignored, cursor=cursor, finished=finished, told=told
        )
        walk.saved = ledger.pack(cursor)
        node.note_planned(sum(map(len, pieces)))
        node.doorbell.ring(Lane.BULK, min(chunks, 8))
        if finished:
            return True
        if part.over or lease.lost:
            break
    return False


def _chunk_size(node: Node, claim: Claim, job: tables.Job) -> int:
    if job.kind == JobKind.IMPORT:
        return IMPORTED_ROWS
    size = max(SMALLEST_CHUNK, min(node.settings.chunk_images, node.images_per_claim(claim.space_id)))
    return min(size, remote_chunk(node.settings)) if sources.is_remote(job.work["source"]) else size


def remote_chunk(settings: Settings) -> int:
    """Return how many images that come over a network make a chunk.

    A fetch takes at most a quarter of the soft time limit, so what is under way when a chunk is begun, and the chunk,
    take three quarters.
    """
    return 2 * settings.fetch_threads


def _commits(
    walk: _Walk, part: _Slice
) -> Iterator[tuple[list[list[dict[str, Any]]], int, list[tuple[str, str]], bool]]:
    """Yield (chunks of entries, number of ignored ones, what is told of them, whether that was all) up to `walk.at`."""
    entries: list[dict[str, Any]] = []
    most = walk.size * max(CHUNKS_PER_COMMIT, ENTRIES_PER_COMMIT // walk.size)
    ignored, told = 0, list[tuple[str, str]]()
    for entry in walk.entries:
        walk.at = entry.cursor
        part.begin()
        if isinstance(entry, Pause):
            pass
        elif entry.ignored is not None:
            ignored += 1
            if len(told) < plan.TOLD_IGNORED:
                told.append((entry.key, entry.ignored))
        else:
            entries.append(_packed(entry))
        full = len(entries) == most or ignored == most
        # a source that is slow to list keeps what it has told so far
        if full or part.over:
            yield _pieces(entries, walk.size), ignored, told, False
            entries, ignored, told = [], 0, []
    yield _pieces(entries, walk.size), ignored, told, True


def _pieces(entries: list[dict[str, Any]], size: int) -> list[list[dict[str, Any]]]:
    return [entries[start : start + size] for start in range(0, len(entries), size)]


def _packed(entry: Entry) -> dict[str, Any]:
    packed: dict[str, Any] = {"key": entry.key, "ref": entry.ref}
    if entry.error is not None:
        packed["error"] = list(entry.error)
    if entry.metadata is not None:
        packed["metadata"] = entry.metadata
    return packed


def _again(node: Node, retry: dict[str, Any], at: Any) -> Iterator[Entry]:
    """Yield the entries of an earlier job's chunks that it asks for again; a cursor is [seq, index in the chunk]."""
    seq, skip = at or (0, 0)
    while (found := node.database.read(_chunk_from, retry["job_id"], seq)) is not None:
        seq, manifest, records = found
        for index, (entry, record) in enumerate(zip(manifest, records, strict=True)):
            unfinished = record.status in (ItemStatus.FAILED, ItemStatus.CANCELLED)
            if index < skip or not (unfinished or retry["items"] == "all"):
                continue
            # that it came twice is for this job to find out again
            error = entry.get("error")
            fault = None if error is None or error[0] == "duplicate_key" else sources.Fault(*error)
            yield Entry(entry["key"], entry["ref"], [seq, index + 1], error=fault, metadata=entry.get("metadata"))
        seq, skip = seq + 1, 0


def _chunk_from(
    session: Session, job_id: str, seq: int
) -> tuple[int, list[dict[str, Any]], list[ledger.Record]] | None:
    chunk = session.scalar(
        sa.select(tables.Chunk)
        .options(undefer(tables.Chunk.manifest), undefer(tables.Chunk.ledger))
        .filter_by(job_id=job_id)
        .where(tables.Chunk.kind.in_(STORING), tables.Chunk.seq >= seq)
        .order_by(tables.Chunk.seq)
        .limit(1)
    )
    if chunk is None or chunk.manifest is None:
        return None
    records = ledger.records(chunk.ledger) if chunk.ledger else ledger.all_cancelled(chunk.manifest)
    return chunk.seq, ledger.unpack(chunk.manifest), records
