"""What views, labels, verdicts, selections and maps are worth, on photographs where they are and on the demo.

`pytest -s` prints the table. These are development sets: the strength of logistic refinement, and cosines rather than
distances among discriminants, were chosen on them. Labels and verdicts are drawn and held out several times.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from imagekin.enums import Metric
from imagekin_worker.analysis import adaptation, folds, refinement
from imagekin_worker.analysis.adaptation import Adaptation
from imagekin_worker.analysis.classification import Classification
from imagekin_worker.analysis.layout import Layout
from imagekin_worker.analysis.selection import Diverse, Representative
from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.kmeans.measure import Options
from imagekin_worker.matrix import view
from imagekin_worker.matrix.view import View
from kit import photographs

BUDGET = 1 << 30
# of the view: precision at 5, mean average precision
LEAST = {"furniture": (0.85, 0.81), "photos": (0.83, 0.57), "demo": (0.95, 0.94)}
DRAWS = 3


@dataclass(frozen=True)
class Pictures:
    """Raw embeddings (n, dim) of labelled pictures, and the view that they make."""

    name: str
    rows: np.ndarray
    labels: np.ndarray
    view: View

    @property
    def raw(self) -> View:
        return view.raw("space", self.rows.shape[1], len(self.rows))


@pytest.fixture(scope="module", params=list(LEAST))
def labelled(request: pytest.FixtureRequest) -> Pictures:
    found = photographs.labelled(request.param)
    made = view.of(found.rows, "space")
    if made.name == view.RAW:
        # the demo is smaller than the least collection that gets a view of its own, so it is counted twice
        made = view.of(np.concatenate([found.rows, found.rows]), "space")
    return Pictures(request.param, found.rows, np.unique(found.kinds, return_inverse=True)[1], made)


def figures(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return precision at 5 and average precision (n, 2) of each picture among the others."""
    tensors = torch.from_numpy(np.asarray(rows, np.float32)), torch.from_numpy(labels)
    return adaptation.ranked(*tensors, torch.arange(len(rows)))


def test_the_view_has_better_neighbors(labelled: Pictures) -> None:
    raw = figures(labelled.raw.exact(labelled.rows), labelled.labels)
    calibrated = figures(labelled.view.exact(labelled.rows), labelled.labels)
    low, high = folds.bootstrap((calibrated - raw)[:, 1], np.arange(len(raw)), 1)
    print(f"\n{labelled.name}: P@5 {raw[:, 0].mean():.3f} -> {calibrated[:, 0].mean():.3f}, ", end="")
    print(f"mAP {raw[:, 1].mean():.3f} -> {calibrated[:, 1].mean():.3f} ({low:+.3f} to {high:+.3f})")
    precision, average = LEAST[labelled.name]
    assert calibrated[:, 0].mean() >= precision and calibrated[:, 1].mean() >= average
    assert low > 0 and calibrated[:, 0].mean() >= raw[:, 0].mean() - 0.005


def test_clusters_of_the_view_are_as_pure(labelled: Pictures) -> None:
    n_clusters = len(np.unique(labelled.labels))
    found = {}
    for name, made in (("raw", labelled.raw), ("view", labelled.view)):
        each = []
        for seed in range(10):
            kmeans = KMeans(
                made.transform(labelled.rows), n_clusters, Options(metric=Metric.COSINE, seed=seed, n_init=2)
            )
            kmeans.advance()
            each.append(agreement(kmeans.result().labels, labelled.labels))
        found[name] = np.mean(each, 0)
    print(f"\n{labelled.name}: purity, NMI of k-means {found['raw'].round(3)} -> {found['view'].round(3)}")
    assert (found["view"] >= found["raw"]).all()


def agreement(found: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return purity and normalised mutual information."""
    largest = sum(np.bincount(labels[found == cluster]).max() for cluster in np.unique(found))
    return largest / len(labels), float(normalized_mutual_info_score(labels, found))


def taught(labels: np.ndarray, examples: int, seed: int) -> np.ndarray:
    """Return the labels of some pictures of each class, -1 for the others."""
    random = np.random.default_rng(seed)
    given = np.full(len(labels), -1, np.int64)
    for label in np.unique(labels):
        given[random.permutation(np.flatnonzero(labels == label))[:examples]] = label
    return given


def test_five_labels_a_class_teach(labelled: Pictures) -> None:
    gains, accuracies, queries, passed = [], [], [], 0
    for seed in range(DRAWS):
        given = taught(labelled.labels, 5, seed)
        rest = given < 0
        adapting = Adaptation(labelled.rows, labelled.view, given, memory_budget_bytes=BUDGET)
        adapting.advance()
        made = adapting.result(force=True)
        passed += made.better
        after = made.projection.apply(labelled.rows[rest])
        before = labelled.view.transform(labelled.rows[rest])
        gains.append([figures(some, labelled.labels[rest]) for some in (before, after)])
        queries.append(np.flatnonzero(rest))
        classifying = Classification(labelled.rows, labelled.view, given, memory_budget_bytes=BUDGET)
        classifying.advance()
        found = classifying.result()
        accuracies.append((found.labels == labelled.labels[found.indices]).mean())
    before, after = np.mean([[some.mean(0) for some in pair] for pair in gains], 0)
    lost = np.concatenate([pair[1][:, 0] - pair[0][:, 0] for pair in gains])
    low, high = folds.bootstrap(lost, np.concatenate(queries), 1)
    print(f"\n{labelled.name}, 5 labels a class: P@5, mAP {before.round(3)} -> {after.round(3)} ", end="")
    print(f"(P@5 {low:+.3f} to {high:+.3f}), accuracy {np.mean(accuracies):.3f}, least {min(accuracies):.3f}; ", end="")
    print(f"made in {passed} of {DRAWS} draws")
    if labelled.name == "demo":
        # fifteen pictures are left, whose classes are apart already: one neighbor more or less is 0.004
        assert high >= -0.005
    else:
        assert after[0] >= before[0] - 0.005
        assert after[1] >= before[1] + 0.06
    if labelled.name == "photos":
        assert passed >= 0.8 * DRAWS
    assert np.mean(accuracies) >= {"photos": 0.82}.get(labelled.name, 0.9)


def test_verdicts_find_more(labelled: Pictures) -> None:
    if labelled.name != "photos":
        pytest.skip("two rounds of verdicts need classes of twenty and more")
    rows, labels = labelled.view.exact(labelled.rows), labelled.labels
    found: dict[str, list[float]] = {"alone": [], "rocchio": [], "logistic": []}
    for query in np.random.default_rng(0).choice(np.flatnonzero(np.bincount(labels)[labels] >= 35), 30, replace=False):
        for method, shares in found.items():
            direction, right, wrong = rows[query], [int(query)], []
            for _ in range(2):
                order = np.argsort(-(rows @ direction))
                order = order[~np.isin(order, right + wrong)]
                right += order[labels[order] == labels[query]][:5].tolist()
                wrong += order[labels[order] != labels[query]][:5].tolist()
                given = rows[right], rows[wrong]
                if method == "rocchio":
                    direction = refinement.rocchio(*given)
                elif method == "logistic":
                    others = np.setdiff1d(refinement.drawn(len(rows)), right)
                    direction = refinement.logistic(*given, rows[others])
            order = np.argsort(-(rows @ direction))
            new = order[~np.isin(order, right + wrong)][:20]
            shares.append(float((labels[new] == labels[query]).mean()))
    means = {method: round(float(np.mean(shares)), 3) for method, shares in found.items()}
    print(f"\n{labelled.name}, two rounds of 5 + and 5 -, P@20 of new ones: {means}")
    assert min(means["rocchio"], means["logistic"]) >= means["alone"] + 0.15


def test_selections_meet_every_class(labelled: Pictures, tmp_path: Path) -> None:
    classes = len(np.unique(labelled.labels))
    arguments = labelled.rows, labelled.view, 2 * classes
    diverse = Diverse(*arguments, memory_budget_bytes=BUDGET, folder=tmp_path)
    representative = Representative(*arguments, memory_budget_bytes=BUDGET, folder=tmp_path)
    for name, chosen in (("diverse", diverse), ("representative", representative)):
        chosen.advance()
        met = len(np.unique(labelled.labels[chosen.result().indices]))
        print(f"\n{labelled.name}: {2 * classes} {name} meet {met} of {classes} classes")
        assert met >= 0.85 * classes


def test_kin_lie_together_on_the_map(labelled: Pictures, tmp_path: Path) -> None:
    layout = Layout(labelled.rows, labelled.view, memory_budget_bytes=BUDGET, folder=tmp_path)
    layout.advance()
    places = layout.result()
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    near = np.argsort(distances, axis=1)[:, :5]
    share = float((labelled.labels[near] == labelled.labels[:, None]).mean())
    print(f"\n{labelled.name}: kin among 5 nearest on the map {share:.3f}")
    assert share >= 0.6
