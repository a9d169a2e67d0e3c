"""Ingest pictures in batches, from as many processes as you like: python examples/ingest.py COLLECTION PICTURE...

Each batch has an idempotency key made of what is in it. Posting the same batch again, after a crash or a timeout or at
the same moment from another machine, returns the same job, and nothing is stored or computed twice. So a pipeline may
retry freely. The pictures' keys are their file names. Exits with 3 where some pictures failed, with 1 where a job
failed as a whole.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

from imagekin import Client
from imagekin.enums import JobStatus

EXIT_CODES = {JobStatus.SUCCEEDED: 0, JobStatus.PARTIAL: 3}


def key_of(batch: Iterable[Path], collection: str) -> str:
    """Make a batch's idempotency key out of names and contents: another content is another request."""
    digest = hashlib.sha256(collection.encode())
    for path in batch:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return f"ingest-{digest.hexdigest()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("collection")
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--batch", type=int, default=200, metavar="PICTURES")
    given = parser.parse_args()
    pictures: list[Path] = sorted(given.pictures)
    batches = [pictures[start : start + given.batch] for start in range(0, len(pictures), given.batch)]
    with Client() as client:
        # all are posted before the first is waited for, so that the workers never idle
        jobs = [
            client.embed(batch, given.collection, idempotency_key=key_of(batch, given.collection)) for batch in batches
        ]
        for job in jobs:
            job.wait()
            print(f"{job.id} {job.status}: {job.progress.embedded} embedded, {job.progress.failed} failed")
    return max(EXIT_CODES.get(job.status, 1) for job in jobs)


if __name__ == "__main__":
    sys.exit(main())
