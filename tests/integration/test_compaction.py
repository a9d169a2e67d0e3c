"""Upkeep on both databases: segments become fewer while readers read, what is deleted goes, in slices."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import sqlalchemy as sa

from imagekin import errors
from imagekin.database import tables
from imagekin.enums import JobStatus
from imagekin.jobs import end, finish, view
from imagekin.maintenance import collection_deletion, compaction, forgetting, upkeep
from imagekin.schemas.kinds import JobKind
from imagekin.store import ledger, reading, segments
from imagekin_worker.matrix.loaded import Residents, catch_up
from kit.archive import vector


@pytest.fixture
def keep(archive):
    return upkeep.Upkeep(archive.database, archive.storage)


def forget_now(archive):
    """Let an hour pass for the deleted, and the lives of all ledgers."""
    archive.sql("UPDATE images SET deleted_at = deleted_at - 7200")
    archive.sql("UPDATE jobs SET expires_at = 1")


def test_images_posted_one_by_one_share_a_segment_in_the_end(archive, keep):
    for number in range(compaction.FEWEST_SMALL - 1):
        archive.embed([f"{number:02}"])
    assert keep.run(9) == {}
    archive.embed(["last"])
    before = archive.collection().revision
    assert keep.run(9) == {"segments_merged": compaction.FEWEST_SMALL}
    assert archive.count(tables.Segment) == archive.count(tables.Thumbnails) == 1
    assert archive.collection().revision == before
    archive.check()
    assert keep.run(9) == {}


def test_dead_rows_go_and_the_living_stay_bit_by_bit(archive, keep):
    archive.embed([f"{number:03}" for number in range(80)], size=16)
    archive.delete(*[f"{number:03}" for number in range(0, 80, 3)])
    archive.embed([f"{number:03}" for number in range(1, 40, 3)], contents={f"{n:03}": f"new {n}" for n in range(40)})
    keep.run(9)
    collection = archive.collection()
    rows = archive.database.read(lambda s: s.scalar(sa.select(sa.func.sum(tables.Segment.count))))
    assert rows == collection.image_count == 80 - 27
    archive.check()


def test_a_little_waste_is_left_alone(archive, keep):
    archive.embed([f"{number:03}" for number in range(100)], size=50)
    archive.delete("000", "001")
    assert keep.run(9) == {}


def test_a_replaced_segment_goes_at_once(archive):
    archive.embed(["a"])
    archive.embed(["a"], contents={"a": "other"})
    assert archive.count(tables.Segment) == archive.count(tables.Thumbnails) == 1
    archive.check()


def test_readers_never_miss_what_is_being_moved(archive, keep):
    """Merge again and again under a reader that reads both ways."""
    faults: list[BaseException] = []
    stopped, reads = threading.Event(), 0

    def read():
        nonlocal reads
        try:
            while not stopped.is_set():
                archive.check()
                reads += 1
        except BaseException as fault:
            faults.append(fault)
            raise

    archive.embed([f"{number:03}" for number in range(24)], size=2)
    thread = threading.Thread(target=read)
    thread.start()
    try:
        merged = 0
        while (merged < 6 or reads < 3) and not faults:
            ids = archive.database.read(lambda s: s.scalars(sa.select(tables.Segment.id)).all())
            half = ids[: max(1, len(ids) // 2)]
            merged += archive.database.write(compaction.merge, archive.collection().id, half) > 0
    finally:
        stopped.set()
        thread.join()
    assert faults == []
    archive.check()


def test_a_segment_that_is_not_sound_is_left_for_the_doctor(archive, keep):
    for number in range(compaction.FEWEST_SMALL):
        archive.embed([f"{number:02}"])
    archive.sql("UPDATE segments SET checksum = 1 WHERE id = (SELECT min(id) FROM segments)")
    keep.run(9)
    assert archive.count(tables.Segment) == 2
    archive.check()


def test_nothing_moves_under_a_clustering(archive, keep):
    for number in range(compaction.FEWEST_SMALL):
        archive.embed([f"{number:02}"])
    job = archive.submit(kind=JobKind.CLUSTER)
    assert keep.run(9) == {}
    archive.database.write(end.cancel, "ann", job.id)
    assert keep.run(9) == {"segments_merged": compaction.FEWEST_SMALL}


def test_what_a_clustering_held_up_is_done_after_it(archive, keep, monkeypatch):
    for number in range(compaction.FEWEST_SMALL):
        archive.embed([f"{number:02}"])
    choose, begun = compaction.choose, []

    def beaten(*args):
        """Choose, and let a clustering begin before what was chosen is merged."""
        chosen = choose(*args)
        begun.append(archive.submit(kind=JobKind.CLUSTER))
        return chosen

    monkeypatch.setattr(compaction, "choose", beaten)
    assert keep.run(9) == {}
    monkeypatch.undo()
    archive.database.write(end.cancel, "ann", begun[0].id)
    assert keep.run(9) == {"segments_merged": compaction.FEWEST_SMALL}


def test_deleted_images_are_forgotten_when_no_ledger_names_them(archive, keep):
    archive.embed(["a", "b", "c"])
    archive.delete("a", "b")
    archive.sql("UPDATE images SET deleted_at = deleted_at - 7200")
    archive.sql("UPDATE jobs SET created_at = created_at - 7300")
    keep.run(9)
    assert archive.count(tables.Image) == 3, "the job's ledger names them"
    archive.sql("UPDATE jobs SET expires_at = 1")
    assert archive.database.write(forgetting.forget, archive.collection().id) == 2
    assert archive.count(tables.Image) == 1
    archive.check()
    assert archive.collection().pruned_revision == archive.collection().revision


def test_with_its_last_image_forgotten_a_segment_is_gone(archive):
    archive.embed(["a"])
    archive.delete("a")
    forget_now(archive)
    archive.database.write(forgetting.forget, archive.collection().id)
    assert archive.count(tables.Segment) == archive.count(tables.Thumbnails) == 0


def keys_of(archive, matrix):
    return sorted(archive.database.read(reading.keys, matrix.ids).values())


def test_a_matrix_from_before_what_is_forgotten_reads_anew(archive):
    archive.embed(["a", "b", "c"])
    residents = Residents(archive.database, 1 << 30)
    collection = archive.collection()
    assert keys_of(archive, residents.get(collection.id)) == ["a", "b", "c"]
    archive.delete("b")
    forget_now(archive)
    archive.database.write(forgetting.forget, collection.id)
    archive.embed(["d"])
    matrix = residents.get(collection.id)
    assert keys_of(archive, matrix) == ["a", "c", "d"]
    [image] = archive.database.read(lambda s: s.scalars(sa.select(tables.Image.id).filter_by(key="d")).all())
    np.testing.assert_array_equal(matrix.vector(image), vector("d"))


def test_a_matrix_that_saw_the_deletion_catches_up(archive):
    archive.embed(["a", "b"])
    collection = archive.collection()
    archive.delete("b")
    revision, matrix = archive.database.read(catch_up, collection.id)
    forget_now(archive)
    archive.database.write(forgetting.forget, collection.id)
    archive.embed(["c"])
    _, same = archive.database.read(catch_up, collection.id, revision, matrix)
    assert same is matrix and keys_of(archive, same) == ["a", "c"]


def test_a_deleted_collection_goes_in_slices_and_leaves_nothing(archive, keep, monkeypatch):
    monkeypatch.setattr(collection_deletion, "ROWS_PER_SLICE", 7)
    monkeypatch.setattr(collection_deletion, "SEGMENTS_PER_SLICE", 3)
    archive.embed([f"{number:02}" for number in range(40)], size=4)
    archive.embed(["kept"], name="other")
    cluster = archive.submit(kind=JobKind.CLUSTER)
    collection = archive.collection()
    centers = tables.Clustering(
        job_id=cluster.id, owner="ann", collection_id=collection.id, metric="cosine", n_clusters=1, dim=64,
        revision=1, centers=b"",
    )  # fmt: skip
    archive.database.write(finish.result, archive.claim(), {"clusters": []}, clustering=centers)
    open_job = archive.plan(["x"])
    archive.database.write(collection_deletion.delete, "ann", "photos")
    assert keep.run(9)["slices_removed"] > 40 // 7 + 10 // 3
    left = {table: archive.count(table) for table in (tables.Image, tables.Segment, tables.Thumbnails)}
    assert left == {tables.Image: 1, tables.Segment: 1, tables.Thumbnails: 1}
    assert archive.count(tables.Clustering) == archive.count(tables.ResultPart) == 0
    # who polls still learns how the job ended; its result has expired, as have the others'
    status = archive.database.read(lambda s: view.view(s, view.get(s, "ann", open_job.id)))
    assert (status.status, status.error.code) == (JobStatus.CANCELLED, "collection_deleted")
    assert status.expires_at is not None
    archive.sql("UPDATE collections SET deleted_at = deleted_at - 90000 WHERE deleted_at IS NOT NULL")
    keep.run(9)
    assert archive.count(tables.Collection) == archive.count(tables.Job) == 1
    archive.check("other")


def test_upkeep_stops_when_its_time_is_up_and_goes_on(archive, keep, monkeypatch):
    monkeypatch.setattr(collection_deletion, "ROWS_PER_SLICE", 1)
    archive.embed(["a", "b", "c"])
    archive.database.write(collection_deletion.delete, "ann", "photos")
    slices = 0
    while done := keep.run(0):
        assert done["slices_removed"] <= 1
        slices += done["slices_removed"]
    assert slices >= 3
    assert archive.count(tables.Image) == 0


def test_half_written_files_are_removed(archive, keep, monkeypatch):
    monkeypatch.setattr(upkeep, "ABANDONED_S", -1)
    archive.upload()
    part = archive.settings.data_dir / "storage" / "uploads" / ".x.part"
    part.write_bytes(b"half")
    assert keep.run(9) == {"files_abandoned": 1}
    assert not part.exists()


def test_a_deleted_collection_is_not_compacted(archive):
    archive.embed(["a"])
    collection = archive.collection()
    archive.database.write(collection_deletion.delete, "ann", "photos")
    with pytest.raises(errors.CollectionDeleted):
        archive.database.write(compaction.merge, collection.id, [])


def test_ledgers_of_replaced_images_keep_their_ids(archive):
    job = archive.embed(["a"])
    archive.embed(["a"], contents={"a": "other"})
    packed = archive.database.read(
        lambda s: s.scalar(sa.select(tables.Chunk.ledger).filter_by(job_id=job.id, kind="embed"))
    )
    [record] = ledger.records(packed)
    image = archive.database.read(lambda s: s.get_one(tables.Image, record.image_id))
    assert archive.database.read(segments.vector, image).tolist() == vector("other").tolist()
