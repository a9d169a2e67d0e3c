"""An examination: all scans, what they found, what was repaired."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from imagekin import errors
from imagekin.database import engine
from imagekin.database.engine import Database
from imagekin.doctor import dangling, indexes, lifetimes, vectors, work
from imagekin.doctor.checks import Batch, Check, System
from imagekin.settings import Settings
from imagekin.uploads.files import Storage

FINDINGS_NAMED = 5
MIGRATED = Check("migrated", "the database answers and has this version's tables")
MODULES = (dangling, work, vectors, indexes, lifetimes)
CHECKS: tuple[Check, ...] = (MIGRATED, *(check for module in MODULES for check in module.CHECKS))


@dataclass
class Outcome:
    """The outcome of one check: how many rows it saw, how many findings there were, and how many are left.

    `nbytes` is what lies in the storage for nothing.
    """

    name: str
    sentence: str
    examined: int = 0
    found: int = 0
    left: int = 0
    nbytes: int = 0
    details: list[str] = field(default_factory=list)

    @property
    def repaired(self) -> int:
        return max(0, self.found - self.left)


@dataclass
class Report:
    """The outcomes of all checks; `details` name the first of the findings that are left."""

    outcomes: dict[str, Outcome]

    @property
    def ok(self) -> bool:
        """Whether everything holds now."""
        return not any(outcome.left for outcome in self.outcomes.values())

    def to_json(self) -> dict[str, Any]:
        """Describe the report in values that JSON knows."""
        return {
            "ok": self.ok,
            "checks": [asdict(outcome) | {"repaired": outcome.repaired} for outcome in self.outcomes.values()],
        }


def examine(
    database: Database,
    storage: Storage,
    settings: Settings,
    *,
    repair: bool = False,
) -> Report:
    """Make every check, in memory that does not grow with the database, while the system runs or not.

    With `repair`, what is safe to repair is, and then everything is checked again. Raises Unavailable if the
    storage fails.
    """
    system = System(database, storage, settings)
    first = _examine(system, repair=repair)
    if not repair or first.ok:
        return first
    second = _examine(system, repair=False)
    for name, outcome in second.outcomes.items():
        outcome.found = first.outcomes[name].found
    return second


def _examine(system: System, *, repair: bool) -> Report:
    outcomes = {check.name: Outcome(check.name, check.sentence) for check in CHECKS}
    repairs = {check.name: check.repair for check in CHECKS if repair and check.repair is not None}
    for batch in _batches(system):
        for name, count in batch.examined.items():
            outcomes[name].examined += count
        for finding in batch.findings:
            outcome = outcomes[finding.check]
            outcome.found += 1
            outcome.left += 1
            outcome.nbytes += finding.nbytes
            if len(outcome.details) < FINDINGS_NAMED:
                outcome.details.append(finding.detail)
            if finding.check in repairs:
                repairs[finding.check](system, finding)
    return Report(outcomes)


def _batches(system: System) -> Iterator[Batch]:
    migrated = Batch()
    try:
        engine.wait_until_migrated(system.database, 0)
    except errors.NotReady as error:
        migrated.hold(MIGRATED.name, False, error.detail)
        yield migrated
        return  # the others would only trip over missing tables
    migrated.hold(MIGRATED.name, True, "")
    yield migrated
    for module in MODULES:
        for scan in module.SCANS:
            yield from scan(system)
