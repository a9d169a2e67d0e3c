"""Blobs that move between the database and the storage, either way, while everything else goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import fsspec
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from imagekin.cli.app import app
from imagekin.database import tables
from imagekin.maintenance import compaction, relocation, upkeep
from imagekin.maintenance.relocation import Place
from imagekin.store import blobs
from imagekin_worker.matrix.loaded import catch_up
from kit.blobs import inside, named, pass_hours, settle, there
from kit.breakages import examine, found
from kit.hand import Hand, item, numbered
from kit.patience import until

# The command as users run it, but for slices of one segment, so that it can be killed between two of them.
COMMAND = """
from imagekin.maintenance import relocation
relocation.SLICE_SEGMENTS = 1
from imagekin.cli import main
main()
"""


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no slice be all there is."""
    monkeypatch.setattr(relocation, "SLICE_SEGMENTS", 3)


def moved(hand: Hand, storage: blobs.Blobs, to: Place, name: str = "") -> relocation.Moved:
    """Move a collection as the service is told to keep blobs there, and return what moved."""
    storage.read_only = to == Place.DATABASE
    *_, last = [relocation.Moved(), *relocation.move(hand.database, storage, hand.collection(name).id, to)]
    return last


def filled(hand: Hand, storage: blobs.Blobs) -> None:
    """Fill two collections inside the database: with images that were replaced, deleted, and without thumbnails."""
    storage.read_only = True
    hand.embed(numbered(40), size=4)
    hand.embed(["003", "017"], contents={"003": "new", "017": "newer"})
    hand.delete("005", "006", "020")
    hand.embed(numbered(5), name="other", size=2)
    hand.collection("bare")
    hand.store([item("bare", "no thumbnail")], name="bare")
    assert all(inside(hand))


def test_both_ways_every_byte_stays(hand: Hand, url: str, storage: blobs.Blobs) -> None:
    filled(hand, storage)
    before = inside(hand)
    segments = hand.count(tables.Segment)
    for name in ("photos", "other", "bare"):
        assert moved(hand, storage, Place.STORAGE, name).left == 0
    assert inside(hand) == [0, 0]
    # of an imported vector there is no thumbnail, here or there
    assert len(named(hand)) == 2 * segments - 1
    assert there(url) == named(hand)
    assert found(examine(hand)) == set()
    for name in ("photos", "other"):
        hand.check(name)
    # what is written from now on is there as well, and moves back with the rest
    hand.embed(["late"])
    done = moved(hand, storage, Place.DATABASE)
    assert (done.images, done.left) == (40 + 2 + 1, 0)
    hand.check()
    # who began to read before finds the blobs for an hour
    assert there(url) > named(hand)
    for name in ("other", "bare"):
        moved(hand, storage, Place.DATABASE, name)
    assert named(hand) == set()
    assert min(inside(hand)[n] - before[n] for n in (0, 1)) > 0
    settle(hand, url)
    assert there(url) == set()
    hand.check()
    # and once more, as the same segments get other ids there
    assert moved(hand, storage, Place.STORAGE).left == 0
    settle(hand, url)
    hand.check()


def test_nothing_moves_twice(hand: Hand, storage: blobs.Blobs) -> None:
    filled(hand, storage)
    assert moved(hand, storage, Place.STORAGE).segments > 9
    assert moved(hand, storage, Place.STORAGE) == relocation.Moved()
    assert hand.count(tables.LooseBlob) == 0


@pytest.mark.parametrize(("engine", "place"), [("sqlite", "folder"), ("postgresql", "folder"), ("postgresql", "s3")])
@pytest.mark.faults
def test_a_process_that_is_killed_again_and_again_loses_nothing(
    hand: Hand, url: str, storage: blobs.Blobs, migrated_url: str
) -> None:
    chance = random.Random(7)
    filled(hand, storage)
    hand.embed([f"more-{key}" for key in numbered(60)], size=1)
    collection = hand.collection()
    for to in Place:
        storage.read_only = to == Place.DATABASE
        env = {
            **os.environ,
            "IMAGEKIN_DATABASE_URL": migrated_url,
            "IMAGEKIN_BLOB_URL": url,
            "IMAGEKIN_BLOB_READ_ONLY": str(storage.read_only),
        }
        command = [sys.executable, "-c", COMMAND, "blobs", "move", "--to", to.value]

        def waiting(to: Place = to) -> int:
            return hand.database.read(relocation.waiting, collection.id, to)

        kills = 0
        while kills < 4 and waiting() > 10:
            least = waiting() - chance.randint(1, 8)
            with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
                until(lambda least=least: waiting() <= least or process.poll() is not None, "some progress")
                process.send_signal(signal.SIGKILL)
            kills += 1
            hand.check()
            hand.check("other")
            assert found(examine(hand)) == set()
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert waiting() == 0
        settle(hand, url)
        hand.check()
        hand.check("other")
    assert there(url) == set()


@pytest.mark.parametrize("place", ["folder"])
def test_writers_readers_and_compaction_go_on(hand: Hand, url: str, storage: blobs.Blobs) -> None:
    """Move out and in and out again while others embed, replace, delete, compact and read."""
    filled(hand, storage)
    faults: list[BaseException] = []
    stopped = threading.Event()
    rounds = {"write": 0, "compact": 0, "read": 0}

    def write() -> None:
        number = rounds["write"]
        keys = [f"{number}-{at}" for at in range(6)]
        hand.embed(keys, name="busy", size=2)
        hand.embed(keys[:2], name="busy", contents={key: f"{key} new" for key in keys[:2]})
        hand.delete(keys[3], name="busy")
        hand.check("busy")

    def compact() -> None:
        ids = hand.database.read(lambda s: s.scalars(sa.select(tables.Segment.id)).all())
        name = random.choice(["busy", "other"])
        compaction.merge(hand.database, hand.collection(name).id, ids)
        upkeep.Upkeep(hand.database, hand.storage).run(1)

    def read() -> None:
        hand.check()
        _, matrix = hand.database.read(catch_up, hand.collection().id)
        assert len(matrix) == len(hand.contents["photos"])

    def again(work: Callable[[], None]) -> None:
        try:
            while not stopped.is_set():
                work()
                rounds[work.__name__] += 1
        except BaseException as fault:
            faults.append(fault)
            raise

    hand.collection("busy")
    threads = [threading.Thread(target=again, args=(work,)) for work in (write, compact, read)]
    for thread in threads:
        thread.start()
    turns = 0
    try:
        while (turns < 6 or min(rounds.values()) < 2) and not faults:
            for name in ("photos", "other", "busy"):
                assert moved(hand, storage, list(Place)[turns % 2], name).left == 0
            turns += 1
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    assert faults == []
    for name in ("photos", "other", "busy"):
        moved(hand, storage, Place.STORAGE, name)
        hand.check(name)
    settle(hand, url)
    for name in ("photos", "other", "busy"):
        hand.check(name)


@pytest.mark.parametrize(("engine", "place"), [("sqlite", "folder"), ("postgresql", "folder")])
def test_blobs_that_were_swept_before_their_row_named_them_are_written_again(
    hand: Hand, url: str, storage: blobs.Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(hand, storage)
    put = storage.put

    def late(made: Any) -> None:
        put(made)
        monkeypatch.setattr(storage, "put", put)
        pass_hours(hand)
        assert upkeep.Upkeep(hand.database, hand.storage).run(9)["blobs_removed"]

    monkeypatch.setattr(storage, "put", late)
    assert moved(hand, storage, Place.STORAGE).left == 0
    hand.check()
    settle(hand, url)


@pytest.mark.parametrize("engine", ["sqlite"])
def test_what_is_gone_or_not_sound_is_left_and_holds_up_nothing(
    hand: Hand, url: str, storage: blobs.Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(hand, storage)
    hand.sql("UPDATE segments SET checksum = 1 WHERE id = (SELECT min(id) FROM segments)")
    assert moved(hand, storage, Place.STORAGE).left == 1
    assert hand.database.read(relocation.waiting, hand.collection().id, Place.STORAGE) == 4
    fs, root = fsspec.url_to_fs(url)
    fs.rm_file(f"{root}/{min(name for name in there(url) if name.startswith('vectors/'))}")
    assert moved(hand, storage, Place.DATABASE).left == 1


@pytest.fixture
def call(migrated_url: str, url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("IMAGEKIN_DATABASE_URL", migrated_url)
    monkeypatch.setenv("IMAGEKIN_BLOB_URL", url)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["blobs", "move", *arguments])

    return call


@pytest.mark.parametrize(("engine", "place"), [("sqlite", "folder"), ("postgresql", "folder")])
def test_the_command_says_what_moved(
    hand: Hand, url: str, storage: blobs.Blobs, call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(hand, storage)
    done = call("--to", "storage", "-c", "other")
    assert done.exit_code == 0, done.output
    _, row = done.stdout.splitlines()
    assert row.split("\t")[:4] == ["ann", "other", "3", "5"]
    assert "ann/other: 5 images" in done.stderr
    refused = call("--to", "database")
    assert refused.exit_code != 0 and "IMAGEKIN_BLOB_READ_ONLY" in refused.stderr
    assert "no collection" in call("--to", "storage", "-c", "none").stderr
    monkeypatch.setenv("IMAGEKIN_BLOB_READ_ONLY", "true")
    done = call("--to", "database", "--json")
    assert done.exit_code == 0, done.output
    assert '"collection": "other", "segments": 3' in done.stdout
    assert call("--to", "storage").exit_code != 0
    hand.sql("UPDATE segments SET checksum = 1 WHERE id = (SELECT min(id) FROM segments)")
    monkeypatch.delenv("IMAGEKIN_BLOB_READ_ONLY")
    done = call("--to", "storage")
    assert done.exit_code == 1 and "imagekin doctor" in done.stderr
    monkeypatch.delenv("IMAGEKIN_BLOB_URL")
    assert "IMAGEKIN_BLOB_URL" in call("--to", "storage").stderr
