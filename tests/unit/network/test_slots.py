"""Batches of one size: partial ones are filled up, two are on their way at once, and each picture gets its own row."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

from imagekin import catalog
from imagekin.enums import Precision
from imagekin.settings import Settings
from imagekin_worker.network import backbones, devices, slots

BATCH, SIDE = 4, 2


def mean_of_each(pixels: np.ndarray) -> np.ndarray:
    """Embed pictures (n, 3, h, w) into (n, 1)."""
    return pixels.reshape(len(pixels), -1).mean(1, keepdims=True).astype(np.float32)


def pictures(*values: int) -> list[np.ndarray]:
    return [np.full((SIDE, SIDE, 3), value, np.uint8) for value in values]


class Watched(slots.HostSlot):
    """A slot that knows how many of its kind have begun and not finished."""

    begun: ClassVar[list[Watched]] = []
    most = 0

    def start(self) -> None:
        super().start()
        assert self not in Watched.begun
        Watched.begun.append(self)
        Watched.most = max(Watched.most, len(Watched.begun))

    def finish(self) -> np.ndarray:
        assert Watched.begun[0] is self, "the oldest comes first"
        Watched.begun.remove(self)
        return super().finish()


@pytest.fixture
def stream() -> slots.Stream:
    Watched.begun.clear()
    Watched.most = 0
    return slots.Stream([Watched(mean_of_each, BATCH, (SIDE, SIDE)) for _ in range(2)])


def test_rows_come_in_the_order_in_which_pictures_went(stream: slots.Stream) -> None:
    rows: list[float] = []
    for start in range(0, 22, BATCH):
        stream.begin(pictures(*range(start, min(start + BATCH, 22))))
        if stream.full:
            rows += stream.collect()[:, 0].tolist()
    while stream.flying:
        rows += stream.collect()[:, 0].tolist()
    assert rows == list(range(22))
    assert Watched.most == 2


def test_what_fills_a_partial_batch_up_comes_out_nowhere(stream: slots.Stream) -> None:
    sizes: list[int] = []

    def watched(pixels: np.ndarray) -> np.ndarray:
        sizes.append(len(pixels))
        return mean_of_each(pixels)

    stream = slots.Stream([slots.HostSlot(watched, BATCH, (SIDE, SIDE))])
    stream.begin(pictures(9, 9, 9, 9))
    assert len(stream.collect()) == 4
    stream.begin(pictures(5))
    assert stream.collect().tolist() == [[5]]
    assert sizes == [BATCH, BATCH]


def test_who_comes_after_an_interrupted_user_finds_all_slots_free(stream: slots.Stream) -> None:
    stream.begin(pictures(1))
    stream.begin(pictures(2))
    assert stream.full
    stream.drop()
    assert not stream.full and not stream.flying
    stream.begin(pictures(7))
    assert stream.collect().tolist() == [[7]]


def test_a_failed_batch_leaves_its_slot_usable() -> None:
    class BrokenError(Exception):
        pass

    class Broken(slots.HostSlot):
        def finish(self) -> np.ndarray:
            raise BrokenError

    stream = slots.Stream([Broken(mean_of_each, BATCH, (SIDE, SIDE))])
    stream.begin(pictures(1))
    with pytest.raises(BrokenError):
        stream.collect()
    assert not stream.full


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", Precision)
def test_a_backbones_stream_gives_what_its_reference_gives(device: str, precision: Precision) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    settings = Settings(device=device)
    space = catalog.resolve_space("efficientnet_lite0", None, precision, settings.weights_dir)
    given = np.random.default_rng(2).integers(0, 256, (11, 224, 224, 3), dtype=np.uint8)
    backbone = backbones.load(space, settings)
    stream = backbone.stream(4)
    rows: list[np.ndarray] = []
    for start in range(0, 11, 4):
        stream.begin(list(given[start : start + 4]))
        rows += [stream.collect()] if stream.full else []
    while stream.flying:
        rows.append(stream.collect())
    reference = backbones.load(space, Settings(device="cpu"), reference=True).embed(given.transpose(0, 3, 1, 2))
    cosines = torch.cosine_similarity(torch.from_numpy(np.concatenate(rows)), torch.from_numpy(reference))
    assert cosines.min() >= (0.9999 if precision is Precision.EXACT else 0.999)
    assert backbone.stream(4) is stream, "it is made once"


def test_processes_spread_over_the_gpus_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("auto", "cuda"):
        chosen = [devices.choose(Settings(device=name), place) for place in range(3)]
        assert chosen == [torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cuda", 0)]
    assert devices.choose(Settings(device="cuda:1"), 0) == torch.device("cuda", 1)
    assert devices.choose(Settings(device="cpu"), 1) == torch.device("cpu")


def test_only_fast_spaces_on_gpus_have_smaller_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    for capability, half in (((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device, capability=capability: capability)
        assert devices.numbers(gpu, Precision.FAST) is half
    assert devices.numbers(gpu, Precision.EXACT) is torch.float32
    assert devices.numbers(torch.device("cpu"), Precision.FAST) is torch.float32
