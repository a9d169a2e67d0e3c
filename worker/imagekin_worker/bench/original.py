"""The class that imagekin started from, as a peer: product.md's table of what it does, its defects included.

One picture a forward pass, with gradients on, so that every stored vector keeps the graph that made it; a search is a
loop over the stored vectors; k-means is kmeans-pytorch's.
"""

from __future__ import annotations

import importlib
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from imagekin.catalog import Space
from imagekin.settings import Settings
from imagekin_worker.network import checkpoints

SUFFIXES = (".png", ".jpg", ".jpeg")
SEED = 100


class Cost(NamedTuple):
    """Images a second, and the cost of a picture.

    The costs are the milliseconds to read and transform it, the milliseconds of the cores that the system takes, and
    the MiB of new memory.
    """

    rate: float
    decode_ms: float
    system_ms: float
    new_mib: float


def network(space: Space, settings: Settings) -> nn.Module:
    """Build the whole torchvision network of a space, head and all, with the space's weights."""
    from torchvision import models

    whole = models.get_model(space.backbone, weights=None)
    whole.load_state_dict(dict(checkpoints.read(space, settings)))
    return whole


class Original:
    """Embeds pictures with a torchvision network without its last layer, compares and clusters them.

    `whole`: resnet50, vgg19 or efficientnet_b0 with its head; `transform`: the weights' own.
    """

    def __init__(
        self, architecture: str, whole: nn.Module, transform: Callable[[Image.Image], Tensor], device: str
    ) -> None:
        self.dataset: dict[str, Tensor] = {}
        self._transform = transform
        self._device = device
        self._network = self._cut(architecture, whole).eval().to(device)

    def embed_image(self, path: Path) -> Tensor:
        """Embed one picture into (dim,), in a forward pass of its own."""
        return self._network(self.pixels(path))

    def pixels(self, path: Path) -> Tensor:
        """Read and transform one picture into (3, height, width)."""
        return self._transform(Image.open(path)).to(self._device).unsqueeze(0)

    def embed_dataset(self, source: Path | Sequence[Path]) -> None:
        """Embed a picture, a list of pictures, or those of a folder."""
        files = sorted(source.iterdir()) if isinstance(source, Path) and source.is_dir() else source
        for path in [files] if isinstance(files, Path) else files:
            if path.name.endswith(SUFFIXES):
                self.dataset[str(path)] = self.embed_image(path)

    def similar_images(self, target: Path, n: int | None = None) -> dict[str, float]:
        """Return the pictures with their cosine similarity to a picture, the most similar first."""
        return self.similar_to(self.embed_image(target), n)

    def similar_to(self, vector: Tensor, n: int | None = None) -> dict[str, float]:
        """Do so for a vector (dim,)."""
        cosine = nn.CosineSimilarity(dim=1)
        found = {key: cosine(vector, other).mean().item() for key, other in self.dataset.items()}
        return dict(sorted(found.items(), key=lambda item: item[1], reverse=True)[:n])

    def cluster_dataset(self, nclusters: int, dist: str = "euclidean") -> tuple[dict[str, int], Tensor]:
        """Return each picture's cluster (n,), and the centers (k, dim)."""
        kmeans: Any = importlib.import_module("kmeans_pytorch").kmeans
        rows = torch.stack([vector.squeeze().detach() for vector in self.dataset.values()])
        np.random.seed(SEED)  # kmeans-pytorch draws from numpy's global generator
        labels, centers = kmeans(X=rows, num_clusters=nclusters, distance=dist, device=torch.device(self._device))
        return dict(zip(self.dataset, labels.tolist(), strict=True)), centers

    @staticmethod
    def _cut(architecture: str, whole: nn.Module) -> nn.Module:
        if architecture == "resnet50":
            return nn.Sequential(*list(whole.children())[:-1])
        whole.classifier = nn.Sequential(*list(whole.get_submodule("classifier").children())[:-1])
        return whole


def transform_of(architecture: str) -> Callable[[Image.Image], Tensor]:
    """Return the transforms of a network's default weights, from a picture to (3, height, width), not the weights."""
    from torchvision import models

    return models.get_model_weights(architecture)["DEFAULT"].transforms()


def cost(files: Sequence[Path], space: Space, settings: Settings, device: str) -> Cost:
    """Measure the class over some pictures, its network loaded before, in a process of its own.

    It takes new memory for every picture; a process that has used and freed as much before would find it there. On a
    virtual machine that memory may have to come from its host first, which makes the class slower by more than half.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_cost, files, space, settings, device).result()


def _cost(files: Sequence[Path], space: Space, settings: Settings, device: str) -> Cost:
    peer = Original(space.backbone, network(space, settings), transform_of(space.backbone), device)
    peer.embed_image(files[0])
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    peer.embed_dataset(files)
    # a GPU's work is done when its numbers are here
    next(reversed(peer.dataset.values())).detach().cpu()
    ended, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    for path in files:
        peer.pixels(path)
    decode_s = time.perf_counter() - ended
    system_s, pages = after.ru_stime - before.ru_stime, after.ru_minflt - before.ru_minflt
    count = len(files)
    new_mib = pages * resource.getpagesize() / 2**20
    return Cost(count / (ended - started), 1e3 * decode_s / count, 1e3 * system_s / count, new_mib / count)
