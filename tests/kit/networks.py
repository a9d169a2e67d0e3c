"""Networks with numbers by chance: of timm, and a small one of one's own in the three forms that it may have."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

KINDS = ("pt", "pt2", "onnx")
LARGE = "vit_small_patch14_reg4_dinov2.lvd142m"  # 518 pixels, registers
# Of timm one of each family, the smallest that it has.
FAMILIES = (
    "resnet10t.c3_in1k",
    "regnetz_b16.ra3_in1k",  # BatchNorm with its activation in one module
    "convnextv2_atto.fcmae",  # has no head
    "efficientnet_b0.ra_in1k",
    LARGE,
    "vit_small_patch16_dinov3.lvd1689m",
    "eva02_tiny_patch14_224.mim_in22k",
    "swin_tiny_patch4_window7_224.ms_in1k",
    "mobilenetv4_conv_small.e2400_r224_in1k",
    "fastvit_mci0.apple_mclip",  # the image tower of MobileCLIP
    "vit_base_patch16_siglip_224.webli",  # pooled by attention
    "repvgg_a0.rvgg_in1k",  # branches that are merged
    "deit_tiny_distilled_patch16_224.fb_in1k",  # two heads
)
DIM = 24


def shaken(network: nn.Module) -> nn.Module:
    """Give each BatchNorm statistics that matter; the network is set to eval.

    With smaller variances numbers grow to 1e9, where gates are steps: float32 then depends on the size of a batch.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.6, 1.0)
            nn.init.uniform_(module.weight, 0.8, 1.2)
    return network.eval()


def of_timm(name: str, **options: Any) -> nn.Module:
    """Build a network of timm."""
    import timm

    torch.manual_seed(0)
    return shaken(timm.create_model(name, **options))


def keep(network: nn.Module, path: Path) -> None:
    """Write a network's numbers as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}, path)


class Small(nn.Module):
    """Two convolutions and a layer: pictures (n, 3, height, width) to vectors (n, 24)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        )  # fmt: skip
        self.last = nn.Linear(128, DIM)
        shaken(self)

    def forward(self, pictures: Tensor) -> Tensor:
        """Embed scaled pictures (n, 3, height, width) into (n, 24)."""
        return self.last(self.features(pictures).flatten(1))


def export(network: nn.Module, path: Path, shape: tuple[int, int] = (64, 64), batch: int | None = None) -> None:
    """Write a network as the file's suffix says, for batches of any size, or of `batch`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    example = torch.rand(batch or 2, 3, *shape)
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript, and of what exporters tell their authors
        if path.suffix == ".pt":
            torch.jit.save(torch.jit.trace(network, example, check_trace=False), path)
        elif path.suffix == ".pt2":
            torch.export.save(torch.export.export(network, (example,), dynamic_shapes=shapes), path)
        else:
            torch.onnx.export(
                network, (example,), path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
            )


def describe(path: Path, **fields: Any) -> None:
    """Write the JSON beside a network's file; None leaves a field out."""
    said = {"dim": DIM, "input": 64, "resize": 72, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]} | fields
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps({name: each for name, each in said.items() if each is not None}))


def pictures() -> list[Image.Image]:
    """Draw three pictures of several sizes."""
    random = np.random.default_rng(5)
    coarse = [random.integers(0, 256, (6, 6, 3), dtype=np.uint8) for _ in range(3)]
    sizes = [(640, 427), (300, 500), (90, 80)]
    return [
        Image.fromarray(each).resize(size, Image.Resampling.BICUBIC) for each, size in zip(coarse, sizes, strict=True)
    ]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of one array (n, dim) to that of another."""
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
