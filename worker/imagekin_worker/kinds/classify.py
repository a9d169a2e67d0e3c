"""Classify jobs: labels for the unlabelled images, learned from the labelled ones, in slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from imagekin.jobs import fence
from imagekin.jobs.claim import Claim
from imagekin_worker.analysis.classification import Classification
from imagekin_worker.context.lease import Lease
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import labels
from imagekin_worker.kinds import pinned as pins
from imagekin_worker.kinds.labels import Labels
from imagekin_worker.kinds.pinned import Pinned
from imagekin_worker.matrix.view import View


class Suggestions(Classification):
    """A classification with the labels that it learns from."""

    known: Labels

    def state(self) -> bytes:
        return pins.packed({"labels": self.known.digest}, super().state())


class Classify(pins.Analysis[Suggestions]):
    """What the field of images without it may be."""

    def __init__(self, node: Node, claim: Claim, params: dict[str, Any]) -> None:
        self._node, self._claim, self._params = node, claim, params
        self._budget = node.settings.cluster_memory_bytes

    def begin(self, pinned: Pinned, view: View) -> Suggestions:
        return self._begun(pinned, view, labels.of(self._node, self._claim, pinned, self._params["field"]))

    def resume(self, pinned: Pinned, view: View, state: bytes) -> Suggestions:
        known = labels.of(self._node, self._claim, pinned, self._params["field"])
        about, progress = pins.unpacked(state)
        if about["labels"] != known.digest:
            return self._begun(pinned, view, known)
        work = Suggestions.resume(pinned.rows, view, known.numbers, progress, memory_budget_bytes=self._budget)
        work.known = known
        return work

    def _begun(self, pinned: Pinned, view: View, known: Labels) -> Suggestions:
        work = Suggestions(
            pinned.rows,
            view,
            known.numbers,
            min_probability=self._params["min_probability"],
            seed=self._params["seed"],
            memory_budget_bytes=self._budget,
        )
        work.known = known
        return work

    def conclude(self, pinned: Pinned, work: Suggestions) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        found = work.result()
        rows = (
            {
                "id": pinned.ids[row],
                "key": pinned.keys[row],
                "label": work.known.classes[label],
                "probability": round(sure, 6),
            }
            for row, label, sure in zip(
                found.indices.tolist(), found.labels.tolist(), found.probabilities.tolist(), strict=True
            )
        )
        classes = [
            {
                "label": label,
                "examples": known.examples,
                "precision": None if known.precision is None else round(known.precision, 6),
                "recall": None if known.recall is None else round(known.recall, 6),
            }
            for label, known in zip(work.known.classes, found.classes, strict=True)
        ]
        accuracy = {
            "value": round(found.accuracy, 6),
            "low": round(found.low, 6),
            "high": round(found.high, 6),
            "examples": found.validated,
        }
        about = {"field": self._params["field"], "method": found.method, "images": len(found.indices)}
        return {**about, "accuracy": accuracy, "classes": classes}, rows


def run(node: Node, claims: Sequence[Claim], lease: Lease) -> None:
    """Classify for a slice; the last one writes the result.

    Raises TooFewLabels if fewer than two classes have two examples, InvalidRequest if the field holds no labels,
    CollectionDeleted and LeaseLost.
    """
    (claim,) = claims
    params = node.database.read(fence.job_of, claim).params
    pins.run(node, claim, lease, params, Classify(node, claim, params))
