"""The files of matrices: written anew, damaged, without room, given up, and always the right answers."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import pytest
from sqlalchemy.exc import DataError

from imagekin import errors
from imagekin_worker.matrix import file_cache
from imagekin_worker.matrix.file import HEADER_BYTES, MatrixFile, Writer
from imagekin_worker.matrix.file_cache import MatrixCache
from kit.hand import Hand
from kit.processes import PLENTY, Worker, names, the_file


def test_a_file_that_much_changed_beside_is_written_anew(hand: Hand, cache: MatrixCache, view: str) -> None:
    hand.embed(names(100))
    worker = Worker(hand, cache, 4096, view)
    worker.check()
    before = the_file(cache).stat().st_ino
    hand.embed(names(20, first=500))
    hand.delete("0000", "0500")
    worker.check()
    worker.residents.settle()
    assert the_file(cache).stat().st_ino != before
    worker.check()
    assert len(worker.matrix().ids) == 0
    assert len(worker.matrix()) == 118
    worker.stop()


@pytest.mark.parametrize("budget", [PLENTY, 1000])
@pytest.mark.parametrize("place", [20, HEADER_BYTES + 1000, -3])
def test_a_damaged_file_is_read_from_sql_again(hand: Hand, cache: MatrixCache, budget: int, place: int) -> None:
    hand.embed(names(60))
    first = Worker(hand, cache, budget)
    first.check()
    first.stop()
    path = the_file(cache)
    data = bytearray(path.read_bytes())
    data[place] ^= 64
    # as a machine that lost power may leave it: under the right name
    path.unlink()
    path.write_bytes(data)
    second = Worker(hand, cache, budget)
    second.check()
    second.stop()
    label = second.residents._held[hand.collection().id, "raw"].label
    file = MatrixFile(the_file(cache), label)
    assert len(file.vectors(0, 60)) == 60


def test_what_changes_while_the_file_is_written_is_not_in_it(
    hand: Hand, cache: MatrixCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is replaced under the writer would be half old and half new, under the old revision."""
    hand.embed(names(100))
    worker = Worker(hand, cache)
    add = Writer.add

    def slow(self: Writer, *args: Any) -> None:
        hand.embed(["0000"], contents={"0000": "other"})
        worker.residents._held[hand.collection().id, "raw"].matrix.overwrites += 1
        add(self, *args)

    monkeypatch.setattr(Writer, "add", slow)
    worker.check()
    worker.residents.settle()
    assert list(cache.folder.glob("*.matrix")) == []
    monkeypatch.undo()
    worker.check()
    worker.stop()


@pytest.mark.parametrize("budget", [PLENTY, 1000])
def test_a_full_disk_is_no_reason_to_answer_wrong(
    hand: Hand, cache: MatrixCache, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    hand.embed(names(50))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Writer, "publish", full)
    worker = Worker(hand, cache, budget)
    if budget == PLENTY:
        # each of them tries to keep it, behind the answer's back
        for _ in range(2):
            worker.check()
            worker.residents.settle()
    else:
        with pytest.raises(errors.Unavailable, match="No space"):
            worker.check()
    assert not [path for path in cache.folder.iterdir() if path.suffix != ".lock"]
    worker.stop()


def test_closing_stops_the_writing(hand: Hand, cache: MatrixCache, monkeypatch: pytest.MonkeyPatch) -> None:
    hand.embed(names(60))
    worker = Worker(hand, cache)
    add = Writer.add

    def late(self: Writer, *args: Any) -> None:
        add(self, *args)
        worker.residents._closed = True

    monkeypatch.setattr(Writer, "add", late)
    monkeypatch.setattr("imagekin_worker.matrix.snapshot.CHECKED_ROWS", 16)
    worker.check()
    worker.stop()
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]


def test_a_database_that_goes_while_a_file_is_kept_is_no_later_searchs_trouble(
    hand: Hand, cache: MatrixCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand.embed(names(40))
    worker = Worker(hand, cache)

    def away(*_: Any) -> None:
        raise DataError("", {}, Exception("gone"))

    monkeypatch.setattr(file_cache, "living", away)
    worker.check()
    [held] = worker.residents._held.values()
    assert held.keeping is not None
    concurrent.futures.wait([held.keeping])
    monkeypatch.undo()
    worker.check()
    worker.stop()
