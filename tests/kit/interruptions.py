"""Steppers that are stopped and go on elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from imagekin_worker.analysis.stepper import Stepper

S = TypeVar("S", bound=Stepper)


def finished(stepper: S) -> S:
    """Return it after it has run in one go."""
    assert stepper.advance()
    assert stepper.finished and stepper.fraction == 1
    return stepper


def interrupted(stepper: S, resume: Callable[[bytes], S], steps: int) -> S:
    """Return it after it was saved, dropped and resumed every so many steps; its progress never fell."""
    fraction, kills = 0.0, 0
    while True:
        left = steps

        def stop() -> bool:
            nonlocal left
            left -= 1
            return left <= 0

        if stepper.advance(until=stop):
            assert kills
            return stepper
        assert fraction <= stepper.fraction + 1e-9 and stepper.fraction < 1
        fraction = stepper.fraction
        stepper = resume(stepper.state())
        kills += 1
        assert kills < 5000


def killed(stepper: S, resume: Callable[[bytes], S], least: int = 1) -> S:
    """Return it after it was dropped and resumed after every step that its state tells, `least` times or more."""
    kills = 0
    while not stepper.finished:
        fraction, before = stepper.fraction, stepper.state()
        while stepper.state() == before and not stepper.advance(until=lambda: True):
            pass
        assert stepper.fraction >= fraction
        stepper = resume(stepper.state())
        kills += 1
    assert kills >= least and stepper.fraction == 1
    return stepper
