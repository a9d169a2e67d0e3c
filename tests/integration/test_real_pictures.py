"""The default backbone finds kin, `fast` finds the same, k-means is as good as scikit-learn's.

On photographs, which a plain clone does not have and skips, and on the demo's thirty pictures, which it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans as TheirKMeans
from sklearn.metrics import normalized_mutual_info_score

from imagekin import catalog
from imagekin.demo import furniture
from imagekin.enums import Precision
from imagekin.settings import Settings
from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.network import backbones
from imagekin_worker.pipeline.lanes import Pipeline

DATA = Path(__file__).parents[3] / "shared" / "data"
LEAST_PRECISION_AT_5 = {"demo": 0.94, "furniture": 0.786, "photos": 0.758}
MOST_INERTIA_OVER_THEIRS = 1.01
# of a space that changes pixels to the one that does not; one photograph in fifty is far below
LEAST_MEAN_COSINE, LEAST_MEDIAN_COSINE = 0.999, 0.9995
# Photographs from this shorter side on `fast` decodes at a reduced scale.
LARGE_PX = 1024


@dataclass(frozen=True)
class Photographs:
    """Unit embeddings (n, dim), by path, and the folder (the demo: the class) and shorter side of each photograph."""

    name: str
    paths: list[Path]
    embeddings: np.ndarray
    folders: np.ndarray
    sides: np.ndarray


@pytest.fixture(scope="module", params=list(LEAST_PRECISION_AT_5))
def photographs(request: pytest.FixtureRequest) -> Iterator[Photographs]:
    if request.param == "demo":
        yield embedded("demo", [picture.path for picture in furniture.pictures()], Precision.EXACT)
        return
    folder = DATA / request.param
    if not folder.is_dir():
        pytest.skip(f"the photographs are not here: {folder}")
    paths = sorted(path for path in folder.glob("*/*") if path.is_file())
    yield embedded(request.param, paths, Precision.EXACT)


def embedded(name: str, paths: list[Path], precision: Precision) -> Photographs:
    settings = Settings(device="cpu")
    space = catalog.resolve_space(None, None, precision, settings.weights_dir)
    outcomes = list(Pipeline(backbones.load(space, settings), settings, paths, Path.read_bytes).outcomes())
    assert [outcome.item for outcome in outcomes if outcome.embedding is None] == []
    outcomes.sort(key=lambda outcome: outcome.item)
    embeddings = np.stack([outcome.embedding for outcome in outcomes if outcome.embedding is not None])
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    sides = np.array([min(outcome.width or 0, outcome.height or 0) for outcome in outcomes])
    folders = [furniture.label(path.name)[0] if name == "demo" else path.parent.name for path in paths]
    return Photographs(name, paths, embeddings, np.array(folders), sides)


def precision_at(top: int, photographs: Photographs) -> float:
    """Of each photograph's `top` nearest others, the share that lies in its own folder."""
    similarities = photographs.embeddings @ photographs.embeddings.T
    np.fill_diagonal(similarities, -np.inf)
    nearest = np.argsort(-similarities, axis=1)[:, :top]
    return float((photographs.folders[nearest] == photographs.folders[:, None]).mean())


def purity(labels: np.ndarray, folders: np.ndarray) -> float:
    largest = [np.unique(folders[labels == label], return_counts=True)[1].max() for label in np.unique(labels)]
    return float(sum(largest) / len(labels))


def test_the_nearest_are_of_a_kind(photographs: Photographs) -> None:
    at_5 = precision_at(5, photographs)
    print(f"{photographs.name}: precision at 5 {at_5:.3f}, at 1 {precision_at(1, photographs):.3f}")
    assert at_5 >= LEAST_PRECISION_AT_5[photographs.name]


@pytest.mark.parametrize("photographs", ["furniture"], indirect=True)
def test_fast_embeds_large_photographs_nearly_as_exact(photographs: Photographs) -> None:
    large = np.flatnonzero(photographs.sides >= LARGE_PX)
    fast = embedded(photographs.name, [photographs.paths[at] for at in large], Precision.FAST)
    cosines = (fast.embeddings * photographs.embeddings[large]).sum(axis=1)
    print(f"{photographs.name}: {len(large)} large, mean cosine {cosines.mean():.5f}, least {cosines.min():.5f}")
    assert cosines.max() < 1 - 1e-6, "nothing was decoded at a reduced scale"
    assert cosines.mean() >= LEAST_MEAN_COSINE
    assert np.median(cosines) >= LEAST_MEDIAN_COSINE


def test_kmeans_is_as_good_as_scikit_learns_best_of_ten(photographs: Photographs) -> None:
    n_clusters = len(np.unique(photographs.folders))
    ours = KMeans(photographs.embeddings, n_clusters)
    while not ours.advance():
        pass
    found = ours.result()
    theirs = TheirKMeans(n_clusters, n_init=10, random_state=100).fit(photographs.embeddings)
    information = normalized_mutual_info_score(photographs.folders, found.labels)
    print(
        f"{photographs.name}, k={n_clusters}: inertia {found.inertia:.3f} (scikit-learn {theirs.inertia_:.3f}), "
        f"NMI {information:.3f}, purity {purity(found.labels, photographs.folders):.3f}"
    )
    assert found.inertia <= MOST_INERTIA_OVER_THEIRS * theirs.inertia_
