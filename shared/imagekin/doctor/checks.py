"""What a check is: a sentence that must hold, scans that look for where it does not, and perhaps a repair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.orm import Session

from imagekin.database.engine import Database
from imagekin.settings import Settings
from imagekin.uploads.files import Storage

Cursor = TypeVar("Cursor")


@dataclass(frozen=True)
class System:
    """What is examined."""

    database: Database
    storage: Storage
    settings: Settings

    @property
    def patience_s(self) -> float:
        """How long the sweep may take for what is due, before it counts as not done."""
        return max(60.0, 4 * self.settings.sweep_s, 2 * self.settings.lease_s)


class Finding(NamedTuple):
    """Where a check does not hold; `subject` is what its repair needs to know, `nbytes` what lies there for nothing."""

    check: str
    subject: tuple[Any, ...]
    detail: str
    nbytes: int = 0


@dataclass
class Batch:
    """What a scan saw in one transaction, and so at one moment: that a system is live makes no findings."""

    examined: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def hold(self, check: str, holds: bool, detail: str, *subject: Any) -> bool:
        """Note that a check was made; return whether it held."""
        self.examined[check] += 1
        if not holds:
            self.findings.append(Finding(check, subject, detail))
        return holds


@dataclass(frozen=True)
class Check:
    """A sentence about every row of a kind. `repair` looks again before it touches anything, and tells if it did."""

    name: str
    sentence: str
    repair: Callable[[System, Finding], bool] | None = None


Scan = Callable[[System], Iterator[Batch]]


def walk(
    system: System, step: Callable[[Session, Batch, Cursor, System], Cursor | None], start: Cursor
) -> Iterator[Batch]:
    """Yield the batches of a scan; `step` fills one and returns where the next begins, None at the end."""
    cursor: Cursor | None = start
    while cursor is not None:
        batch, cursor = system.database.read(_step, step, cursor, system)
        yield batch


def _step(
    session: Session,
    step: Callable[[Session, Batch, Cursor, System], Cursor | None],
    cursor: Cursor,
    system: System,
) -> tuple[Batch, Cursor | None]:
    batch = Batch()
    return batch, step(session, batch, cursor, system)
