"""Vectors and thumbnails in a folder or on S3: written before the rows that name them, removed after, never missed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import sqlalchemy as sa

from imagekin import errors
from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import OnConflict
from imagekin.jobs import finish as finish_step
from imagekin.maintenance import compaction, upkeep
from imagekin.settings import Settings
from imagekin.store import blobs, exports, reuse, thumbnails
from imagekin_worker.matrix.loaded import catch_up
from kit import s3
from kit.breakages import examine, found
from kit.hand import Hand, numbered, thumbnail, vector, whole


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3.server() as address:
        yield address


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where blobs go."""
    if request.param == "folder":
        return str(tmp_path / "blobs")
    s3.lead_to(request.getfixturevalue("server"), monkeypatch)
    bucket = f"b{tmp_path.name.lower().replace('_', '-')}"[:60]
    s3.make_bucket(bucket)
    return f"s3://{bucket}/imagekin"


@pytest.fixture
def storage(url: str) -> blobs.Blobs:
    return blobs.Blobs(url)


@pytest.fixture
def hand(migrated_url: str, settings: Settings, storage: blobs.Blobs) -> Iterator[Hand]:
    """A hand whose service keeps blobs in the storage."""
    database = Database(migrated_url, blobs=storage)
    yield Hand(database, settings, "ann", "photos")
    database.dispose()


def there(url: str) -> set[str]:
    """Return the names of the blobs that are there."""
    fs, root = fsspec.url_to_fs(url)
    fs.invalidate_cache()
    return {path.rpartition(f"{root.rpartition('/')[2]}/")[2] for path in fs.find(root)}


def named(hand: Hand) -> set[str]:
    """Return the names of the blobs that rows name: all have thumbnails."""
    ids = hand.database.read(lambda session: session.scalars(sa.select(tables.Segment.id).where(blobs.outside())).all())
    return {f"{kind}/{id[-2:]}/{id}" for id in ids for kind in blobs.Kind}


def inside(hand: Hand) -> list[int]:
    """Return how many bytes of vectors and of thumbnails are in the database."""
    sums = [sa.select(sa.func.sum(sa.func.length(table.data))) for table in (tables.Segment, tables.Thumbnails)]
    return [hand.database.read(lambda session, query=query: session.scalar(query) or 0) for query in sums]


def settle(hand: Hand, url: str) -> None:
    """Let hours pass and the sweep work: what is there is what rows name, and the doctor finds nothing."""
    hand.sql("UPDATE loose_blobs SET since = since - 7200")
    hand.sql("UPDATE segments SET created_at = created_at - 7200")
    upkeep.Upkeep(hand.database, hand.storage).run(30)
    assert there(url) == named(hand)
    assert hand.count(tables.LooseBlob) == 0
    assert found(examine(hand)) == set()


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
    inside = Hand(before, settings, "ann", "photos", contents=hand.contents)
    inside.embed(["a", "b", "c"], contents={"a": "one", "b": "two", "c": "three"})
    hand.check()
    # and who is not told where the storage is says so
    with pytest.raises(errors.Unavailable, match="IMAGEKIN_BLOB_URL"):
        inside.check()
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
            patched.setattr(storage, "put", lambda id, made: (put(id, dict([*made.items()][:1])), _died()))
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
