"""Walks through sources, kept open between two slices of a planning, so that the next one reads nothing again."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

MOST_WALKS = 8
# Longer than the turns of as many plannings take; its job was cancelled, say, or is planned by another process now.
IDLE_S = 600.0


class _Walk(Protocol):
    """What is kept: `saved` is how far it is, as SQL has it."""

    @property
    def saved(self) -> bytes | None: ...

    def close(self) -> None: ...


W = TypeVar("W", bound=_Walk)


class Walks(Generic[W]):
    """The walks of one process, by their job, at most MOST_WALKS.

    Those that are kept stay, so that they come to their end however many others wait for a place.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[W, float]] = {}

    def take(self, job_id: str, saved: bytes | None) -> W | None:
        """Return a job's walk where it is as far as `saved` says; one that is not is closed."""
        self._close(job for job, (_, since) in self._kept.items() if time.monotonic() - since > IDLE_S)
        walk, _ = self._kept.pop(job_id, (None, 0.0))
        if walk is not None and walk.saved != saved:
            walk.close()
            return None
        return walk

    def keep(self, job_id: str, walk: W) -> None:
        """Keep a job's walk, or close it where there is no place."""
        if len(self._kept) < MOST_WALKS:
            self._kept[job_id] = walk, time.monotonic()
        else:
            walk.close()

    def close(self) -> None:
        """Close all: nothing is left to be planned here."""
        self._close(self._kept)

    def _close(self, job_ids: Iterable[str]) -> None:
        for job_id in list(job_ids):
            self._kept.pop(job_id)[0].close()
