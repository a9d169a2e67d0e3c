"""The networks that a process keeps warm."""

from __future__ import annotations

import threading

import pytest

from imagekin import catalog
from imagekin.catalog import Space
from imagekin.enums import Precision
from imagekin.settings import Settings
from imagekin_worker.network import backbones
from imagekin_worker.network.fake import FakeBackbone, fake_space
from imagekin_worker.network.models import Models, StillLoading


def _space(backbone: str, settings: Settings) -> Space:
    return catalog.resolve_space(backbone, None, Precision.EXACT, settings.weights_dir)


def test_the_least_recently_used_model_goes_first(settings: Settings) -> None:
    loaded: list[str] = []

    def loader(space: Space, _settings: Settings) -> backbones.Backbone:
        loaded.append(space.backbone)
        fake = FakeBackbone(space)
        fake.nbytes = 40
        return fake

    warm = Models(settings.model_copy(update={"model_memory_bytes": 100}), loader)
    one, two, three = (_space(name, settings) for name in ("resnet18", "resnet34", "resnet50"))
    for space in (one, two, one, three, one, two):
        assert warm.get(space).space == space
    assert loaded == ["resnet18", "resnet34", "resnet50", "resnet34"]
    assert warm.warm == (one.fingerprint, two.fingerprint)


def test_a_model_above_the_budget_is_still_loaded(settings: Settings) -> None:
    warm = Models(settings.model_copy(update={"model_memory_bytes": 1}), backbones.load)
    assert warm.get(_space("efficientnet_lite0", settings)).nbytes > 1


def test_a_load_that_is_given_up_waiting_for_goes_on(settings: Settings) -> None:
    loads, opened = [], threading.Event()

    def loader(space: Space, _settings: Settings) -> backbones.Backbone:
        loads.append(space)
        assert opened.wait(60)
        return FakeBackbone(space)

    warm, space = Models(settings, loader), fake_space()
    for _ in range(2):
        with pytest.raises(StillLoading, match="fake"):
            warm.get(space, 0.001)
    assert warm.warm == ()
    opened.set()
    assert warm.get(space).space == space
    assert (len(loads), warm.warm) == (1, (space.fingerprint,))


@pytest.mark.parametrize("error", [ValueError("broken"), TimeoutError("of a socket")])
def test_a_load_that_failed_is_tried_again(settings: Settings, error: Exception) -> None:
    outcomes = [error, None]

    def loader(space: Space, _settings: Settings) -> backbones.Backbone:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome
        return FakeBackbone(space)

    warm = Models(settings, loader)
    with pytest.raises(type(error), match=str(error)):
        warm.get(fake_space(), 60)
    assert warm.get(fake_space(), 60).space == fake_space()
