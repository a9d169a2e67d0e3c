"""`imagekin doctor`: checks that nothing was lost."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from imagekin.cli import output
from imagekin.database.engine import Database
from imagekin.doctor.examination import Report, examine
from imagekin.settings import Settings
from imagekin.store.blobs import Blobs
from imagekin.uploads.files import Storage


def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Repair what is safe to repair.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that nothing was lost: counters, ledgers, vectors, files; exit 1 if something does not hold.

    It reads the database and the storage that the IMAGEKIN_* settings name, while the service runs or not.
    """
    settings = Settings()
    database = Database(settings.database, blobs=Blobs.of(settings))
    try:
        report = examine(database, Storage(settings), settings, repair=repair)
    finally:
        database.dispose()
    if as_json:
        print(json.dumps(report.to_json(), ensure_ascii=False, indent=2))
    else:
        _show(report, repair)
    if not report.ok:
        raise typer.Exit(1)


def _show(report: Report, repair: bool) -> None:
    outcomes = report.outcomes.values()
    columns = ["check", "examined", "found", *(["repaired"] if repair else []), "what must hold"]
    rows = [(one.name, one.examined, one.found, *([one.repaired] if repair else []), one.sentence) for one in outcomes]
    output.table(columns, rows, right=["examined", "found", "repaired"])
    for one in outcomes:
        for detail in one.details:
            output.say(f"{one.name}: {detail}")
        if one.left > len(one.details):
            output.say(f"{one.name}: and {one.left - len(one.details)} more")
        if one.nbytes:
            output.say(f"{one.name}: {one.nbytes:,} bytes in all")
    if report.ok:
        output.say("Everything holds.")
    elif repair:
        output.say("What is named here cannot be repaired without knowing more; restore it from a backup.")
    else:
        output.say("`imagekin doctor --repair` repairs what is safe to repair.")
