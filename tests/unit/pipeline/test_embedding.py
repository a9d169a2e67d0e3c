"""The pipeline gives each item exactly one outcome, whatever fails, stops or is settled on the way."""

from __future__ import annotations

import hashlib
import io
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imagekin import errors
from imagekin.settings import Settings
from imagekin_worker.network import preprocess
from imagekin_worker.network.fake import PREPROCESS, Behaviour, FakeBackbone, fake_space
from imagekin_worker.pictures import decoding
from imagekin_worker.pipeline import lanes
from imagekin_worker.pipeline.lanes import Fetched, Outcome, Pipeline

SETTINGS = Settings(device="cpu", lanes=2)


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def fake(*, on_gpu: bool = False, batch_size: int = 4) -> FakeBackbone:
    backbone = FakeBackbone(fake_space(), batch_size=batch_size)
    backbone.on_gpu = on_gpu
    return backbone


@pytest.fixture(params=[False, True], ids=["lanes", "decoders and forward"])
def backbone(request: pytest.FixtureRequest) -> FakeBackbone:
    return fake(on_gpu=request.param)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def by_item(outcomes: Iterator[Outcome[int]]) -> dict[int, Outcome[int]]:
    listed = list(outcomes)
    found = {outcome.item: outcome for outcome in listed}
    assert len(found) == len(listed)
    return found


@pytest.mark.parametrize("count", [0, 1, 3, 4, 8, 9, 31])
def test_every_item_is_embedded_once_whatever_the_count(count: int, backbone: FakeBackbone) -> None:
    outcomes = by_item(Pipeline(backbone, SETTINGS, range(count), picture).outcomes())
    assert sorted(outcomes) == list(range(count))
    for item, outcome in outcomes.items():
        assert outcome.embedding is not None
        decoded = decoding.decode(picture(item), SETTINGS)
        expected = backbone.embed(preprocess.transform(decoded, PREPROCESS)[None])[0]
        assert np.allclose(outcome.embedding, expected, atol=1e-5)
        assert outcome.content_hash == hashlib.sha256(picture(item)).hexdigest()
        assert (outcome.width, outcome.height, outcome.format) == (50, 40, "PNG")
        assert outcome.thumbnail is not None and outcome.thumbnail.startswith(b"\xff\xd8")


def test_a_bad_file_is_its_own_outcome_and_its_neighbors_are_embedded(backbone: FakeBackbone) -> None:
    bad = {2: b"", 3: b"text", 7: picture(7)[:200]}
    outcomes = by_item(Pipeline(backbone, SETTINGS, range(12), lambda item: bad.get(item, picture(item))).outcomes())
    codes = {item: outcome.error.code for item, outcome in outcomes.items() if outcome.error is not None}
    assert codes == {2: "empty_file", 3: "unsupported_format", 7: "decode_error"}
    assert all((outcome.embedding is None) == (item in bad) for item, outcome in outcomes.items())
    assert outcomes[7].content_hash == hashlib.sha256(bad[7]).hexdigest()


def test_what_cannot_be_read_is_that_items_error(backbone: FakeBackbone) -> None:
    def read(item: int) -> bytes:
        if item == 1:
            raise errors.FetchFailed("The server answered 500.")
        return picture(item)

    error = by_item(Pipeline(backbone, SETTINGS, range(3), read).outcomes())[1].error
    assert isinstance(error, errors.FetchFailed)
    assert error.detail == "The server answered 500."


def test_settled_items_are_not_computed(backbone: FakeBackbone) -> None:
    handfuls: list[int] = []

    def settle(fetched: list[Fetched[int]]) -> set[int]:
        handfuls.append(len(fetched))
        assert all(each.content_hash == hashlib.sha256(each.data).hexdigest() for each in fetched)
        return {at for at, each in enumerate(fetched) if each.item % 2}

    outcomes = by_item(Pipeline(backbone, SETTINGS, range(20), picture, settle=settle).outcomes())
    assert {item for item, outcome in outcomes.items() if outcome.settled} == set(range(1, 20, 2))
    # on a GPU batches have one size, so the last one of four is filled up
    assert backbone.embedded == (12 if backbone.on_gpu else 10)
    assert outcomes[1].content_hash == hashlib.sha256(picture(1)).hexdigest()
    assert max(handfuls) <= lanes.HANDFUL and len(handfuls) == 2


def test_settling_never_happens_twice_at_once(backbone: FakeBackbone) -> None:
    inside = threading.Lock()

    def settle(_fetched: list[Fetched[int]]) -> set[int]:
        assert inside.acquire(blocking=False)
        threading.Event().wait(0.002)
        inside.release()
        return set()

    settings = SETTINGS.model_copy(update={"lanes": 4})
    assert len(by_item(Pipeline(backbone, settings, range(60), picture, settle=settle).outcomes())) == 60


@pytest.mark.parametrize("where", ["read", "settle", "items", "embed", "should_stop"])
def test_an_unexpected_failure_ends_the_run_and_is_raised_here(where: str, backbone: FakeBackbone) -> None:
    class UnexpectedError(Exception):
        pass

    def fail(*_arguments: object) -> Any:
        raise UnexpectedError

    def items() -> Iterator[int]:
        yield from range(6)
        fail()

    if where == "embed":
        backbone.embed = fail  # pyright: ignore[reportAttributeAccessIssue]
    run = Pipeline(
        backbone,
        SETTINGS,
        items() if where == "items" else range(100),
        fail if where == "read" else picture,
        settle=fail if where == "settle" else lanes.settle_nothing,
        should_stop=fail if where == "should_stop" else lanes.go_on,
    )
    with pytest.raises(UnexpectedError):
        list(run.outcomes())


def test_numbers_that_are_not_finite_are_that_items_error(backbone: FakeBackbone) -> None:
    whole = backbone.embed

    def overflow(batch: np.ndarray) -> np.ndarray:
        rows = whole(batch)
        rows[batch.reshape(len(batch), -1).mean(1) < 1] = np.nan
        return rows

    backbone.embed = overflow  # pyright: ignore[reportAttributeAccessIssue]
    black = io.BytesIO()
    Image.new("RGB", (40, 40)).save(black, "PNG")
    outcomes = by_item(
        Pipeline(backbone, SETTINGS, range(6), lambda item: black.getvalue() if item == 4 else picture(item)).outcomes()
    )
    assert isinstance(outcomes[4].error, errors.DecodeError)
    assert sum(outcome.embedding is not None for outcome in outcomes.values()) == 5


def test_closing_early_stops_reading_and_joins(backbone: FakeBackbone) -> None:
    read: list[int] = []

    def reading(item: int) -> bytes:
        read.append(item)
        return picture(item)

    run = Pipeline(backbone, SETTINGS, itertools.count(), reading).outcomes()
    assert next(run).embedding is not None
    run.close()
    assert not any(thread.name.startswith("lane-") for thread in threading.enumerate())


def test_memory_is_bounded_when_nobody_takes_the_outcomes(backbone: FakeBackbone) -> None:
    read: list[int] = []
    stalled = threading.Event()
    most = 2 * lanes.HANDFUL + 4 * backbone.batch_size + max(lanes.BACKLOG, 2 * backbone.batch_size)

    def reading(item: int) -> bytes:
        read.append(item)
        if len(read) > most:
            stalled.set()
        return picture(item)

    run = Pipeline(backbone, SETTINGS, itertools.count(), reading).outcomes()
    next(run)
    assert not stalled.wait(0.5)
    run.close()


def test_stopping_leaves_the_rest_undone_and_finishes_what_was_yielded(backbone: FakeBackbone) -> None:
    stop = threading.Event()
    done = []
    for outcome in Pipeline(backbone, SETTINGS, itertools.count(), picture, should_stop=stop.is_set).outcomes():
        done.append(outcome)
        if len(done) == 10:
            stop.set()
    assert 10 <= len(done) < 60 + lanes.BACKLOG
    assert all(outcome.embedding is not None for outcome in done)


def test_the_callers_intra_op_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    list(Pipeline(fake(), SETTINGS, range(5), picture).outcomes())
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_lanes_run_the_network_with_one_thread() -> None:
    backbone, seen = fake(), set()
    whole = backbone.embed

    def watched(batch: np.ndarray) -> np.ndarray:
        seen.add(torch.get_num_threads())
        return whole(batch)

    backbone.embed = watched  # pyright: ignore[reportAttributeAccessIssue]
    list(Pipeline(backbone, SETTINGS, range(12), picture).outcomes())
    assert seen == {1}


def test_batches_are_full_but_for_the_last_of_each_lane() -> None:
    backbone, sizes = fake(batch_size=4), []
    whole = backbone.embed

    def watched(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return whole(batch)

    backbone.embed = watched  # pyright: ignore[reportAttributeAccessIssue]
    settled = iter(range(1000))

    def settle(fetched: list[Fetched[int]]) -> set[int]:
        return {at for at in range(len(fetched)) if next(settled) % 3 == 0}

    list(Pipeline(backbone, SETTINGS, range(60), picture, settle=settle).outcomes())
    assert sum(sizes) == 40
    assert sum(size < 4 for size in sizes) <= SETTINGS.lanes


def sizes_of(backbone: FakeBackbone) -> list[int]:
    """Collect the sizes of the batches that the backbone will get."""
    sizes: list[int] = []
    whole = backbone.embed

    def watched(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return whole(batch)

    backbone.embed = watched  # pyright: ignore[reportAttributeAccessIssue]
    return sizes


def counted(count: int) -> tuple[Iterator[int], Callable[[], int]]:
    """Return items, and what tells how many of them are left."""
    items = deque(range(count))

    def give() -> Iterator[int]:
        while items:
            yield items.popleft()

    return give(), lambda: len(items)


def test_towards_the_end_batches_shrink_so_that_lanes_end_together() -> None:
    backbone = fake(batch_size=16)
    backbone.behaviour = Behaviour(delay_s=0.01)
    sizes = sizes_of(backbone)
    items, left = counted(80)
    by_item(Pipeline(backbone, SETTINGS, items, picture, left=left).outcomes())
    assert sum(sizes) == 80
    assert sizes[0] == sizes[1] == 16
    assert max(sizes[-2:]) < 16


def test_what_just_fills_the_lanes_is_not_torn_apart() -> None:
    backbone = fake(batch_size=4)
    sizes = sizes_of(backbone)
    # each lane has taken its images before one embeds: a lane that starts late would rightly find less left
    lanes = threading.Barrier(SETTINGS.lanes)

    def together(seed: int) -> bytes:
        lanes.wait(30)
        return picture(seed)

    items, left = counted(8)
    by_item(Pipeline(backbone, SETTINGS, items, together, left=left).outcomes())
    assert sizes == [4, 4]


@pytest.mark.parametrize("left", [0, 5, 1000])
def test_a_wrong_count_of_what_is_left_loses_nothing(left: int, backbone: FakeBackbone) -> None:
    assert len(by_item(Pipeline(backbone, SETTINGS, range(30), picture, left=lambda: left).outcomes())) == 30


def test_a_handful_of_large_files_has_fewer_of_them(backbone: FakeBackbone) -> None:
    handfuls: list[int] = []

    def settle(fetched: list[Fetched[int]]) -> set[int]:
        handfuls.append(len(fetched))
        return set()

    def large(seed: int) -> bytes:
        return picture(seed) + bytes(lanes.HANDFUL_BYTES // 4)

    by_item(Pipeline(backbone, SETTINGS, range(12), large, settle=settle).outcomes())
    assert sum(handfuls) == 12
    assert max(handfuls) <= lanes.TAKEN
