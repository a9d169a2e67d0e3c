"""Runs a claim by the module of `imagekin_worker.kinds` that is named after its chunk's kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from imagekin import errors
from imagekin.jobs.claim import Claim
from imagekin.schemas.kinds import PLAN, JobKind
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node

Run = Callable[[Node, Sequence[Claim], Lease], None]

_MODULES = {PLAN: "plan", **{kind.value: kind.module for kind in JobKind}}
# all of them at the start, so that a broken installation shows there
_RUNS: dict[str, Run] = {
    kind: import_module(f"imagekin_worker.kinds.{module}").run for kind, module in _MODULES.items()
}


def do(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Do claimed chunks, all of one kind and space.

    Raises LeaseLost, and JobError for what ends the job, such as a kind that this worker does not know.
    """
    run = _RUNS.get(claims[0].kind)
    if run is None:
        raise errors.JobError(f"This worker does not know {claims[0].kind} jobs; upgrade it.")
    run(node, claims, lease)
