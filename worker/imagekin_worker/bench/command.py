"""`imagekin bench`: measures this machine."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from imagekin.cli import output
from imagekin.settings import Settings
from imagekin.telemetry import logs


def bench(
    only: Annotated[
        list[str] | None, typer.Option(metavar="ROW", help="Measure this row alone; may be given again.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes: a minute for trying, whose figures mean little.")
    ] = False,
    memory_images: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Images of the memory row's large job.", show_default="10000")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where temporary data is kept.", show_default="the system's folder")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure this machine: each speed that imagekin promises, as a ratio in one run, beside what would be ideal.

    Takes some minutes on two cores, and wants the machine to itself. It uses a service, a database and pictures of its
    own in a temporary folder, and touches nothing else. Rows that cannot be measured here say why. Ctrl-C shows what
    there is by then.
    """
    # torch comes with these, and `imagekin bench --help` needs none
    from imagekin_worker.bench import measuring, report, rows, sizes

    known = [row.name for row in rows.ROWS]
    if unknown := [name for name in only or () if name not in known]:
        raise typer.BadParameter(f"there is no row {unknown[0]!r}; there are {', '.join(known)}", param_hint="--only")
    size = sizes.QUICK if quick else sizes.FULL
    if memory_images is not None:
        size = replace(size, many_images=memory_images)
    settings = Settings()
    logs.configure(settings)
    started = time.monotonic()
    outcomes, notes = measuring.measure(only or known, size, settings, data_dir)
    made = report.Report(outcomes, notes, quick, time.monotonic() - started)
    if as_json:
        print(json.dumps(made.to_json(), ensure_ascii=False, indent=2))
        return
    output.table(report.COLUMNS, report.lines(outcomes), right=report.RIGHT)
    output.say(f"{report.described()}; {made.seconds:.0f} s")
    for note in [*notes, *(["--quick: these figures mean little"] if quick else [])]:
        output.say(note)
