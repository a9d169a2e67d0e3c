"""Measuring rows, one after the other; a row that cannot be measured says why and ends nothing."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from imagekin import errors
from imagekin.cli import output
from imagekin.settings import Settings
from imagekin_worker.bench import activity, rows
from imagekin_worker.bench.report import NOT_SELECTED, Outcome, Row
from imagekin_worker.bench.sizes import Sizes
from imagekin_worker.bench.workbench import Workbench
from imagekin_worker.network import allocator

NO_GPU = "there is no CUDA device"
INTERRUPTED = "interrupted"
LOOK_S = 0.5
MOST_BUSY = 0.15
MOST_STOLEN = 0.02


def measure(
    asked: Sequence[str], sizes: Sizes, user: Settings, parent: Path | None = None
) -> tuple[list[Outcome], list[str]]:
    """Measure the rows of these names; return an outcome for every row there is, and notes on how it was done.

    `user`: the user's settings, of which what concerns speed is taken over. `parent`: where the temporary folder goes.
    """
    # as a worker does, so that what is measured here and what is measured there have the same memory
    allocator.keep_memory()
    outcomes: list[Outcome] = []
    notes: list[str] = []
    if (busy := busy_share(LOOK_S)) > MOST_BUSY:
        notes.append(f"others used {busy:.0%} of this machine's cores when this began; believe its figures accordingly")
    began, stolen = time.monotonic(), activity.stolen()
    for device, group in (("cpu", rows.CPU), ("cuda", rows.GPU)):
        wanted = [row.name for row in group if row.name in asked]
        if not wanted or (device == "cuda" and not torch.cuda.is_available()):
            outcomes += [Outcome(row, reason=NO_GPU if row.name in wanted else NOT_SELECTED) for row in group]
            continue
        with (
            tempfile.TemporaryDirectory(prefix="imagekin-bench-", dir=parent, ignore_cleanup_errors=True) as folder,
            Workbench(Path(folder).resolve(), sizes, user, device, wanted) as bench,
        ):
            outcomes += [_outcome(row, bench, row.name in wanted) for row in group]
            notes += bench.notes
    stolen = (activity.stolen() - stolen) / (time.monotonic() - began) / (os.cpu_count() or 1)
    if stolen > MOST_STOLEN:
        notes.append(f"this machine's host kept {stolen:.0%} of its cores' time meanwhile; the ratios swing with that")
    return outcomes, notes


def busy_share(seconds: float) -> float:
    """Look for some seconds how busy the machine's cores are, 0 to 1; 0 if there is no /proc/stat."""
    before = _jiffies()
    time.sleep(seconds)
    after = _jiffies()
    idle, total = (new - old for new, old in zip(after, before, strict=True))
    return 1 - idle / total if total else 0.0


def _jiffies() -> tuple[int, int]:
    """Return the time that all cores were idle, and all their time (proc(5))."""
    try:
        counts = [int(count) for count in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return 0, 0
    return counts[3] + counts[4], sum(counts)


def _outcome(row: Row, bench: Workbench, wanted: bool) -> Outcome:
    if not wanted:
        return Outcome(row, reason=NOT_SELECTED)
    if bench.interrupted:
        return Outcome(row, reason=INTERRUPTED)
    output.say(f"{row.name}: {row.what}")
    started = time.monotonic()
    try:
        figure = row.measure(bench)
    except KeyboardInterrupt:
        # what was measured in minutes is worth showing
        bench.interrupted = True
        return Outcome(row, reason=INTERRUPTED, seconds=time.monotonic() - started)
    except errors.ImagekinError as error:
        output.say(f"  not measured here: {error.detail}")
        return Outcome(row, reason=error.detail, seconds=time.monotonic() - started)
    output.say(f"  {figure.ratio:.2f}, goal {row.goal}")
    return Outcome(row, figure, seconds=time.monotonic() - started)
