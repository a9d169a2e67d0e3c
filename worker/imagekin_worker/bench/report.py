"""What is reported: a row for every goal, with its figure or the reason why it was not measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from imagekin_worker.bench.workbench import Workbench
from imagekin_worker.network.devices import cores

NOT_SELECTED = "not asked for (--only)"
_LIBRARIES = ("imagekin", "torch", "torchvision", "openvino", "pillow", "numpy", "faiss-cpu", "scikit-learn",
              "kmeans-pytorch")  # fmt: skip
# Of /proc/cpuinfo, x86 and Arm: instructions that decide how fast networks are.
_FLAGS = ("flags", "Features")
_INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "amx_fp16",
                 "asimd", "i8mm", "bf16", "sve", "sve2")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for a ratio."""

    bound: float
    at_least: bool = True

    def met_by(self, ratio: float) -> bool:
        """Return whether a ratio keeps to the bound."""
        return ratio >= self.bound if self.at_least else ratio <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured, beside what would be ideal, both in `unit`, and their ratio.

    `limit` says what holds the figure where it is. `breach` is a condition beside the ratio that does not hold, such
    as a quality that speed must not cost. `details` are for programs.
    """

    measured: float
    ideal: float
    unit: str
    ratio: float
    limit: str
    details: dict[str, Any] = field(default_factory=dict)
    breach: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A goal, and how to measure it; `device` is `cpu` or `cuda`."""

    name: str
    what: str
    device: str
    goal: Goal
    measure: Callable[[Workbench], Figure]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row with its figure, or with the reason why it was not measured."""

    row: Row
    figure: Figure | None = None
    reason: str | None = None
    seconds: float = 0.0

    @property
    def met(self) -> bool | None:
        """Return whether the goal was reached; None if nothing was measured."""
        if self.figure is None:
            return None
        return self.row.goal.met_by(self.figure.ratio) and self.figure.breach is None

    def to_json(self) -> dict[str, Any]:
        """Describe the outcome in values that JSON knows; each name is always there."""
        figure = self.figure
        return {
            "name": self.row.name,
            "what": self.row.what,
            "device": self.row.device,
            "measured": figure and round(figure.measured, 6),
            "ideal": figure and round(figure.ideal, 6),
            "unit": figure and figure.unit,
            "ratio": figure and round(figure.ratio, 4),
            "goal": str(self.row.goal),
            "met": self.met,
            "limit": figure and figure.limit,
            "breach": figure and figure.breach,
            "details": figure.details if figure else {},
            "reason": self.reason,
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All rows, and what they were measured on; `quick` figures are for trying, not for believing."""

    outcomes: Sequence[Outcome]
    notes: Sequence[str]
    quick: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Describe the report in values that JSON knows."""
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
            "quick": self.quick,
            "seconds": round(self.seconds, 1),
            "notes": list(self.notes),
            "rows": [outcome.to_json() for outcome in self.outcomes],
        }


COLUMNS = ("row", "measured", "ideal", "ratio", "goal", "met", "limited by")
RIGHT = ("measured", "ideal", "ratio")


def lines(outcomes: Sequence[Outcome]) -> Iterator[Sequence[str]]:
    """Yield the cells of COLUMNS for each row that was asked for."""
    for outcome in outcomes:
        row, figure = outcome.row, outcome.figure
        if outcome.reason == NOT_SELECTED:
            continue
        if figure is None:
            yield row.name, "", "", "", str(row.goal), "-", f"not measured here: {outcome.reason}"
        else:
            limit = figure.limit if figure.breach is None else f"{figure.breach}; {figure.limit}"
            shown = (f"{value:.3g} {figure.unit}".strip() for value in (figure.measured, figure.ideal))
            yield row.name, *shown, f"{figure.ratio:.2f}", str(row.goal), "yes" if outcome.met else "NO", limit


def machine() -> dict[str, Any]:
    """Describe the machine: processor, cores that this process may use, memory, GPU."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of what the figures depend on, those that are installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def described() -> str:
    """Return one line with the machine and versions of the figures."""
    here, libraries = machine(), versions()
    named = ", ".join(f"{name} {version}" for name, version in libraries.items())
    gpu = f", {here['gpu']}" if here["gpu"] else ""
    return f"{here['processor']}, {here['cores']} cores, {here['memory_gib']} GiB{gpu}; {named}"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
    flags = next((line.partition(":")[2].split() for line in text.splitlines() if line.startswith(_FLAGS)), [])
    found = ", ".join(each for each in _INSTRUCTIONS if each in flags)
    return f"{name or platform.machine()} ({found or torch.backends.cpu.get_cpu_capability()})"


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
