"""Keeps claims while they are worked on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType

import structlog
from sqlalchemy.exc import DBAPIError

from imagekin import errors
from imagekin.database.engine import Database
from imagekin.jobs.claim import Claim, renew
from imagekin.telemetry import logs, metrics

log = structlog.get_logger()


class Lease:
    """Renews claims from a thread of its own, and reports lost ones, so that their work stops.

    `claims`: all claims so far. While the database cannot be reached the claims count as held: the fence at the finish
    decides.
    """

    def __init__(
        self,
        database: Database,
        claims: Sequence[Claim],
        *,
        lease_s: float,
        renew_s: float,
        leaving: threading.Event | None = None,
    ) -> None:
        self._database = database
        self._leaving = leaving or threading.Event()
        self.claims = list(claims)
        self._claims = list(claims)
        self._lease_s = lease_s
        self._renew_s = renew_s
        self._held = _keys(claims)
        self._changing = threading.Lock()
        self._done = threading.Event()
        self._told: set[tuple[str, int]] = set()
        self._thread = threading.Thread(target=logs.in_context(self._run), name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if isinstance(error, errors.LeaseLost):
            for claim in self._claims:
                self.lose(claim)

    def add(self, claims: Sequence[Claim]) -> None:
        """Keep these claims as well, while others are still held."""
        self.claims += claims
        with self._changing:
            self._held |= _keys(claims)
            self._claims = [*self._claims, *claims]

    @property
    def lost(self) -> bool:
        """Whether all claims are lost or done, or about to be handed back."""
        return not self._held or self._leaving.is_set()

    def holds(self, claim: Claim) -> bool:
        """Return whether this claim was still ours at the last renewal."""
        return (claim.job_id, claim.seq) in self._held

    def finished(self, claim: Claim) -> None:
        """Stop renewing a claim that is done with."""
        with self._changing:
            self._claims = [other for other in self._claims if other != claim]
            self._held -= _keys([claim])

    def lose(self, claim: Claim) -> None:
        """Record that a claim was lost, once for each claim."""
        key = (claim.job_id, claim.seq)
        if key not in self._told:
            self._told.add(key)
            metrics.WORK.leases_lost.inc()
            log.warning("lease_lost", job_id=claim.job_id, chunk=claim.seq, attempt=claim.attempt)

    def _run(self) -> None:
        while not self._done.wait(self._renew_s):
            claims = self._claims
            if not claims:
                return
            try:
                held = self._database.write(renew, claims, self._lease_s)
            except DBAPIError as error:
                log.warning("lease_not_renewed", error=str(error.orig))
                continue
            for claim in claims:
                if (claim.job_id, claim.seq) not in held and claim in self._claims:
                    self.lose(claim)
            with self._changing:
                # what was added meanwhile was not asked for
                self._held -= _keys(claims) - held


def _keys(claims: Sequence[Claim]) -> set[tuple[str, int]]:
    return {(claim.job_id, claim.seq) for claim in claims}
