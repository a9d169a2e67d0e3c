"""Vectors and thumbnails in a folder or on S3: written before the rows that name them, removed after, never missed."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import OnConflict
from imagekin.jobs import finish as finish_step
from imagekin.maintenance import compaction, expiry, upkeep
from imagekin.settings import Settings
from imagekin.store import blobs, exports, reuse, segments, thumbnails
from imagekin_worker.matrix.loaded import catch_up
from kit.blobs import inside, named, settle, there
from kit.breakages import examine, found, left
from kit.hand import Hand, numbered, thumbnail, vector, whole
from kit.patience import PATIENCE_S


def test_all_that_reads_and_writes_works_with_blobs_outside(
    hand: Hand, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "FEWEST_SMALL", 2)
    hand.embed(numbered(40), size=8)
    hand.embed(["003", "017"], contents={"003": "new", "017": "newer"})
    hand.delete("005", "006", "007", "020")
    assert inside(hand) == [0, 0]
    assert there(url) == named(hand)
    hand.check()
    collection = hand.collection()
    _, matrix = hand.database.read(catch_up, collection.id)
    assert len(matrix) == 36
    exported = b"".join(exports.write(hand.database, "ann", "photos", "npz"))
    assert len(exported) > 36 * 64 * 4
    # what is stored already is read from there: whole, in parts, and many at once
    asked = [(key, whole(key, content).content_hash) for key, content in hand.contents["photos"].items()]
    copies = hand.database.read(reuse.known, hand.collection("more"), asked, OnConflict.REPLACE)
    for (key, _), copy in zip(asked, copies, strict=True):
        content = hand.contents["photos"][key]
        assert isinstance(copy, reuse.Copy)
        assert (copy.vector == vector(content)).all() and copy.thumbnail == thumbnail(content)
    images = hand.database.read(lambda s: s.scalars(sa.select(tables.Image).filter_by(deleted_at=None)).all())
    pictures = {image.id: thumbnail(hand.contents["photos"][image.key]) for image in images}
    assert hand.database.read(thumbnails.by_id, images) == pictures
    assert hand.database.read(thumbnails.in_bulk, list(pictures)) == pictures
    assert hand.database.read(thumbnails.in_bulk, [images[0].id]) == {images[0].id: pictures[images[0].id]}
    # compacted, with readers in between
    assert upkeep.Upkeep(hand.database, hand.storage).run(30)["segments_merged"] > 1
    hand.check()
    assert inside(hand) == [0, 0]
    # an older reader's blobs are there still
    assert there(url) > named(hand)
    settle(hand, url)
    hand.check()


def test_what_lies_in_the_database_is_read_beside_what_lies_outside(
    hand: Hand, url: str, migrated_url: str, settings: Settings
) -> None:
    hand.embed(numbered(10), size=4)
    before = Database(migrated_url)
    other = Hand(before, settings, "ann", "photos", contents=hand.contents)
    other.embed(["a", "b", "c"], contents={"a": "one", "b": "two", "c": "three"})
    hand.check()
    # and who is not told where the storage is says so
    with pytest.raises(errors.Unavailable, match="IMAGEKIN_BLOB_URL"):
        other.check()
    before.dispose()
    settle(hand, url)


class Broken(Exception):
    """What a process dies of in a test."""


def _died(*_: Any, **__: Any) -> Any:
    raise Broken


@pytest.mark.parametrize("at", ["before the put", "within the put", "after the put", "after the commit"])
def test_whoever_dies_loses_nothing_and_leaves_nothing(
    hand: Hand, url: str, storage: blobs.Blobs, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    hand.plan(numbered(6), size=6)
    chunk = hand.claim()
    put, images = storage.put, finish_step.images
    with monkeypatch.context() as patched:
        if at == "before the put":
            patched.setattr(storage, "put", _died)
        elif at == "within the put":
            patched.setattr(storage, "put", lambda made: (put(dict([*made.items()][:1])), _died()))
        elif at == "after the put":
            patched.setattr(finish_step, "images", _died)
        else:
            write = hand.database.write

            def committed(work: Any, *args: Any, **kwargs: Any) -> Any:
                done = write(work, *args, **kwargs)
                return _died() if work is images else done

            patched.setattr(hand.database, "write", committed)
        with pytest.raises(Broken):
            hand.finish(chunk)
    # its lease runs out, and the next claimant finishes it
    hand.sql("UPDATE chunks SET lease_until = 1 WHERE status = 'claimed'")
    for again in hand.claims():
        hand.finish(again)
    hand.contents["photos"] = {key: key for key in numbered(6)}
    hand.check()
    assert hand.collection().image_count == 6
    assert hand.count(tables.Segment) == 1
    settle(hand, url)
    hand.check()


def test_a_put_whose_answer_is_lost_or_that_fails_is_tried_by_the_next_claimant(
    hand: Hand, url: str, storage: blobs.Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand.plan(numbered(6), size=6)
    fs: Any = storage._fs
    with monkeypatch.context() as patched:
        _fail_writes(patched, fs, after=False)
        with pytest.raises(errors.Unavailable):
            hand.finish(hand.claim())
        hand.sql("UPDATE chunks SET lease_until = 1")
        _fail_writes(patched, fs, after=True)
        with pytest.raises(errors.Unavailable):
            hand.finish(hand.claim())
    hand.sql("UPDATE chunks SET lease_until = 1")
    hand.finish(hand.claim())
    hand.check()
    assert hand.count(tables.Segment) == 1
    settle(hand, url)


def _fail_writes(patched: pytest.MonkeyPatch, fs: Any, *, after: bool) -> None:
    """Let writing fail before it is done, or once it is done."""
    place, attribute = (blobs, "_write_file") if "file" in fs.protocol else (fs, "pipe")
    write = getattr(place, attribute)

    def fail(*args: Any) -> None:
        if after:
            write(*args)
        raise TimeoutError("too slow")

    patched.setattr(place, attribute, fail)


def test_the_doctor_misses_what_is_gone_cut_off_or_changed(hand: Hand, url: str) -> None:
    hand.embed(numbered(3), size=1)
    assert found(examine(hand)) == set()
    fs, root = fsspec.url_to_fs(url)
    gone, cut, changed = (f"{root}/{name}" for name in sorted(there(url)) if name.startswith("vectors/"))
    fs.rm_file(gone)
    fs.pipe_file(cut, fs.cat_file(cut)[:-4])
    data = fs.cat_file(changed)
    fs.pipe_file(changed, data[:-1] + bytes([data[-1] ^ 1]))
    report = examine(hand)
    assert found(report) == {"blobs_there", "segment_shape", "segment_checksum"}
    assert report.outcomes["blobs_there"].found == 2
    pack = next(f"{root}/{name}" for name in sorted(there(url)) if name.startswith("thumbnails/"))
    fs.pipe_file(pack, bytes(len(fs.cat_file(pack))))
    assert "thumbnail_checksum" in found(examine(hand))


@pytest.mark.parametrize("engine", ["sqlite"])
def test_the_doctor_finds_what_no_row_knows_and_the_sweep_takes_it(
    hand: Hand, url: str, place: str, storage: blobs.Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand.embed(numbered(6), size=3)
    id = tables.new_id()
    storage.put({(blobs.Kind.VECTORS, id): bytes(1000), (blobs.Kind.THUMBNAILS, id): bytes(234)})
    lost = there(url) - named(hand)
    # what is young may be just being written
    assert found(examine(hand)) == set()
    monkeypatch.setattr(expiry, "STAGED_S", -1)
    report = examine(hand)
    outcome = report.outcomes["unknown_blobs"]
    assert (outcome.examined, outcome.found, outcome.nbytes, found(report)) == (6, 2, 1234, {"unknown_blobs"})
    assert id in outcome.details[0] and "1,000 bytes" in outcome.details[0]
    monkeypatch.undo()
    monkeypatch.setattr(blobs.Stored, "age_s", 7200)
    assert left(examine(hand, repair=True)) == set()
    assert there(url) > lost
    hand.check()
    settle(hand, url)
    hand.check()


@pytest.mark.parametrize(("engine", "place"), [("sqlite", "folder")])
def test_the_doctor_removes_files_that_were_not_finished(hand: Hand, url: str) -> None:
    hand.embed(numbered(2))
    part = Path(url) / "vectors" / "a7" / ".x.part"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(b"half")
    assert found(examine(hand)) == set()
    os.utime(part, (1, time.time() - 7200))
    assert found(examine(hand)) == {"unknown_blobs"}
    assert left(examine(hand, repair=True)) == set()
    assert not part.exists()
    settle(hand, url)


def test_compaction_reads_and_writes_blobs_while_another_holds_the_collection(
    hand: Hand, storage: blobs.Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hand.database.is_sqlite:
        pytest.skip("it has one writer at a time")
    hand.embed(numbered(8), size=2)
    collection = hand.collection()
    ids = hand.database.read(lambda session: session.scalars(sa.select(tables.Segment.id)).all())
    put, written = storage.put, threading.Event()
    monkeypatch.setattr(storage, "put", lambda made: (put(made), written.set()))
    with ThreadPoolExecutor() as threads:
        with hand.database.engine.begin() as connection, Session(connection) as other:
            segments.lock(other, collection.id)
            merging = threads.submit(compaction.merge, hand.database, collection.id, ids)
            assert written.wait(PATIENCE_S)
            assert not merging.done()
        assert merging.result() == 4
    hand.check()


@pytest.mark.parametrize("change", ["deleted", "replaced", "swept"])
def test_compaction_lets_be_what_changed_since_it_was_read(
    hand: Hand, url: str, storage: blobs.Blobs, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    hand.embed(numbered(8), size=2)
    ids = hand.database.read(lambda session: session.scalars(sa.select(tables.Segment.id)).all())
    put = storage.put

    def late(made: Any) -> None:
        put(made)
        monkeypatch.undo()
        if change == "deleted":
            hand.delete("003")
        elif change == "replaced":
            hand.embed(["003"], contents={"003": "new"})
        else:
            settle(hand, url)

    monkeypatch.setattr(storage, "put", late)
    assert compaction.merge(hand.database, hand.collection().id, ids) == 0
    hand.check()
    settle(hand, url)
    # and the next time it is done
    ids = hand.database.read(lambda session: session.scalars(sa.select(tables.Segment.id)).all())
    assert compaction.merge(hand.database, hand.collection().id, ids) == len(ids)
    hand.check()
    settle(hand, url)
