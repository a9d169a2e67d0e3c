"""What workers make of chunks, and what a job shows."""

from __future__ import annotations

import numpy as np
import sqlalchemy as sa

from imagekin.database import tables
from imagekin.jobs import finish as finish_step
from imagekin.jobs import view
from imagekin.store import ledger, segments


def status(database, job):
    return database.read(lambda session: view.view(session, session.get_one(tables.Job, job.id)))


def items_of(database, claim, broken=()):
    """Make the items that a worker would have made of a chunk."""

    def manifest(session):
        return session.scalar(sa.select(tables.Chunk.manifest).filter_by(job_id=claim.job_id, seq=claim.seq))

    made = []
    for entry in ledger.unpack(database.read(manifest)):
        if "error" in entry:
            made.append(segments.Item(entry["key"], error=tuple(entry["error"])))
        elif entry["key"] in broken:
            made.append(segments.Item(entry["key"], error=("decode_error", "broken")))
        else:
            vector = np.full(64, float(sum(entry["key"].encode()) % 97 + 1), np.float32)
            made.append(
                segments.Item(entry["key"], vector=vector, content_hash=entry["key"].rjust(64, "0"), thumbnail=b"jpeg")
            )
    return made


def finish(database, claim, **options):
    return database.write(finish_step.images, claim, items_of(database, claim, **options))
