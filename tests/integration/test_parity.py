"""Embeddings are those of the original class: the same layers, the weights' own transforms, held to an eager network.

The reference is written here out of torchvision alone. Limits: cosine >= 0.99999 and a largest difference of 3e-4 of
the reference's largest number (measured: 3e-5; folding BatchNorm rounds differently).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn
from torchvision import models

from imagekin import catalog
from imagekin.enums import Precision
from imagekin.settings import Settings
from imagekin_worker.network import backbones, preprocess
from imagekin_worker.network.backbones import Backbone
from imagekin_worker.pictures import decoding
from imagekin_worker.pipeline.lanes import Outcome, Pipeline

LEAST_COSINE = 0.99999
LARGEST_DIFFERENCE = 3e-4


def _without_last_of_classifier(network: nn.Module) -> nn.Module:
    network.classifier = nn.Sequential(*list(network.get_submodule("classifier").children())[:-1])
    return network


CUTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "resnet50": lambda network: nn.Sequential(*list(network.children())[:-1], nn.Flatten()),
    "vgg19": _without_last_of_classifier,
    "efficientnet_b0": _without_last_of_classifier,
}
DIMS = {"resnet50": 2048, "vgg19": 4096, "efficientnet_b0": 1280}
# of a network that takes five times as long as the others, which show all kinds of pictures
FEWER = {"vgg19": 4}


def seeded(name: str) -> nn.Module:
    """A network that is random and yet tells pictures apart: with BatchNorm's numbers as they start, activations fade
    or explode on their way through an untrained network, and all embeddings point in one direction."""
    torch.manual_seed(100)
    network = models.get_model(name, weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            module.reset_running_stats()
            module.momentum = None
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        _settle_statistics(network)
    return network.eval()


def _settle_statistics(network: nn.Module) -> None:
    # Of smooth and of noisy inputs, as the pictures are: what BatchNorm never saw it makes enormous, rounding included.
    draw = torch.Generator().manual_seed(1)
    smooth = nn.functional.interpolate(torch.randn(6, 3, 7, 7, generator=draw), size=(128, 128), mode="bicubic")
    noisy = torch.randn(6, 3, 128, 128, generator=draw)
    network.train()
    with torch.inference_mode():
        network(torch.cat([smooth, noisy]))


def pictures() -> list[bytes]:
    """Twelve pictures of every color mode, format and shape that matter, as files."""
    rng = np.random.default_rng(5)

    def scene(width: int, height: int) -> Image.Image:
        blocks = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        return blocks.resize((width, height), Image.Resampling.BICUBIC)

    def file(image: Image.Image, format: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        return buffer.getvalue()

    turned = Image.Exif()
    turned[0x0112] = 6
    return [
        file(scene(500, 400), "JPEG", quality=90),
        file(scene(300, 640), "JPEG", quality=60),
        file(scene(400, 300), "JPEG", exif=turned),
        file(scene(400, 300).convert("L"), "JPEG"),
        file(scene(320, 320).convert("CMYK"), "JPEG"),
        file(scene(257, 255), "PNG"),
        file(scene(300, 260).convert("P"), "PNG"),
        file(scene(64, 48), "GIF"),
        file(scene(1000, 700), "WEBP", lossless=True),
        file(scene(120, 90), "BMP"),
        file(scene(600, 250), "TIFF"),
        file(Image.fromarray(rng.integers(0, 256, (230, 230, 3), dtype=np.uint8)), "PNG"),
    ]


def reference(name: str, network: nn.Module, files: list[bytes]) -> np.ndarray:
    transforms = models.get_model_weights(name)["DEFAULT"].transforms()
    cut = CUTS[name](network).eval()
    rows = []
    for data in files:
        with Image.open(io.BytesIO(data)) as image, torch.inference_mode():
            pixels = transforms(ImageOps.exif_transpose(image).convert("RGB"))
            rows.append(cut(pixels.unsqueeze(0)).squeeze(0).numpy())
    return np.stack(rows)


def embed_files(backbone: Backbone, files: list[bytes], settings: Settings) -> np.ndarray:
    outcomes: dict[int, Outcome[int]] = {
        outcome.item: outcome
        for outcome in Pipeline(backbone, settings, range(len(files)), lambda at: files[at]).outcomes()
    }
    embeddings = [outcomes[at].embedding for at in range(len(files))]
    assert all(embedding is not None for embedding in embeddings)
    return np.stack([embedding for embedding in embeddings if embedding is not None])


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


@pytest.mark.parametrize("name", list(CUTS))
def test_embeddings_are_those_of_the_original_class(name: str, tmp_path: Path) -> None:
    network = seeded(name)
    torch.save(network.state_dict(), tmp_path / "seeded.pth")
    settings = Settings(device="cpu", weights_dir=tmp_path)
    space = catalog.resolve_space(name, "seeded.pth", Precision.EXACT, tmp_path)
    backbone = backbones.load(space, settings)
    files = pictures()[: FEWER.get(name)]
    expected = reference(name, network, files)

    ours = embed_files(backbone, files, settings)

    assert ours.shape == (len(files), DIMS[name])
    assert_tells_pictures_apart(expected)
    assert_same(ours, expected)
    assert_batches_do_not_matter(backbone, ours, files)


def assert_tells_pictures_apart(embeddings: np.ndarray) -> None:
    """Else any embedding would pass for any other."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    others = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    assert others.max() < 0.9999


def assert_same(ours: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(ours - expected).max() / np.abs(expected).max()
    print(
        f"least cosine {cosines(ours, expected).min():.8f}, largest difference {difference:.1e} of the largest number"
    )
    assert cosines(ours, expected).min() >= LEAST_COSINE
    assert difference <= LARGEST_DIFFERENCE


def assert_batches_do_not_matter(backbone: Backbone, ours: np.ndarray, files: list[bytes]) -> None:
    decoded = [decoding.decode(data, Settings()) for data in files]
    batch = np.stack([preprocess.transform(picture, backbone.space.preprocess) for picture in decoded])
    assert_same(backbone.embed(batch[:1]), ours[:1])
    assert_same(backbone.embed(batch[6::-1].copy())[::-1], ours[:7])
