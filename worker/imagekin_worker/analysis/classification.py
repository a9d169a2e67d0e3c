"""Labels for the unlabelled images, learned from the labelled ones.

Two classifiers are tried, and cross-validation in five folds chooses: the nearest class mean, by its cosines in the
space of shrunk linear discriminants and in the view, and logistic regression on the view (if rows times classes are few
enough). Probabilities are softmax(t x score) with the t that fits the held-out rows best ("temperature", Guo
et al. 2017).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from imagekin import errors
from imagekin_worker.analysis import discriminant, folds, stepper
from imagekin_worker.analysis.blocks import Blocks
from imagekin_worker.analysis.labelled import Labelled
from imagekin_worker.analysis.stepper import Stepper
from imagekin_worker.matrix.view import View

DEFAULT_SEED = 100
FOLDS = 5
# Rows times classes up to which logistic regression is tried: beyond, it takes minutes, and discriminants do as well.
LOGISTIC_WORK = 200_000
# Inverse strength of its regularisation, for vectors of length 1.
LOGISTIC_C = 10.0
LOGISTIC_ITERATIONS = 200
METHODS = ("discriminant", "logistic")
# What a model consists of.
ARRAYS = ("weights", "offsets", "means", "middles")
# Rows that are classified in a step.
BLOCK_ROWS = 2048


@dataclass(frozen=True)
class ClassFigures:
    """Quality of one class: precision and recall on the held-out rows, None if there were not any."""

    examples: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Classified:
    """`indices`: rows without a label, surest first, each with its `labels` and `probabilities`.

    `accuracy` is the share of held-out rows, of classes with at least two examples, that were classified correctly,
    `low` and `high` its 95 % interval by Wilson; `validated` their number. `method`: the chosen classifier.
    """

    indices: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    accuracy: float
    low: float
    high: float
    validated: int
    method: str
    classes: list[ClassFigures]


@dataclass(frozen=True)
class Model:
    """Scores rows in the view: cosines with each class mean, after projection and in the view, added; or linear.

    `middles` (k, dim) are the class means in the view, with length 1. Of two classes the projection has one axis, whose
    cosines say which side but not how sure.
    """

    method: str
    temperature: float
    weights: torch.Tensor
    offsets: torch.Tensor
    means: torch.Tensor
    middles: torch.Tensor

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        """Return scores (n, k) float64, -inf for classes without an example."""
        found = rows @ self.weights + self.offsets
        if self.method == "discriminant":
            found = discriminant.unit(found) @ discriminant.unit(self.means).T + rows @ self.middles.T
        return torch.where(torch.isnan(found), -torch.inf, found).double()

    def probabilities(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the probability (n, k) of each class."""
        return torch.softmax(self.temperature * self.scores(rows), 1)


class Classification(Stepper):
    """Classifies rows (n, dim) of raw vectors by the `labels` (n,) of some: numbers of classes, -1 for unlabelled rows.

    Rows below `min_probability` are left out. The memory budget bounds the labelled rows that are learned from. Raises
    TooFewLabels if fewer than two classes have two examples.
    """

    def __init__(
        self,
        rows: np.ndarray,
        view: View,
        labels: np.ndarray,
        *,
        min_probability: float = 0.0,
        seed: int = DEFAULT_SEED,
        memory_budget_bytes: int,
    ) -> None:
        self._blocks, self._view = Blocks(rows), view
        self._least, self._seed = min_probability, seed
        self._known = Labelled(rows, view, labels, memory_budget_bytes, seed)
        self._open = np.flatnonzero(labels < 0)
        self._fold_of = folds.stratified(self._known.labels.numpy(), FOLDS, seed)
        logistic = len(self._known.index) * self._known.n_classes <= LOGISTIC_WORK
        self._methods = METHODS if logistic else METHODS[:1]
        self._moments: list[discriminant.Moments] = []
        self._validated = 0
        self._guesses = {method: np.full(len(self._known.index), -1, np.int64) for method in self._methods}
        self._temperatures: dict[str, list[float]] = {method: [] for method in self._methods}
        self._model: Model | None = None
        self._position = 0
        self._found = np.full(len(self._open), -1, np.int64)
        self._sure = np.zeros(len(self._open))

    @classmethod
    def resume(
        cls, rows: np.ndarray, view: View, labels: np.ndarray, state: bytes, *, memory_budget_bytes: int
    ) -> Self:
        """Continue from `state` with the same rows (n, dim), view and labels (n,).

        Raises JobError if it is of others.
        """
        scalars, arrays = stepper.unpacked(state, rows.shape)
        self = cls(
            rows,
            view,
            labels,
            min_probability=scalars["least"],
            seed=scalars["seed"],
            memory_budget_bytes=memory_budget_bytes,
        )
        if scalars["known"] != len(self._known.index):
            raise errors.JobError("The saved progress belongs to other labels.")
        self._validated, self._position = scalars["validated"], scalars["position"]
        self._temperatures = scalars["temperatures"]
        self._guesses = {method: arrays[f"guesses_{method}"] for method in self._methods}
        self._found[: self._position], self._sure[: self._position] = arrays["found"], arrays["sure"]
        if scalars["method"] is not None:
            parts = [torch.from_numpy(arrays[name]) for name in ARRAYS]
            self._model = Model(scalars["method"], scalars["temperature"], *parts)
        return self

    def state(self) -> bytes:
        scalars = {
            "shape": [self._blocks.n, self._blocks.dim],
            "known": len(self._known.index),
            "least": self._least,
            "seed": self._seed,
            "validated": self._validated,
            "position": self._position,
            "temperatures": self._temperatures,
            "method": None if self._model is None else self._model.method,
            "temperature": None if self._model is None else self._model.temperature,
        }
        arrays = {f"guesses_{method}": guesses for method, guesses in self._guesses.items()}
        arrays |= {"found": self._found[: self._position], "sure": self._sure[: self._position]}
        if self._model is not None:
            for name in ARRAYS:
                arrays[name] = getattr(self._model, name).numpy()
        return stepper.packed(scalars, arrays)

    @property
    def finished(self) -> bool:
        return self._model is not None and self._position == len(self._open)

    @property
    def fraction(self) -> float:
        if self._model is None:
            return 0.6 * self._validated / FOLDS
        return 0.65 + 0.35 * (self._position / len(self._open) if len(self._open) else 1)

    def result(self) -> Classified:
        """Return the labels found; raises JobError before `advance` has returned True."""
        if not self.finished or self._model is None:
            raise errors.JobError("The classification is not finished.")
        sure = np.flatnonzero(self._sure >= self._least)
        order = sure[np.argsort(-self._sure[sure], kind="stable")]
        guesses = self._guesses[self._model.method]
        told = self._told()
        hits = int((guesses[told] == self._known.labels.numpy()[told]).sum())
        low, high = folds.wilson(hits, int(told.sum()))
        return Classified(
            self._open[order],
            self._found[order],
            self._sure[order],
            hits / int(told.sum()),
            low,
            high,
            int(told.sum()),
            self._model.method,
            self._figures(guesses, told),
        )

    def _told(self) -> np.ndarray:
        """Return which labelled rows (m,) were classified using others of their class."""
        labels = self._known.labels.numpy()
        return np.bincount(labels)[labels] >= 2

    def _figures(self, guesses: np.ndarray, told: np.ndarray) -> list[ClassFigures]:
        labels = self._known.labels.numpy()
        found = []
        for label in range(self._known.n_classes):
            named, own = told & (guesses == label), told & (labels == label)
            hits = int((named & own).sum())
            found.append(
                ClassFigures(
                    int((labels == label).sum()),
                    hits / int(named.sum()) if named.any() else None,
                    hits / int(own.sum()) if own.any() else None,
                )
            )
        return found

    def _step(self) -> None:
        if self._model is not None:
            self._classify(self._model)
        elif self._known.ready():
            if len(self._moments) < FOLDS:
                held = torch.from_numpy(self._fold_of == len(self._moments))
                self._moments.append(self._summed(held))
            elif self._validated < FOLDS:
                self._validate(self._validated)
                self._validated += 1
            else:
                self._conclude()

    def _summed(self, chosen: torch.Tensor) -> discriminant.Moments:
        known = self._known
        return discriminant.Moments.of(known.rows[chosen], known.labels[chosen], known.n_classes)

    def _validate(self, fold: int) -> None:
        """Hold out a fold: record what each method predicts for it, and the temperature that fits best."""
        held = torch.from_numpy(self._fold_of == fold)
        if not held.any():
            return
        others = [moments for at, moments in enumerate(self._moments) if at != fold]
        for method in self._methods:
            model = self._fitted(method, ~held, sum(others[1:], others[0]), 1.0)
            scores = model.scores(self._known.rows[held])
            self._guesses[method][held.numpy()] = scores.argmax(1).numpy()
            self._temperatures[method].append(_temperature(scores, self._known.labels[held], len(self._known.index)))

    def _fitted(self, method: str, chosen: torch.Tensor, moments: discriminant.Moments, temperature: float) -> Model:
        if method == "discriminant":
            found = discriminant.fit(moments)
            middles = discriminant.unit((moments.sums / moments.counts[:, None]).float())
            return Model(method, temperature, found.axes, -(found.center @ found.axes), found.means, middles)
        weights, offsets = _logistic(self._known.rows[chosen], self._known.labels[chosen], self._known.n_classes)
        return Model(method, temperature, weights, offsets, torch.zeros(0), torch.zeros(0))

    def _conclude(self) -> None:
        """Fit the method that was right most often to all labelled rows; on a tie, the first."""
        labels, told = self._known.labels.numpy(), self._told()
        hits = {method: (guesses[told] == labels[told]).sum() for method, guesses in self._guesses.items()}
        method = max(self._methods, key=lambda method: hits[method])
        temperature = float(np.exp(np.mean(np.log(self._temperatures[method]))))
        everything = torch.ones(len(labels), dtype=torch.bool)
        self._model = self._fitted(method, everything, sum(self._moments[1:], self._moments[0]), temperature)

    def _classify(self, model: Model) -> None:
        span = slice(self._position, min(self._position + BLOCK_ROWS, len(self._open)))
        if span.start == span.stop:
            return
        rows = self._view.transform(self._blocks.take(self._open[span]))
        best, label = model.probabilities(torch.from_numpy(rows)).max(1)
        self._found[span], self._sure[span] = label.numpy(), best.numpy()
        self._position = span.stop


def _logistic(rows: torch.Tensor, labels: torch.Tensor, n_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights (dim, k) and offsets (k,), nan for classes without an example."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    found: Any = LogisticRegression(C=LOGISTIC_C, max_iter=LOGISTIC_ITERATIONS)
    with warnings.catch_warnings():
        # what it has not reached by then matters less than the labels
        warnings.simplefilter("ignore", ConvergenceWarning)
        found.fit(rows.numpy(), labels.numpy())
    coefficients, intercepts = torch.from_numpy(found.coef_).float(), torch.from_numpy(found.intercept_).float()
    if len(found.classes_) == 2:
        # one row stands for both
        coefficients, intercepts = (
            torch.cat([-coefficients, coefficients]) / 2,
            torch.cat([-intercepts, intercepts]) / 2,
        )
    weights = torch.full((rows.shape[1], n_classes), torch.nan)
    offsets = torch.full((n_classes,), torch.nan)
    weights[:, found.classes_], offsets[found.classes_] = coefficients.T, intercepts
    return weights, offsets


def _temperature(scores: torch.Tensor, labels: torch.Tensor, examples: int) -> float:
    """Return the factor of the scores (n, k) under which the labels (n,) are most probable, from 0.1 to 1,000.

    Of `examples` that were all right, one more might have been wrong: labels are taken as true except for a share of 1
    / (examples + 2), as in Platt 1999, so that a few do not make everything certain. Rows of classes without a score
    are ignored.
    """
    known = torch.isfinite(scores.gather(1, labels[:, None]))[:, 0]
    scores, labels = scores[known], labels[known]
    if not len(scores):
        return 1.0
    # the classes that the scores know are the same in each row
    there = torch.isfinite(scores[0])
    doubt = 1 / (examples + 2)

    def loss(logarithm: float) -> float:
        chances = torch.log_softmax(np.exp(logarithm) * scores, 1)
        own = float(chances.gather(1, labels[:, None]).mean())
        return -(1 - doubt) * own - doubt * float(chances[:, there].mean())

    found: Any = minimize_scalar(loss, bounds=(np.log(0.1), np.log(1000)), method="bounded")
    return float(np.exp(found.x))
