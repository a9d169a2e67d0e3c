"""The doctor on both databases: a healthy system has no findings, each thing broken on purpose is found, and what is
safe to repair is repaired."""

from __future__ import annotations

import json
import os
import shutil
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import sqlalchemy as sa
import typer
from archive import Archive, vector
from typer.testing import CliRunner

from imagekin import catalog, collections, compaction, doctor, jobs, ledger, models, segments, upkeep, vectors
from imagekin.config import Settings
from imagekin.db import Database
from imagekin.doctor import dangling
from imagekin.doctor.command import doctor as command
from imagekin.types import ChunkKind, DType, ItemStatus, JobKind, Lane, Precision


def live_an_eventful_life(archive: Archive) -> None:
    """Have everything happen that may happen to jobs, images, uploads and collections."""
    keys = [f"{number:02}" for number in range(12)]
    archive.embed(keys, size=4, broken=["05"], upload_id=archive.upload())
    archive.embed(["00", "01", "twin"], contents={"00": "replaced", "twin": "02"})
    archive.embed(["a", "a", "02"], name="half", contents={"a": "02"})
    archive.delete("03", "04")
    archive.upload()
    # cancelled with a chunk done, one claimed and one ready; and while it is being planned
    cancelled = archive.plan(["x1", "x2", "x3"], size=1)
    archive.finish(archive.claim(), "photos", {})
    archive.claim()
    archive.database.write(jobs.cancel, "ann", cancelled.id)
    planning = archive.submit()
    pieces = [[{"key": "y", "ref": {}}]]
    archive.database.write(jobs.plan, archive.claim(), pieces, ignored=0, cursor=None, finished=False)
    archive.database.write(jobs.cancel, "ann", planning.id)
    # poison: split down to the image
    archive.plan(["p1", "p2", "poison", "p3"])
    for _ in range(20):
        claims = archive.database.write(jobs.claim, Lane.BULK, models.new_id(), archive.settings)
        for claim in claims:
            if "poison" in manifest_keys(archive, claim):
                archive.database.write(jobs.died, claim.claimed_by, "signal 9", archive.settings)
            else:
                archive.finish(claim, "photos", {})
    archive.search()
    failed = archive.submit(kind=JobKind.SEARCH)
    archive.claim(Lane.INTERACTIVE)
    archive.database.write(jobs.fail, failed.id, "internal_error", "broken")
    expired = archive.embed(["e"])
    archive.sql("UPDATE jobs SET expires_at = 1 WHERE id = :id", id=expired.id)
    archive.database.write(jobs.sweep, archive.settings)
    archive.embed(["gone"], name="gone")
    archive.database.write(collections.delete, "ann", "gone")
    archive.plan(["open1", "open2"], size=1)
    archive.claim()
    # the tests that look at this may take longer than a lease
    archive.sql("UPDATE chunks SET lease_until = lease_until + 86400 WHERE status = 'claimed'")


def manifest_keys(archive: Archive, claim: jobs.Claim) -> list[str]:
    query = sa.select(models.Chunk.manifest).filter_by(job_id=claim.job_id, seq=claim.seq)
    return [entry["key"] for entry in ledger.unpack(archive.database.read(lambda s: s.scalar(query)))]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def healthy(request, tmp_path_factory) -> Archive:
    """A system where much has happened, to copy: all the tests look at the same."""
    folder = tmp_path_factory.mktemp("healthy")
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_sqlite"), folder / "imagekin.db")
        url = f"sqlite:///{folder / 'imagekin.db'}"
    else:
        server = request.getfixturevalue("postgresql")
        url = server.create("healthy", request.getfixturevalue("migrated_postgresql"))
    archive = Archive(Database(url), Settings(data_dir=folder, database_url=url, weights_dir=folder / "weights"))
    live_an_eventful_life(archive)
    archive.database.dispose()
    yield archive
    if request.param == "postgresql":
        server.drop("healthy")


@pytest.fixture
def archive(request, healthy, tmp_path) -> Iterator[Archive]:
    shutil.copytree(healthy.settings.data_dir, tmp_path, dirs_exist_ok=True)
    url, server = f"sqlite:///{tmp_path / 'imagekin.db'}", None
    if not healthy.database.is_sqlite:
        server, name = request.getfixturevalue("postgresql"), f"sick_{os.urandom(6).hex()}"
        url = server.create(name, "healthy")
    archive = Archive(Database(url), healthy.settings.model_copy(update={"data_dir": tmp_path, "database_url": url}))
    archive.contents = {name: dict(held) for name, held in healthy.contents.items()}
    yield archive
    archive.database.dispose()
    if server is not None:
        server.drop(name)


def examine(archive: Archive, *, repair: bool = False) -> doctor.Report:
    return doctor.examine(archive.database, archive.storage, archive.settings, repair=repair)


def found(report: doctor.Report) -> set[str]:
    return {outcome.name for outcome in report.outcomes.values() if outcome.found}


def left(report: doctor.Report) -> set[str]:
    return {outcome.name for outcome in report.outcomes.values() if outcome.left}


def test_a_healthy_system_has_no_findings(archive):
    report = examine(archive)
    assert [(one.name, one.details) for one in report.outcomes.values() if one.found] == []
    assert report.ok
    unseen = {one.name for one in report.outcomes.values() if not one.examined}
    assert unseen == {"deleted_collections"}


def test_after_upkeep_it_is_healthy_still(archive, monkeypatch):
    monkeypatch.setattr(compaction, "FEWEST_SMALL", 2)
    archive.sql("UPDATE images SET deleted_at = deleted_at - 7200")
    archive.sql("UPDATE jobs SET created_at = created_at - 7300")
    done = upkeep.Upkeep(archive.database, archive.storage).run(9)
    assert done["slices_removed"] and done["segments_merged"]
    assert found(examine(archive)) == set()


# --- breaking ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Something to break, and which checks then find something, before and after repair."""

    do: Callable[[Archive], object] | tuple[str, ...]
    found: set[str]
    left: set[str]
    name: str

    def strike(self, archive: Archive) -> None:
        if callable(self.do):
            self.do(archive)
            return
        for statement in self.do:
            assert archive.sql(statement) == 1, statement


# the eventful life's jobs, chunks and images by something that only they have
EMBED = "(SELECT job_id FROM chunks WHERE kind = 'embed' AND status = 'done' AND failed = 1 AND size = 4)"
CANCELLED = "(SELECT min(job_id) FROM chunks WHERE kind = 'embed' AND status = 'cancelled')"
SEARCH = "(SELECT job_id FROM results)"
PHOTOS = "(SELECT id FROM collections WHERE name = 'photos')"
IMAGE = "key = '06'"
SEGMENT = "(SELECT segment_id FROM images WHERE key = '06')"


def statements(*sql: str, found: set[str], left: set[str] | None = None, name: str = "") -> Fault:
    return Fault(sql, found, found if left is None else left, name or sql[0][:60])


def fault(do: Callable[[Archive], object], found: set[str], left: set[str] | None = None) -> Fault:
    return Fault(do, found, found if left is None else left, do.__name__)


def rewrite_ledger(archive: Archive, change: Callable[[list[ledger.Record]], object]) -> None:
    def rewrite(session):
        chunk = session.scalars(
            sa.select(models.Chunk).filter_by(kind=ChunkKind.EMBED, status="done", failed=1, size=4)
        ).one()
        records = ledger.records(chunk.ledger)
        changed = change(records)
        chunk.ledger = changed if isinstance(changed, bytes) else ledger.pack(records)

    archive.database.write(rewrite)


def ledger_in_another_order(archive):
    rewrite_ledger(archive, lambda records: records.reverse())


def ledger_with_another_status(archive):
    rewrite_ledger(archive, lambda r: r.__setitem__(0, r[0]._replace(status=ItemStatus.REUSED)))


def ledger_of_noise(archive):
    rewrite_ledger(archive, lambda _: b"noise")


def segment_of(archive, change: Callable[[models.Segment], None]) -> None:
    def rewrite(session):
        image = session.scalars(sa.select(models.Image).filter_by(key="06")).one()
        change(session.get_one(models.Segment, image.segment_id))

    archive.database.write(rewrite)


def vectors_of_nan(archive):
    def change(segment):
        segment.data = b"\xff" * len(segment.data)
        segment.checksum = vectors.checksum(segment.data)

    segment_of(archive, change)


def one_bit_of_a_vector(archive):
    def change(segment):
        segment.data = segment.data[:-1] + bytes([segment.data[-1] ^ 1])

    segment_of(archive, change)


def a_segment_too_short(archive):
    def change(segment):
        segment.data = segment.data[:-4]
        segment.checksum = vectors.checksum(segment.data)

    segment_of(archive, change)


def thumbnails_that_overlap(archive):
    def change(session):
        image = session.scalars(sa.select(models.Image).filter_by(key="06")).one()
        pack = session.get_one(models.Thumbnails, image.segment_id)
        ends = np.frombuffer(pack.offsets, "<u4").copy()
        ends[1] = ends[2] + 1
        pack.offsets = ends.tobytes()

    archive.database.write(change)


def two_images_of_one_key(archive):
    archive.sql("DROP INDEX uq_images_collection_key")
    archive.sql("UPDATE images SET key = '07' WHERE key = '06'")


def a_search_without_an_end(archive):
    archive.sql(f"UPDATE jobs SET status = 'running', finished_at = NULL, expires_at = NULL WHERE id = {SEARCH}")


def a_search_without_result_or_end(archive):
    a_search_without_an_end(archive)
    archive.sql("DELETE FROM results")


def a_job_without_its_chunks(archive):
    archive.sql(f"DELETE FROM chunks WHERE job_id = {EMBED}")


def a_segment_that_nobody_needs(archive):
    archive.sql(
        "INSERT INTO segments (id, collection_id, count, dim, dtype, checksum, created_at, data)"
        f" SELECT 'lonely', collection_id, count, dim, dtype, checksum, created_at, data FROM segments"
        f" WHERE id = {SEGMENT}"
    )


def a_file_without_an_upload(archive):
    archive.storage.write("uploads/orphan", [b"bytes"], 100)
    os.utime(archive.settings.data_dir / "storage" / "uploads" / "orphan", (1, 1))


def an_upload_without_its_file(archive):
    archive.storage.delete(archive.database.read(lambda s: s.scalar(sa.select(sa.func.min(models.Upload.path)))))


def an_upload_past_its_life(archive):
    path = archive.database.read(
        lambda s: s.scalar(
            sa.select(models.Upload.path).where(
                models.Upload.id.not_in(sa.select(models.Job.upload_id).where(models.Job.upload_id.is_not(None)))
            )
        )
    )
    assert archive.sql("UPDATE uploads SET expires_at = 1 WHERE path = :path", path=path) == 1
    assert archive.storage.exists(path)


def a_collection_deleted_long_ago(archive):
    archive.sql("UPDATE collections SET deleted_at = deleted_at - 7200 WHERE deleted_at IS NOT NULL")


def without_foreign_keys(*sql: str) -> Callable[[Archive], None]:
    def do(archive: Archive) -> None:
        with archive.database.engine.connect() as connection:
            raw = connection.connection.driver_connection
            if archive.database.is_sqlite:
                cursor = raw.cursor()
                for statement in ("PRAGMA foreign_keys=OFF", *sql, "PRAGMA foreign_keys=ON"):
                    cursor.execute(statement)
                cursor.close()
            else:
                with raw.cursor() as cursor:
                    for statement in ("SET LOCAL session_replication_role = replica", *sql):
                        cursor.execute(statement)
                raw.commit()

    do.__name__ = sql[0][:60]
    return do


DANGLING = {"dangling_rows"}
FAULTS = [
    statements(f"UPDATE jobs SET total = total + 1 WHERE id = {EMBED}", found={"job_counts", "job_sums"}),
    statements(f"UPDATE jobs SET embedded = embedded - 1, reused = reused + 1 WHERE id = {EMBED}", found={"job_sums"}),
    statements(
        f"UPDATE chunks SET embedded = embedded + 1 WHERE job_id = {EMBED} AND seq = 0",
        found={"job_sums", "ledger_counts"},
    ),
    statements(f"UPDATE chunks SET seq = 9 WHERE job_id = {EMBED} AND seq = 8", found={"job_sums"}),
    fault(a_job_without_its_chunks, {"job_sums"}),
    statements(
        f"UPDATE jobs SET status = 'running', finished_at = NULL WHERE id = {EMBED}", found={"job_ends"}, left=set()
    ),
    statements(
        f"UPDATE chunks SET status = 'ready' WHERE job_id = {CANCELLED} AND status = 'cancelled' AND seq = 2",
        found={"job_ends", "job_sums"},
        left=set(),
    ),
    fault(a_search_without_an_end, {"job_ends"}, set()),
    fault(a_search_without_result_or_end, {"job_ends"}, set()),
    statements("DELETE FROM results", found={"job_results"}),
    fault(ledger_in_another_order, {"ledger_keys"}),
    fault(ledger_with_another_status, {"ledger_counts"}),
    fault(ledger_of_noise, {"ledger_counts"}),
    statements(f"DELETE FROM images WHERE {IMAGE}", found={"ledger_images", "image_count"}, left={"ledger_images"}),
    statements(
        "UPDATE collections SET image_count = image_count + 1 WHERE name = 'photos'",
        found={"image_count"},
        left=set(),
    ),
    statements("UPDATE collections SET revision = 1 WHERE name = 'photos'", found={"revisions"}),
    statements("UPDATE collections SET pruned_revision = 999 WHERE name = 'photos'", found={"revisions"}),
    fault(two_images_of_one_key, {"unique_keys", "ledger_images"}),
    statements(f"UPDATE images SET row = 999 WHERE {IMAGE}", found={"images_resolve"}),
    statements(
        f"UPDATE images SET row = (SELECT row FROM images WHERE key = '07') WHERE {IMAGE}", found={"images_resolve"}
    ),
    statements(
        "UPDATE images SET row = 0, segment_id = (SELECT min(segments.id) FROM segments JOIN collections"
        f" ON collections.id = collection_id WHERE name = 'half') WHERE {IMAGE}",
        found={"images_resolve"},
    ),
    fault(a_segment_that_nobody_needs, {"segments_used"}, set()),
    fault(a_segment_too_short, {"segment_shape"}),
    statements(f"UPDATE segments SET dtype = 'float16' WHERE id = {SEGMENT}", found={"segment_shape"}),
    fault(one_bit_of_a_vector, {"segment_checksum"}),
    fault(vectors_of_nan, {"vectors_finite"}),
    fault(thumbnails_that_overlap, {"thumbnail_offsets"}),
    statements("UPDATE spaces SET precision = 'fast'", found={"spaces"}),
    statements("UPDATE chunks SET lease_until = 1 WHERE status = 'claimed'", found={"leases"}, left=set()),
    statements("UPDATE chunks SET lease_until = NULL WHERE status = 'claimed'", found={"leases"}, left=set()),
    statements(f"UPDATE jobs SET expires_at = 1 WHERE id = {EMBED}", found={"expired_jobs"}, left=set()),
    fault(an_upload_past_its_life, {"expired_uploads"}, set()),
    fault(an_upload_without_its_file, {"upload_files"}),
    fault(a_file_without_an_upload, {"orphan_files"}, set()),
    fault(a_collection_deleted_long_ago, {"deleted_collections"}, set()),
    fault(without_foreign_keys(f"DELETE FROM jobs WHERE id = {SEARCH}"), DANGLING, set()),
    fault(without_foreign_keys(f"DELETE FROM jobs WHERE id = {CANCELLED}"), DANGLING, set()),
    fault(
        without_foreign_keys("UPDATE thumbnails SET segment_id = 'none' WHERE segment_id = " + SEGMENT),
        DANGLING,
        set(),
    ),
    fault(without_foreign_keys("UPDATE jobs SET collection_id = 'none' WHERE id = " + SEARCH), DANGLING),
    statements("UPDATE alembic_version SET version_num = '9999'", found={"migrated"}),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_is_broken_is_found_and_repaired_where_that_is_safe(archive, fault):
    fault.strike(archive)
    report = examine(archive, repair=True)
    assert found(report) == fault.found
    assert left(report) == fault.left, [one.details for one in report.outcomes.values() if one.left]
    assert {one.name for one in report.outcomes.values() if one.repaired} == fault.found - fault.left
    assert {one.name for one in report.outcomes.values() if one.details} == fault.left
    assert report.ok == (not fault.left)


def test_a_repair_takes_nothing_that_is_needed(archive):
    before = {name: archive.count(table) for name, table in TABLES.items()}
    assert examine(archive, repair=True).ok
    assert {name: archive.count(table) for name, table in TABLES.items()} == before
    archive.storage.write("uploads/young", [b"being sent"], 100)
    assert examine(archive, repair=True).ok
    assert archive.storage.exists("uploads/young")


TABLES = {mapper.class_.__tablename__: mapper.class_ for mapper in models.Base.registry.mappers}


def test_every_check_has_a_fault():
    named = set().union(*(fault.found for fault in FAULTS))
    assert named == {check.name for check in doctor.examination.CHECKS}


def test_every_foreign_key_is_looked_after():
    named = {(child.__tablename__, column) for child, column, _ in dangling.REFERENCES}
    keys = {(key.parent.table.name, key.parent.name) for table in TABLES.values() for key in foreign_keys(table)}
    # an image without its segment has a check of its own
    assert keys - named == {("images", "segment_id")}
    assert named <= keys


def foreign_keys(table: type[models.Base]) -> set[sa.ForeignKey]:
    return sa.inspect(table).local_table.foreign_keys


# --- live systems, large ones, the command -----------------------------------------------------------------------


def test_a_live_system_gives_no_false_alarm(archive):
    """Examine again and again while images come, change, move and go."""
    stopped, faults, rounds = threading.Event(), [], 0

    def live():
        nonlocal rounds
        try:
            while not stopped.is_set():
                name = f"live{rounds}"
                archive.embed([f"{number}" for number in range(6)], name=name, size=2)
                archive.embed(["0", "1", "2"], name=name, contents={"0": "new", "1": f"new {rounds}"}, size=2)
                archive.delete("3", name=name)
                ids = archive.database.read(lambda s: s.scalars(sa.select(models.Segment.id)).all())
                archive.database.write(compaction.merge, archive.collection(name).id, ids)
                archive.database.write(jobs.cancel, "ann", archive.submit(name).id)
                archive.database.write(collections.delete, "ann", name)
                upkeep.Upkeep(archive.database, archive.storage).run(1)
                rounds += 1
        except BaseException as fault:
            faults.append(fault)
            raise

    # what is open in the healthy system would be claimed by the hand
    archive.sql("UPDATE chunks SET lane = 'elsewhere' WHERE status IN ('ready', 'claimed')")
    thread = threading.Thread(target=live)
    thread.start()
    alarms = []
    try:
        while rounds < 3 and not faults:
            report = examine(archive)
            alarms += [one.details for one in report.outcomes.values() if one.found]
    finally:
        stopped.set()
        thread.join()
    assert faults == []
    assert alarms == []


@pytest.mark.parametrize("engine", ["sqlite"])
def test_memory_does_not_grow_with_the_database(database, settings):
    """Twenty thousand images, of which an examination never holds more than a part."""
    archive = Archive(database, settings)
    collection = archive.collection()
    count, per_chunk = 20_000, 100
    job = archive.submit()
    rng = np.random.default_rng(0)

    def fill(session):
        fields = {"owner": "ann", "collection_id": collection.id, "space_id": collection.space_id, "lane": "bulk"}
        for seq in range(0, count, per_chunk):
            keys = [f"folder/of/images/{number:08}.jpg" for number in range(seq, seq + per_chunk)]
            data = rng.standard_normal((per_chunk, 64)).astype("<f4").tobytes()
            segment = {"id": models.new_id(), "collection_id": collection.id, "count": per_chunk, "dim": 64}
            session.execute(
                sa.insert(models.Segment),
                [segment | {"dtype": "float32", "checksum": vectors.checksum(data), "data": data}],
            )
            rows = [
                {"id": models.new_id(), "collection_id": collection.id, "key": key, "content_hash": key[-64:],
                 "segment_id": segment["id"], "row": row, "revision": 1}
                for row, key in enumerate(keys)
            ]  # fmt: skip
            session.execute(sa.insert(models.Image), rows)
            records = [ledger.Record(row["key"], ItemStatus.EMBEDDED, row["id"]) for row in rows]
            manifest = ledger.pack([{"key": key, "ref": {}} for key in keys])
            session.execute(
                sa.insert(models.Chunk),
                [fields | {"job_id": job.id, "seq": seq, "kind": "embed", "status": "done", "size": per_chunk,
                           "embedded": per_chunk, "manifest": manifest, "ledger": ledger.pack(records)}],
            )  # fmt: skip
        session.execute(sa.update(models.Chunk).where(models.Chunk.seq < 0).values(status="done"))
        session.execute(
            sa.update(models.Job).values(status="succeeded", total=count, embedded=count, planned=True, expires_at=None)
        )
        session.execute(sa.update(models.Collection).values(image_count=count, revision=1))

    database.write(fill)
    tracemalloc.start()
    try:
        report = examine(archive)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found(report) == set()
    assert report.outcomes["ledger_images"].examined == report.outcomes["images_resolve"].examined == count
    # all keys alone are 2 MB as Python strings, all vectors 5 MB, all records of ledgers more
    assert peak < 6 << 20


@pytest.fixture
def run(archive, monkeypatch):
    app = typer.Typer()
    app.command()(command)
    for name in ("data_dir", "database_url"):
        monkeypatch.setenv(f"IMAGEKIN_{name.upper()}", str(getattr(archive.settings, name)))
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_the_command_says_what_it_found_and_exits_so(archive, run):
    healthy = run()
    assert healthy.exit_code == 0 and "image_count" in healthy.stdout
    archive.sql("UPDATE collections SET image_count = image_count + 1 WHERE name = 'photos'")
    sick = run("--json")
    assert sick.exit_code == 1
    outcome = next(one for one in json.loads(sick.stdout)["checks"] if one["name"] == "image_count")
    assert (outcome["found"], outcome["left"], outcome["repaired"]) == (1, 1, 0)
    assert "photos" in outcome["details"][0]
    repaired = run("--repair", "--json")
    assert repaired.exit_code == 0
    outcome = next(one for one in json.loads(repaired.stdout)["checks"] if one["name"] == "image_count")
    assert (outcome["found"], outcome["left"], outcome["repaired"]) == (1, 0, 1)
    archive.sql(f"DELETE FROM images WHERE {IMAGE}")
    lost = run("--repair")
    assert lost.exit_code == 1
    assert "ledger_images" in lost.stderr and "'06'" in lost.stderr


def test_vectors_survive_a_repair(archive):
    archive.sql("UPDATE collections SET image_count = 0")
    assert examine(archive, repair=True).ok
    image = archive.database.read(lambda s: s.scalars(sa.select(models.Image).filter_by(key="06")).one())
    assert archive.database.read(segments.vector, image).tobytes() == vector("06").tobytes()


def test_float16_collections_are_held_to_their_dtype(archive):
    space = catalog.resolve_space("fake", None, Precision.EXACT, archive.settings.weights_dir)
    archive.database.write(collections.create, "ann", "small", space, DType.FLOAT16)
    archive.contents["small"] = {}
    archive.sql("UPDATE chunks SET lane = 'elsewhere' WHERE status IN ('ready', 'claimed')")
    archive.embed(["a", "b"], name="small")
    assert found(examine(archive)) == set()
