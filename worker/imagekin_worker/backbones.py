"""Backbones made ready to run: weights found and checked, head cut off, made fast, kept warm within a budget."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from imagekin import catalog
from imagekin.catalog import Space
from imagekin.config import Settings
from imagekin.types import Precision
from imagekin_worker import checkpoints, fusion, lite0, testing

CPU_BATCH = 4
"""Pictures a forward pass on one core: larger batches leave the cache and lose."""

GPU_BATCH = 64

Batch = NDArray[np.uint8] | NDArray[np.float32]


class Backbone(Protocol):
    """What a pipeline needs of a network without its head."""

    space: Space
    batch_size: int
    on_gpu: bool
    nbytes: int

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """Embed pictures (n, 3, crop, crop) into (n, dim) float32.

        uint8 are pixels, scaled here by the preprocess's mean and std; float32 are scaled already. Neighbors in the
        batch change nothing. What overflows comes out as it is: the caller looks for numbers that are not finite.
        """
        ...


def load(space: Space, settings: Settings, *, reference: bool = False) -> Backbone:
    """Load the backbone of a space; `reference` keeps it eager, unfolded, NCHW and float32, to hold others against.

    Raises WeightsUnavailable, whose detail says which file to put where.
    """
    if space.backbone == catalog.FAKE_BACKBONE:
        return testing.load(space, settings)
    network = build(space)
    checkpoints.fill(network, checkpoints.read(space, settings), space)
    return TorchBackbone(space, network, device_of(settings), reference=reference)


def device_of(settings: Settings) -> torch.device:
    """Choose the device that IMAGEKIN_DEVICE names; `auto` is CUDA where there is one."""
    if settings.device != "auto":
        return torch.device(settings.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Models:
    """The warm backbones by space, at most `model_memory_bytes` of them; least recently used go first."""

    def __init__(self, settings: Settings, loader: Callable[[Space, Settings], Backbone] = load) -> None:
        self._settings = settings
        self._loader = loader
        self._warm: OrderedDict[str, Backbone] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, space: Space) -> Backbone:
        """Give the backbone of a space, loading it where it is not warm. Raises WeightsUnavailable."""
        key = space.fingerprint
        with self._lock:
            if key not in self._warm:
                self._warm[key] = self._loader(space, self._settings)
            self._warm.move_to_end(key)
            self._evict()
            return self._warm[key]

    @property
    def warm(self) -> tuple[str, ...]:
        """The fingerprints of the spaces whose backbones are warm, least recently used first."""
        return tuple(self._warm)

    def _evict(self) -> None:
        while len(self._warm) > 1 and sum(each.nbytes for each in self._warm.values()) > (
            self._settings.model_memory_bytes
        ):
            self._warm.popitem(last=False)


class TorchBackbone:
    """A network on a device. `exact`: float32. `fast`: bfloat16 on a GPU; on a CPU that is slower than float32."""

    def __init__(self, space: Space, network: nn.Module, device: torch.device, *, reference: bool = False) -> None:
        self.space = space
        self.on_gpu = device.type == "cuda"
        self.batch_size = GPU_BATCH if self.on_gpu else CPU_BATCH
        self._device = device
        self._layout = torch.contiguous_format if reference else torch.channels_last
        half = self.on_gpu and space.precision is Precision.FAST and not reference
        self._dtype = torch.bfloat16 if half else torch.float32
        self._network = self._prepare(network if reference else fusion.fold(network))
        tensors = [*self._network.parameters(), *self._network.buffers()]
        self.nbytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if device.type == "cpu" and not reference:
            self._network = fusion.fuse(self._network, self._example())
        self._mean = self._channels(space.preprocess.mean)
        self._std = self._channels(space.preprocess.std)

    @torch.inference_mode()
    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """Embed pictures; see Backbone.embed."""
        pixels = torch.from_numpy(batch).to(self._device)
        if batch.dtype == np.uint8:
            pixels = pixels.float().div_(255).sub_(self._mean).div_(self._std)
        pixels = pixels.to(self._dtype).contiguous(memory_format=self._layout)
        return self._network(pixels).float().cpu().numpy()

    def _prepare(self, network: nn.Module) -> nn.Module:
        network = network.eval().requires_grad_(False)
        return network.to(device=self._device, dtype=self._dtype).to(memory_format=self._layout)

    def _example(self) -> Tensor:
        side = self.space.preprocess.crop
        return torch.zeros(self.batch_size, 3, side, side).contiguous(memory_format=torch.channels_last)

    def _channels(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, device=self._device).view(1, 3, 1, 1)


def build(space: Space) -> nn.Module:
    """Build a space's network without its head and, on the meta device, without numbers."""
    network = skeleton(space.backbone, space.preprocess.crop)
    network.set_submodule(space.layer, nn.Identity())
    return network.eval()


def skeleton(name: str, crop: int = 224) -> nn.Module:
    """Build a network of the catalog on the meta device: shapes without numbers, in no time and no memory."""
    with _OnMeta():
        if name == catalog.DEFAULT_BACKBONE:
            return lite0.EfficientNetLite0()
        # seconds of every worker's start that the default backbone can do without
        from torchvision import models

        return models.get_model(name, weights=None, **_arguments(name, crop))


def head_of(network: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Find the classifying module: the last Linear, or the last convolution where that is what classifies.

    For resnet50, vgg19 and efficientnet_b0 its input is what `children()[:-1]`, pooled, and `classifier[:-1]` give.
    """
    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


def inputs_of(head: nn.Linear | nn.Conv2d) -> int:
    """Count the numbers that go into a head: the embedding's dim."""
    return head.in_features if isinstance(head, nn.Linear) else head.in_channels


def _arguments(name: str, crop: int) -> dict[str, Any]:
    # What torchvision's builders pass only together with its weights; without it the same weights mean another network.
    if name in ("googlenet", "inception_v3"):
        return {"transform_input": True, "init_weights": False}
    return {"image_size": crop} if name.startswith("vit_") else {}


class _OnMeta(TorchFunctionMode):
    """Makes parameters on the meta device. `with torch.device("meta")` would catch small computations too, and some
    builders compute their widths with tensors."""

    _FACTORIES = (torch.empty, torch.ones, torch.zeros, torch.full)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self._FACTORIES:
            kwargs.setdefault("device", "meta")
        return func(*args, **kwargs)
