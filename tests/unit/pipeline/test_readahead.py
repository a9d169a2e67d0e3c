"""Reading ahead: as many at once as allowed, none held up by another, nothing lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import pytest

from imagekin import errors
from imagekin_worker.pipeline.readahead import ReadAhead

Ahead: TypeAlias = Callable[..., ReadAhead[int]]

PATIENCE_S = 30


@pytest.fixture
def ahead() -> Iterator[Ahead]:
    made: list[ReadAhead[int]] = []

    def ahead(
        items: Iterable[int],
        read: Callable[[int], bytes],
        slow: Callable[[int], bool] = lambda item: True,
        threads: int = 4,
    ) -> ReadAhead[int]:
        made.append(ReadAhead(items, read, slow, threads))
        return made[-1].__enter__()

    yield ahead
    for each in made:
        each.__exit__(None, None, None)


def test_every_item_comes_once_with_its_bytes(ahead: Ahead) -> None:
    reader = ahead(range(100), lambda item: b"%d" % item)
    got = [(item, reader.read(item)) for item in reader]
    assert sorted(got) == [(item, b"%d" % item) for item in range(100)]


def test_a_slow_one_holds_up_nobody(ahead: Ahead) -> None:
    release = threading.Event()

    def read(item: int) -> bytes:
        if item == 0:
            assert release.wait(PATIENCE_S)
        return b""

    reader = ahead(range(20), read)
    assert sorted(next(reader) for _ in range(19)) == list(range(1, 20))
    release.set()
    assert list(reader) == [0]


def test_as_many_are_read_at_once_as_there_are_threads(ahead: Ahead) -> None:
    together = threading.Barrier(4, timeout=PATIENCE_S)
    reader = ahead(range(16), lambda item: b"%d" % together.wait())
    assert len(list(reader)) == 16


def test_no_more_is_read_than_is_taken(ahead: Ahead) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    reader = ahead(items(), lambda item: b"")
    next(reader)
    assert len(taken) == 4
    next(reader)
    assert len(taken) == 5


def test_what_reading_raises_comes_where_it_is_read(ahead: Ahead) -> None:
    def read(item: int) -> bytes:
        raise errors.FetchFailed(str(item))

    reader = ahead([7], read)
    item = next(reader)
    with pytest.raises(errors.FetchFailed, match="7"):
        reader.read(item)


def test_items_that_are_not_slow_pass_through(ahead: Ahead) -> None:
    threads: dict[int, str] = {}

    def read(item: int) -> bytes:
        threads[item] = threading.current_thread().name
        return b""

    reader = ahead(range(10), read, slow=lambda item: item % 2 == 1)
    for item in reader:
        reader.read(item)
    here = threading.current_thread().name
    assert {item for item, name in threads.items() if name == here} == set(range(0, 10, 2))
    assert sorted(threads) == list(range(10))


def test_leaving_early_reads_no_more(ahead: Ahead) -> None:
    read: list[int] = []
    with ReadAhead(range(1000), lambda item: read.append(item) or b"", lambda item: True, 2) as reader:
        next(reader)
    before = len(read)
    assert before <= 3
