"""Log lines and metrics of claims and chunks, the same for every kind of work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import structlog

from imagekin.jobs.claim import Claim
from imagekin.schemas.kinds import JobKind
from imagekin.telemetry import metrics

log = structlog.get_logger()


def about(claims: Sequence[Claim]) -> dict[str, Any]:
    """Return the fields of a log line about these chunks."""
    if len(claims) == 1:
        return {"job_id": claims[0].job_id, "chunk": claims[0].seq, "attempt": claims[0].attempt}
    return {"chunks": [f"{claim.job_id}/{claim.seq}#{claim.attempt}" for claim in claims]}


def context(claims: Sequence[Claim]) -> dict[str, Any]:
    """Return the fields of every log line while these chunks are worked on.

    For several chunks, and for images, which others may join, that is only the claim; a line about one of them has its
    own job, chunk and attempt.
    """
    alone = len(claims) == 1 and claims[0].kind != JobKind.EMBED
    return {"claim": claims[0].claimed_by, **(about(claims) if alone else {})}


class Report:
    """Logs a claim's beginning at once, and its end when that is known."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self._claims = claims
        self._kind = claims[0].kind
        self._started = time.monotonic()
        images = sum(claim.size for claim in claims)
        metrics.WORK.claim_chunks.labels(self._kind).observe(len(claims))
        if self._kind == JobKind.EMBED:
            metrics.WORK.claim_images.observe(images)
        log.info("claimed", kind=self._kind, images=images, claim=claims[0].claimed_by, **about(claims))

    def end(self, outcome: str) -> None:
        """Count the claim as ended in one of the ways that `imagekin_claims_total` has."""
        seconds = time.monotonic() - self._started
        metrics.WORK.claims.labels(self._kind, outcome).inc()
        metrics.WORK.claim_seconds.labels(self._kind).observe(seconds)
        if outcome == "done" and self._kind not in (JobKind.EMBED, JobKind.SEARCH):
            log.info("slice_done", kind=self._kind, seconds=round(seconds, 3), **about(self._claims))


def chunk_done(claim: Claim, started: float, **counts: Any) -> None:
    """Log a finished chunk whose work began at `started`, in seconds of the monotonic clock."""
    seconds = round(time.monotonic() - started, 3)
    log.info("chunk_done", kind=claim.kind, **about([claim]), **counts, seconds=seconds)
