"""Upkeep on both databases: segments become fewer while readers read, what is deleted goes, in slices."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from imagekin import errors
from imagekin.database import tables
from imagekin.enums import JobStatus
from imagekin.jobs import end, finish, view
from imagekin.maintenance import collection_deletion, compaction, forgetting, upkeep
from imagekin.schemas.kinds import JobKind
from imagekin.store import ledger, reading, segments, signs
from imagekin_worker.matrix.loaded import Residents, catch_up
from imagekin_worker.matrix.neighbors import Matrix
from kit.hand import Hand, vector


@pytest.fixture
def keep(hand: Hand) -> upkeep.Upkeep:
    return upkeep.Upkeep(hand.database, hand.storage)


def forget_now(hand: Hand) -> None:
    """Let an hour pass for the deleted, and the lives of all ledgers."""
    hand.sql("UPDATE images SET deleted_at = deleted_at - 7200")
    hand.sql("UPDATE jobs SET expires_at = 1")


def test_images_posted_one_by_one_share_a_segment_in_the_end(hand: Hand, keep: upkeep.Upkeep) -> None:
    for number in range(compaction.FEWEST_SMALL - 1):
        hand.embed([f"{number:02}"])
    assert keep.run(9) == {}
    hand.embed(["last"])
    before = hand.collection().revision
    assert keep.run(9) == {"segments_merged": compaction.FEWEST_SMALL}
    assert hand.count(tables.Segment) == hand.count(tables.Thumbnails) == 1
    assert hand.collection().revision == before
    hand.check()
    assert keep.run(9) == {}


def test_dead_rows_go_and_the_living_stay_bit_by_bit(hand: Hand, keep: upkeep.Upkeep) -> None:
    hand.embed([f"{number:03}" for number in range(80)], size=16)
    hand.delete(*[f"{number:03}" for number in range(0, 80, 3)])
    hand.embed([f"{number:03}" for number in range(1, 40, 3)], contents={f"{n:03}": f"new {n}" for n in range(40)})
    keep.run(9)
    collection = hand.collection()
    rows = hand.database.read(lambda s: s.scalar(sa.select(sa.func.sum(tables.Segment.count))))
    assert rows == collection.image_count == 80 - 27
    hand.check()


def test_signs_go_with_their_rows(hand: Hand, keep: upkeep.Upkeep) -> None:
    names = [f"{number:03}" for number in range(40)]
    hand.embed(names, size=8)
    ids = hand.database.read(lambda session: dict(session.execute(sa.select(tables.Image.key, tables.Image.id)).all()))
    known = signs.unknown(20)
    known["hash"], known["mirror"], known["state"] = np.arange(20), np.arange(20) + 100, signs.SEEN
    hand.database.write(signs.keep, [ids[name] for name in names[:20]], known)
    hand.delete(*names[::3])
    assert keep.run(9)
    left = [name for at, name in enumerate(names) if at % 3]
    found = hand.database.read(signs.kept, [ids[name] for name in left])
    expected = [at if at < 20 else 0 for at in range(40) if at % 3]
    assert found["hash"].tolist() == expected
    assert found["state"].tolist() == [signs.SEEN if int(name) < 20 else signs.UNKNOWN for name in left]
    hand.delete(*left)
    forget_now(hand)
    hand.database.write(forgetting.forget, hand.collection().id)
    assert hand.count(tables.Segment) == hand.count(tables.Signs) == 0
    # of a segment that is gone nothing is kept
    hand.database.write(signs.keep, [ids["001"]], known[:1])
    assert hand.count(tables.Signs) == 0


def test_a_little_waste_is_left_alone(hand: Hand, keep: upkeep.Upkeep) -> None:
    hand.embed([f"{number:03}" for number in range(100)], size=50)
    hand.delete("000", "001")
    assert keep.run(9) == {}


def test_a_replaced_segment_goes_at_once(hand: Hand) -> None:
    hand.embed(["a"])
    hand.embed(["a"], contents={"a": "other"})
    assert hand.count(tables.Segment) == hand.count(tables.Thumbnails) == 1
    hand.check()


def test_readers_never_miss_what_is_being_moved(hand: Hand, keep: upkeep.Upkeep) -> None:
    """Merge again and again under a reader that reads both ways."""
    faults: list[BaseException] = []
    stopped, reads = threading.Event(), 0

    def read() -> None:
        nonlocal reads
        try:
            while not stopped.is_set():
                hand.check()
                reads += 1
        except BaseException as fault:
            faults.append(fault)
            raise

    hand.embed([f"{number:03}" for number in range(24)], size=2)
    thread = threading.Thread(target=read)
    thread.start()
    try:
        merged = 0
        while (merged < 6 or reads < 3) and not faults:
            ids = hand.database.read(lambda s: s.scalars(sa.select(tables.Segment.id)).all())
            half = ids[: max(1, len(ids) // 2)]
            merged += compaction.merge(hand.database, hand.collection().id, half) > 0
    finally:
        stopped.set()
        thread.join()
    assert faults == []
    hand.check()


def test_a_segment_that_is_not_sound_is_left_for_the_doctor(hand: Hand, keep: upkeep.Upkeep) -> None:
    for number in range(compaction.FEWEST_SMALL):
        hand.embed([f"{number:02}"])
    hand.sql("UPDATE segments SET checksum = 1 WHERE id = (SELECT min(id) FROM segments)")
    keep.run(9)
    assert hand.count(tables.Segment) == 2
    hand.check()


def test_nothing_moves_under_a_clustering(hand: Hand, keep: upkeep.Upkeep) -> None:
    for number in range(compaction.FEWEST_SMALL):
        hand.embed([f"{number:02}"])
    job = hand.submit(kind=JobKind.CLUSTER)
    assert keep.run(9) == {}
    hand.database.write(end.cancel, "ann", job.id)
    assert keep.run(9) == {"segments_merged": compaction.FEWEST_SMALL}


def test_what_a_clustering_held_up_is_done_after_it(
    hand: Hand, keep: upkeep.Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(compaction.FEWEST_SMALL):
        hand.embed([f"{number:02}"])
    choose, begun = compaction.choose, []

    def beaten(*args: Any) -> Any:
        """Choose, and let a clustering begin before what was chosen is merged."""
        chosen = choose(*args)
        begun.append(hand.submit(kind=JobKind.CLUSTER))
        return chosen

    monkeypatch.setattr(compaction, "choose", beaten)
    assert keep.run(9) == {}
    monkeypatch.undo()
    hand.database.write(end.cancel, "ann", begun[0].id)
    assert keep.run(9) == {"segments_merged": compaction.FEWEST_SMALL}


def test_deleted_images_are_forgotten_when_no_ledger_names_them(hand: Hand, keep: upkeep.Upkeep) -> None:
    hand.embed(["a", "b", "c"])
    hand.delete("a", "b")
    hand.sql("UPDATE images SET deleted_at = deleted_at - 7200")
    hand.sql("UPDATE jobs SET created_at = created_at - 7300")
    keep.run(9)
    assert hand.count(tables.Image) == 3, "the job's ledger names them"
    hand.sql("UPDATE jobs SET expires_at = 1")
    assert hand.database.write(forgetting.forget, hand.collection().id) == 2
    assert hand.count(tables.Image) == 1
    hand.check()
    assert hand.collection().pruned_revision == hand.collection().revision


def test_with_its_last_image_forgotten_a_segment_is_gone(hand: Hand) -> None:
    hand.embed(["a"])
    hand.delete("a")
    forget_now(hand)
    hand.database.write(forgetting.forget, hand.collection().id)
    assert hand.count(tables.Segment) == hand.count(tables.Thumbnails) == 0


def keys_of(hand: Hand, matrix: Matrix) -> list[str]:
    return sorted(hand.database.read(reading.keys, matrix.ids).values())


def test_a_matrix_from_before_what_is_forgotten_reads_anew(hand: Hand) -> None:
    hand.embed(["a", "b", "c"])
    residents = Residents(hand.database, 1 << 30)
    collection = hand.collection()
    assert keys_of(hand, residents.get(collection.id)) == ["a", "b", "c"]
    hand.delete("b")
    forget_now(hand)
    hand.database.write(forgetting.forget, collection.id)
    hand.embed(["d"])
    matrix = residents.get(collection.id)
    assert keys_of(hand, matrix) == ["a", "c", "d"]
    [image] = hand.database.read(lambda s: s.scalars(sa.select(tables.Image.id).filter_by(key="d")).all())
    np.testing.assert_array_equal(matrix.vector(image), vector("d"))


def test_a_matrix_that_saw_the_deletion_catches_up(hand: Hand) -> None:
    hand.embed(["a", "b"])
    collection = hand.collection()
    hand.delete("b")
    revision, matrix = hand.database.read(catch_up, collection.id)
    forget_now(hand)
    hand.database.write(forgetting.forget, collection.id)
    hand.embed(["c"])
    _, same = hand.database.read(catch_up, collection.id, revision, matrix)
    assert same is matrix and keys_of(hand, same) == ["a", "c"]


def test_a_deleted_collection_goes_in_slices_and_leaves_nothing(
    hand: Hand, keep: upkeep.Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection_deletion, "ROWS_PER_SLICE", 7)
    monkeypatch.setattr(collection_deletion, "SEGMENTS_PER_SLICE", 3)
    hand.embed([f"{number:02}" for number in range(40)], size=4)
    hand.embed(["kept"], name="other")
    cluster = hand.submit(kind=JobKind.CLUSTER)
    collection = hand.collection()
    centers = tables.Clustering(
        job_id=cluster.id, owner="ann", collection_id=collection.id, metric="cosine", n_clusters=1, dim=64,
        revision=1, centers=b"",
    )  # fmt: skip
    hand.database.write(finish.result, hand.claim(), {"clusters": []}, clustering=centers)
    open_job = hand.plan(["x"])
    hand.database.write(collection_deletion.delete, "ann", "photos")
    assert keep.run(9)["slices_removed"] > 40 // 7 + 10 // 3
    left = {table: hand.count(table) for table in (tables.Image, tables.Segment, tables.Thumbnails)}
    assert left == {tables.Image: 1, tables.Segment: 1, tables.Thumbnails: 1}
    assert hand.count(tables.Clustering) == hand.count(tables.ResultPart) == 0
    # who polls still learns how the job ended; its result has expired, as have the others'
    status = hand.database.read(lambda s: view.view(s, view.get(s, "ann", open_job.id)))
    assert (status.status, status.error and status.error.code) == (JobStatus.CANCELLED, "collection_deleted")
    assert status.expires_at is not None
    hand.sql("UPDATE collections SET deleted_at = deleted_at - 90000 WHERE deleted_at IS NOT NULL")
    keep.run(9)
    assert hand.count(tables.Collection) == hand.count(tables.Job) == 1
    hand.check("other")


def test_upkeep_stops_when_its_time_is_up_and_goes_on(
    hand: Hand, keep: upkeep.Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection_deletion, "ROWS_PER_SLICE", 1)
    hand.embed(["a", "b", "c"])
    hand.database.write(collection_deletion.delete, "ann", "photos")
    slices = 0
    while done := keep.run(0):
        assert done["slices_removed"] <= 1
        slices += done["slices_removed"]
    assert slices >= 3
    assert hand.count(tables.Image) == 0


def test_half_written_files_are_removed(hand: Hand, keep: upkeep.Upkeep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "ABANDONED_S", -1)
    hand.upload()
    part = hand.settings.data_dir / "storage" / "uploads" / ".x.part"
    part.write_bytes(b"half")
    assert keep.run(9) == {"files_abandoned": 1}
    assert not part.exists()


def test_a_deleted_collection_is_not_compacted(hand: Hand) -> None:
    hand.embed(["a"])
    collection = hand.collection()
    hand.database.write(collection_deletion.delete, "ann", "photos")
    with pytest.raises(errors.CollectionDeleted):
        compaction.merge(hand.database, collection.id, [])


def test_ledgers_of_replaced_images_keep_their_ids(hand: Hand) -> None:
    job = hand.embed(["a"])
    hand.embed(["a"], contents={"a": "other"})
    packed = hand.database.read(
        lambda s: s.scalar(sa.select(tables.Chunk.ledger).filter_by(job_id=job.id, kind="embed"))
    )
    [record] = ledger.records(packed or b"")
    image = hand.database.read(lambda s: s.get_one(tables.Image, record.image_id))
    assert hand.database.read(segments.vector, image).tolist() == vector("other").tolist()
