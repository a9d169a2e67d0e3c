"""Embedding a folder with resnet50: imagekin's whole job, the original class, imagededup, a plain DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import MARKS, Table
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from imagekin_worker.bench import original, timing, weights
from imagekin_worker.bench.workbench import RESNET, Workbench
from imagekin_worker.network.devices import cores

pytestmark = MARKS

LEAST_COSINE = 0.9999
BATCH = 32

Vectors = dict[str, np.ndarray]


def test_embedding(bench: Workbench) -> None:
    folder = bench.pictures(RESNET)
    few = sorted(folder.iterdir())[: bench.sizes.class_pictures]
    found: dict[str, Vectors] = {}
    works: dict[str, Callable[[], float]] = {
        "imagekin, HTTP submit to last commit": lambda: whole_job(bench, folder, found),
        "the original class": lambda: original_class(bench, few, found),
        "imagededup's CNN": lambda: imagededup(bench, folder, found),
        f"DataLoader, {cores()} processes, batches of {BATCH}": lambda: data_loader(bench, folder, found),
    }
    imagekin = next(iter(works))
    works[imagekin]()  # loads the network
    rates = timing.in_turns(works, bench.sizes.repetitions)
    table = Table(f"{RESNET}, {bench.sizes.slow_pictures} JPEGs of 500 x 400", "way", "images/s", "imagekin over it",
                  "cosine to imagekin's")  # fmt: skip
    for name, rate in rates.items():
        least = min(cosine(found[imagekin][key], vector) for key, vector in found[name].items())
        table.add(name, rate, rates[imagekin] / rate, f"{least:.6f}")
        assert least >= LEAST_COSINE, name
    table.show()


def whole_job(bench: Workbench, folder: Path, found: dict[str, Vectors]) -> float:
    """Embed a folder through the running service."""
    service = bench.service()
    with service.collection(RESNET, bench.weights(RESNET)) as name:
        run = service.embed(folder, name)
        vectors = service.client.vectors(name)
    found["imagekin, HTTP submit to last commit"] = dict(zip(vectors.keys, vectors.embeddings, strict=True))
    return run.rate


def original_class(bench: Workbench, files: Sequence[Path], found: dict[str, Vectors]) -> float:
    """Embed a few pictures with the class: it keeps a graph for each."""
    space = bench.space(RESNET)
    peer = original.Original(RESNET, original.network(space, bench.settings), original.transform_of(RESNET), "cpu")
    peer.embed_image(files[0])
    seconds = timing.seconds(lambda: peer.embed_dataset(files))
    found["the original class"] = {
        Path(key).name: vector.detach().numpy().ravel() for key, vector in peer.dataset.items()
    }
    return len(files) / seconds


def imagededup(bench: Workbench, folder: Path, found: dict[str, Vectors]) -> float:
    """Embed a folder with imagededup's encoder, given the same network and transforms."""
    methods = pytest.importorskip("imagededup.methods", reason="pip install 'imagekin[benchmarks]'")
    from imagededup.utils import CustomModel  # type: ignore[import-not-found] - an extra

    network = weights.eager(bench.space(RESNET), bench.settings).requires_grad_(False)
    encoder = methods.CNN(verbose=False, model_config=CustomModel(RESNET, network, original.transform_of(RESNET)))
    seconds = timing.seconds(lambda: encoder.encode_images(folder))
    found["imagededup's CNN"] = encoder.encoding_map
    return len(encoder.encoding_map) / seconds


class Pictures(Dataset):
    """What a tutorial writes: open, RGB, transform."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())
        self.transform = original.transform_of(RESNET)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        path = self.paths[index]
        return self.transform(Image.open(path).convert("RGB")), path.name


def data_loader(bench: Workbench, folder: Path, found: dict[str, Vectors]) -> float:
    """Embed a folder with processes that decode beside the forward pass."""
    network = weights.eager(bench.space(RESNET), bench.settings)
    vectors: Vectors = {}

    @torch.inference_mode()
    def run() -> None:
        for pixels, names in DataLoader(Pictures(folder), BATCH, num_workers=cores()):
            vectors.update(zip(names, network(pixels).numpy(), strict=True))

    seconds = timing.seconds(run)
    found[f"DataLoader, {cores()} processes, batches of {BATCH}"] = vectors
    return len(vectors) / seconds


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
