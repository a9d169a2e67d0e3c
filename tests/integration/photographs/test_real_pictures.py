"""The default backbone finds kin, `fast` finds the same, k-means is as good as scikit-learn's.

On photographs, which a plain clone does not have and skips, and on the demo's thirty pictures, which it has.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans as TheirKMeans
from sklearn.metrics import normalized_mutual_info_score

from imagekin import catalog
from imagekin.enums import Precision
from imagekin.settings import Settings
from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.network import backbones, preprocess
from imagekin_worker.pipeline.lanes import Outcome
from imagekin_worker.tuning import compile, compiled, rounding
from kit.photographs import Labelled, embedded, labelled, rows

LEAST_PRECISION_AT_5 = {"demo": 0.94, "furniture": 0.786, "photos": 0.758}
MOST_INERTIA_OVER_THEIRS = 1.01
# of a space that changes pixels and numbers to the one that does not
LEAST_MEAN_COSINE, LEAST_COSINE = 0.999, 0.995
# Photographs from this shorter side on `fast` decodes at a reduced scale.
LARGE_PX = 1408


@pytest.fixture(scope="module", params=list(LEAST_PRECISION_AT_5))
def photographs(request: pytest.FixtureRequest) -> Labelled:
    return labelled(request.param)


def units(outcomes: list[Outcome[Path]]) -> NDArray[np.float32]:
    embeddings = rows(outcomes)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def precision_at(top: int, photographs: Labelled) -> float:
    """Of each photograph's `top` nearest others, the share that is of its kind."""
    embeddings = units(photographs.outcomes)
    similarities = embeddings @ embeddings.T
    np.fill_diagonal(similarities, -np.inf)
    nearest = np.argsort(-similarities, axis=1)[:, :top]
    return float((photographs.kinds[nearest] == photographs.kinds[:, None]).mean())


def purity(labels: np.ndarray, folders: np.ndarray) -> float:
    largest = [np.unique(folders[labels == label], return_counts=True)[1].max() for label in np.unique(labels)]
    return float(sum(largest) / len(labels))


def test_the_nearest_are_of_a_kind(photographs: Labelled) -> None:
    at_5 = precision_at(5, photographs)
    print(f"{photographs.name}: precision at 5 {at_5:.3f}, at 1 {precision_at(1, photographs):.3f}")
    assert at_5 >= LEAST_PRECISION_AT_5[photographs.name]


@pytest.mark.parametrize("photographs", ["furniture"], indirect=True)
def test_fast_embeds_large_photographs_nearly_as_exact(photographs: Labelled) -> None:
    large = [each for each in photographs.outcomes if min(each.width or 0, each.height or 0) >= LARGE_PX]
    fast = embedded([outcome.item for outcome in large], Path.read_bytes, Precision.FAST)
    cosines = (units(fast) * units(large)).sum(axis=1)
    print(f"{photographs.name}: {len(large)} large, mean cosine {cosines.mean():.5f}, least {cosines.min():.5f}")
    assert cosines.max() < 1 - 1e-6, "nothing was decoded at a reduced scale"
    assert cosines.mean() >= LEAST_MEAN_COSINE
    assert cosines.min() >= LEAST_COSINE


@pytest.mark.faults
@pytest.mark.skipif(not compiled.can_bfloat16(), reason="without OpenVINO, or the processor has no bfloat16")
def test_fast_keeps_its_promise_over_all_photographs_in_bfloat16(tmp_path: Path) -> None:
    """Pixels and numbers together."""
    photographs = [outcome for name in ("furniture", "photos") for outcome in labelled(name).outcomes]
    settings = Settings(device="cpu")
    space = catalog.resolve_space(None, None, Precision.FAST, settings.weights_dir)
    network = backbones.scaled(space, settings, torch.device("cpu"))
    rounding.correct_biases(network, space.preprocess.shape)
    pixels = np.stack([preprocess.prepare(each.item.read_bytes(), space, settings)[1] for each in photographs])
    rounded = compiled.load(
        compile._converted(network, torch.from_numpy(pixels[:1]), "bf16", tmp_path), torch.device("cpu"), 1
    )
    cosines = torch.cosine_similarity(rounded(torch.from_numpy(pixels)), torch.from_numpy(rows(photographs))).numpy()
    print(f"{len(cosines)} photographs, mean cosine {cosines.mean():.5f}, least {cosines.min():.5f}")
    assert cosines.mean() >= LEAST_MEAN_COSINE
    assert cosines.min() >= LEAST_COSINE


def test_kmeans_is_as_good_as_scikit_learns_best_of_ten(photographs: Labelled) -> None:
    n_clusters = len(np.unique(photographs.kinds))
    embeddings = units(photographs.outcomes)
    ours = KMeans(embeddings, n_clusters)
    while not ours.advance():
        pass
    found = ours.result()
    theirs = TheirKMeans(n_clusters, n_init=10, random_state=100).fit(embeddings)  # type: ignore[arg-type]
    information = normalized_mutual_info_score(photographs.kinds, found.labels)
    print(
        f"{photographs.name}, k={n_clusters}: inertia {found.inertia:.3f} (scikit-learn {theirs.inertia_:.3f}), "
        f"NMI {information:.3f}, purity {purity(found.labels, photographs.kinds):.3f}"
    )
    assert found.inertia <= MOST_INERTIA_OVER_THEIRS * float(theirs.inertia_ or 0)
