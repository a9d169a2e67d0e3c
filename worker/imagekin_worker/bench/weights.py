"""resnet50's weights for the rows that need them: the real ones where they are on this machine, else seeded ones.

They come through the true path: a file below the weights' folder. Speed does not depend on their values, as long as
activations neither fade nor explode on their way (numbers too small for a float32 are slow).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from imagekin import catalog
from imagekin.catalog import Space, files
from imagekin.enums import Precision
from imagekin.settings import Settings
from imagekin_worker.network import backbones, checkpoints

BACKBONE = "resnet50"
SEED = 100


def place(folder: Path, settings: Settings) -> tuple[str, bool]:
    """Put a weights file of resnet50 into `folder` and name it; return whether it is the real one.

    `settings`: the user's own, whose weights' folder is looked into, after which torch's cache is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = _found(settings)
    if found is not None:
        shutil.copyfile(found, folder / found.name)
        return found.name, True
    name = f"{BACKBONE}-seeded.safetensors"
    save_file(seeded().state_dict(), folder / name)
    return name, False


def seeded() -> nn.Module:
    """Build a resnet50 with seeded weights and the statistics that they make of noise."""
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = models.resnet50(weights=None)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        with torch.inference_mode():
            network.train()(torch.randn(8, 3, 128, 128))
    return network.eval()


def _found(settings: Settings) -> Path | None:
    backbone = catalog.backbones()[BACKBONE]
    weights = backbone.weights[backbone.default_weights or ""]
    name = (weights.url or "").rpartition("/")[2]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    path = files.below(settings.weights_dir, name) or (cached if cached.is_file() else None)
    right = path is not None and files.digest(path).startswith(weights.digest)
    return path if right else None


def eager(space: Space, settings: Settings) -> nn.Module:
    """Build a space's network with its weights as the libraries give it: float32, nothing folded, without its head."""
    network = backbones.build(space)
    checkpoints.fill(network, checkpoints.read(space, settings), space)
    return network.eval()


def space_of(backbone: str, weights: str | None, settings: Settings, precision: Precision = Precision.EXACT) -> Space:
    """Resolve a space as a collection would have it; raises UnknownWeights."""
    return catalog.resolve_space(backbone, weights, precision, settings.weights_dir)
