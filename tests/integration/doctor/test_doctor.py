"""The doctor of systems that are healthy, live, large, and as a command."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import sqlalchemy as sa
import typer
from sqlalchemy.orm import Session
from typer.testing import CliRunner, Result

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.doctor.command import doctor as command
from imagekin.enums import DType, ItemStatus
from imagekin.jobs import end
from imagekin.maintenance import collection_deletion, compaction, upkeep
from imagekin.settings import Settings
from imagekin.store import ledger, vector_codec
from kit.breakages import IMAGE, examine, found
from kit.hand import Hand


def test_a_healthy_system_has_no_findings(hand: Hand) -> None:
    report = examine(hand)
    assert [(one.name, one.details) for one in report.outcomes.values() if one.found] == []
    assert report.ok
    unseen = {one.name for one in report.outcomes.values() if not one.examined}
    # blobs outside the database are in tests/integration/blobs, indexes in tests/integration/indexes
    outside = {"blobs_there", "loose_blobs", "unknown_blobs"}
    indexed = {"indexes_sound", "index_rows", "indexes_used"}
    assert unseen == {"deleted_collections"} | outside | indexed


def test_after_upkeep_it_is_healthy_still(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FEWEST_SMALL", 2)
    hand.sql("UPDATE images SET deleted_at = deleted_at - 7200")
    hand.sql("UPDATE jobs SET created_at = created_at - 7300")
    done = upkeep.Upkeep(hand.database, hand.storage).run(9)
    assert done["slices_removed"] and done["segments_merged"]
    assert found(examine(hand)) == set()


def test_a_live_system_gives_no_false_alarm(hand: Hand) -> None:
    """Examine again and again while images come, change, move and go."""
    stopped, faults, rounds = threading.Event(), [], 0

    def live() -> None:
        nonlocal rounds
        try:
            while not stopped.is_set():
                name = f"live{rounds}"
                hand.embed([f"{number}" for number in range(6)], name=name, size=2)
                hand.embed(["0", "1", "2"], name=name, contents={"0": "new", "1": f"new {rounds}"}, size=2)
                hand.delete("3", name=name)
                ids = hand.database.read(lambda s: s.scalars(sa.select(tables.Segment.id)).all())
                compaction.merge(hand.database, hand.collection(name).id, ids)
                hand.database.write(end.cancel, "ann", hand.submit(name).id)
                hand.database.write(collection_deletion.delete, "ann", name)
                upkeep.Upkeep(hand.database, hand.storage).run(1)
                rounds += 1
        except BaseException as fault:
            faults.append(fault)
            raise

    # what is open in the healthy system would be claimed by the hand
    hand.sql("UPDATE chunks SET lane = 'elsewhere' WHERE status IN ('ready', 'claimed')")
    thread = threading.Thread(target=live)
    thread.start()
    alarms = []
    try:
        while rounds < 3 and not faults:
            report = examine(hand)
            alarms += [one.details for one in report.outcomes.values() if one.found]
    finally:
        stopped.set()
        thread.join()
    assert faults == []
    assert alarms == []


@pytest.mark.parametrize("engine", ["sqlite"])
def test_memory_does_not_grow_with_the_database(database: Database, settings: Settings) -> None:
    """Twenty thousand images, of which an examination never holds more than a part."""
    hand = Hand(database, settings, "ann", "photos")
    collection = hand.collection()
    count, per_chunk = 20_000, 100
    job = hand.submit()
    rng = np.random.default_rng(0)

    def fill(session: Session) -> None:
        fields = {"owner": "ann", "collection_id": collection.id, "space_id": collection.space_id, "lane": "bulk"}
        for seq in range(0, count, per_chunk):
            keys = [f"folder/of/images/{number:08}.jpg" for number in range(seq, seq + per_chunk)]
            data = rng.standard_normal((per_chunk, 64)).astype("<f4").tobytes()
            segment = {"id": tables.new_id(), "collection_id": collection.id, "count": per_chunk, "dim": 64}
            session.execute(
                sa.insert(tables.Segment),
                [segment | {"dtype": "float32", "checksum": vector_codec.checksum(data), "data": data}],
            )
            rows = [
                {"id": tables.new_id(), "collection_id": collection.id, "key": key, "content_hash": key[-64:],
                 "segment_id": segment["id"], "row": row, "revision": 1}
                for row, key in enumerate(keys)
            ]  # fmt: skip
            session.execute(sa.insert(tables.Image), rows)
            records = [ledger.Record(row["key"], ItemStatus.EMBEDDED, row["id"]) for row in rows]
            manifest = ledger.pack([{"key": key, "ref": {}} for key in keys])
            session.execute(
                sa.insert(tables.Chunk),
                [fields | {"job_id": job.id, "seq": seq, "kind": "embed", "status": "done", "size": per_chunk,
                           "embedded": per_chunk, "manifest": manifest, "ledger": ledger.pack(records)}],
            )  # fmt: skip
        session.execute(sa.update(tables.Chunk).where(tables.Chunk.seq < 0).values(status="done"))
        session.execute(
            sa.update(tables.Job).values(status="succeeded", total=count, embedded=count, planned=True, expires_at=None)
        )
        session.execute(sa.update(tables.Collection).values(image_count=count, revision=1))

    database.write(fill)
    tracemalloc.start()
    try:
        report = examine(hand)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found(report) == set()
    assert report.outcomes["ledger_images"].examined == report.outcomes["images_resolve"].examined == count
    # all keys alone are 2 MB as Python strings, all vectors 5 MB, all records of ledgers more
    assert peak < 6 << 20


@pytest.fixture
def run(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    app = typer.Typer()
    app.command()(command)
    for name in ("data_dir", "database_url"):
        monkeypatch.setenv(f"IMAGEKIN_{name.upper()}", str(getattr(hand.settings, name)))
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_the_command_says_what_it_found_and_exits_so(hand: Hand, run: Callable[..., Result]) -> None:
    healthy = run()
    assert healthy.exit_code == 0 and "image_count" in healthy.stdout
    hand.sql("UPDATE collections SET image_count = image_count + 1 WHERE name = 'photos'")
    sick = run("--json")
    assert sick.exit_code == 1
    outcome = next(one for one in json.loads(sick.stdout)["checks"] if one["name"] == "image_count")
    assert (outcome["found"], outcome["left"], outcome["repaired"]) == (1, 1, 0)
    assert "photos" in outcome["details"][0]
    repaired = run("--repair", "--json")
    assert repaired.exit_code == 0
    outcome = next(one for one in json.loads(repaired.stdout)["checks"] if one["name"] == "image_count")
    assert (outcome["found"], outcome["left"], outcome["repaired"]) == (1, 0, 1)
    hand.sql(f"DELETE FROM images WHERE {IMAGE}")
    lost = run("--repair")
    assert lost.exit_code == 1
    assert "ledger_images" in lost.stderr and "'06'" in lost.stderr


def test_float16_collections_are_held_to_their_dtype(hand: Hand) -> None:
    hand.collection("small", DType.FLOAT16)
    hand.sql("UPDATE chunks SET lane = 'elsewhere' WHERE status IN ('ready', 'claimed')")
    hand.embed(["a", "b"], name="small")
    assert found(examine(hand)) == set()
