"""Backbones prepared to run: weights found and verified, head removed, optimized."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from imagekin import catalog
from imagekin.catalog import Preprocess, Space
from imagekin.settings import Settings
from imagekin_worker.network import checkpoints, devices, fake, fusion, lite0, own_networks, slots, timm_networks

log = structlog.get_logger()

CPU_BATCH = 4
"""Pictures in a forward pass on one core: larger batches do not fit into the cache and are slower."""

GPU_BATCH = 64

# of an optimized network's embeddings to those of the network itself
LEAST_COSINE = {torch.float32: 0.99999, torch.bfloat16: 0.999, torch.float16: 0.999}

SLOTS = 2
"""Batches at once on a GPU: one is computed while the other is copied."""

Batch = NDArray[np.uint8] | NDArray[np.float32]


class Backbone(Protocol):
    """What a pipeline needs of a network without its head."""

    space: Space
    batch_size: int
    on_gpu: bool

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        ...

    @property
    def compiled_from(self) -> Path | None:
        """The file of the compiled network in use; None without one."""
        ...

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """Embed pictures (n, 3, height, width) into (n, dim) float32.

        uint8 are pixels, scaled here by the preprocess's mean and std; float32 are scaled already. Other pictures in
        the batch change nothing. Overflows are returned as they are: the caller checks for numbers that are not finite.
        """
        ...

    def stream(self, batch: int) -> slots.Stream:
        """Return the slots for batches of one size, if `on_gpu`; one thread at a time may use them."""
        ...


def load(space: Space, settings: Settings, *, device: torch.device | None = None, reference: bool = False) -> Backbone:
    """Load the backbone of a space; `reference` keeps it eager, unfolded, NCHW and float32, to compare others with.

    `device`: by default that of the settings. Raises WeightsUnavailable, whose detail says which file to put where.
    """
    if space.backbone == catalog.FAKE_BACKBONE:
        return fake.load(space, settings)
    device = device or devices.choose(settings)
    if space.backbone.startswith(catalog.OWN):
        network = own_networks.load(space, settings, device, reference=reference)
        return TorchBackbone(space, network, network.device, reference=reference)
    return TorchBackbone(space, _filled(space, settings), device, reference=reference)


def scaled(space: Space, settings: Settings, device: torch.device) -> Scaled:
    """Build the input of a compiler: the folded network with its scaling. Raises WeightsUnavailable."""
    if space.backbone.startswith(catalog.OWN):
        own = own_networks.load(space, settings, device)
        return Scaled(own, space.preprocess).to(device).eval()
    dtype = devices.numbers(device, space.precision)
    network = _filled(space, settings)
    if not space.backbone.startswith(catalog.TIMM):
        network = fusion.fold(network, pads=device.type == "cpu")
    network = _prepared(network, device, dtype, torch.channels_last)
    return Scaled(network, space.preprocess, dtype).to(device).eval()


def _filled(space: Space, settings: Settings) -> nn.Module:
    state = checkpoints.read(space, settings)
    if space.backbone.startswith(catalog.TIMM):
        return timm_networks.filled(space, checkpoints.locate(space, settings), state)
    network = build(space)
    checkpoints.fill(network, state, space)
    return network


def _prepared(network: nn.Module, device: torch.device, dtype: torch.dtype, layout: torch.memory_format) -> nn.Module:
    network = network.eval().requires_grad_(False)
    return network.to(device=device, dtype=dtype).to(memory_format=layout)


class Compiled(Protocol):
    """A network that was compiled, and the file that it is from; its input and output are those of Scaled."""

    path: Path

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        ...

    def takes(self, count: int) -> bool:
        """Return whether it takes batches of a size."""
        ...

    def __call__(self, pixels: Tensor) -> Tensor:
        """Embed pixels uint8 (n, height, width, 3) into (n, dim) float32."""
        ...


class Scaled(nn.Module):
    """Runs pixels as they are in memory, uint8 (n, h, w, 3), through a network that expects scaled float32."""

    def __init__(self, network: nn.Module, preprocess: Preprocess, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = network
        self._dtype = dtype
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preprocess.mean, preprocess.std))
        # over whole rows of a picture, as loops over three channels cost four times as much
        self.factor: Tensor
        self.offset: Tensor
        self.register_buffer("factor", (1 / (255 * std)).float().repeat(preprocess.shape[1]))
        self.register_buffer("offset", (-mean / std).float().repeat(preprocess.shape[1]))

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed pixels uint8 (n, h, w, 3) into (n, dim) float32."""
        count, height, width, channels = pixels.shape
        rows = pixels.reshape(count * height, width * channels).float()
        scaled = torch.addcmul(self.offset, rows, self.factor).view(count, height, width, channels)
        return self.network(scaled.permute(0, 3, 1, 2).to(self._dtype)).float()


class TorchBackbone:
    """A network on a device. `exact`: float32. `fast`: half of that on a GPU; on a CPU that is slower than float32.

    One's own networks are float32 always, as they were exported. `compiles`: whether PyTorch can compile the network.
    """

    def __init__(self, space: Space, network: nn.Module, device: torch.device, *, reference: bool = False) -> None:
        self.space = space
        self.device = device
        self.on_gpu = device.type == "cuda"
        self.batch_size = GPU_BATCH if self.on_gpu else CPU_BATCH
        self.compiles = True
        self._reference = reference
        self._layout = torch.contiguous_format if reference else torch.channels_last
        self._dtype = torch.float32 if reference else devices.numbers(device, space.precision)
        if isinstance(network, own_networks.Own):
            self.batch_size, self.compiles = network.batch(self.batch_size), network.compiles
            self._dtype = torch.float32
        self._network, self._nbytes = self._made(network)
        self.scaled = Scaled(self._network, space.preprocess, self._dtype).to(device)
        self._compiled: Compiled | None = None
        self._stream: slots.Stream | None = None

    @torch.inference_mode()
    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """Embed pictures (n, 3, height, width) into (n, dim) float32; see Backbone.embed."""
        if self._reference or batch.dtype != np.uint8:
            return self._network(self._plainly_scaled(batch)).float().cpu().numpy()
        pixels = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 2, 3, 1))).to(self.device)
        return self._runs(len(batch))(pixels).cpu().numpy()

    def stream(self, batch: int) -> slots.Stream:
        """Return the slots for batches of one size; they are made once, since recording a GPU's graphs takes time."""
        if self._stream is None or self._stream.batch != batch:
            self._stream = None  # its memory goes before the new one's comes
            self._stream = slots.Stream(self._slots(batch))
        return self._stream

    def switch(self, compiled: Compiled) -> None:
        """Use a compiled network from now on for the batches that it takes; one in progress is not disturbed."""
        self._compiled, self._stream = compiled, None

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return self._nbytes + (0 if self._compiled is None else self._compiled.nbytes)

    @property
    def compiled_from(self) -> Path | None:
        """The file of the compiled network in use; None without one."""
        return None if self._compiled is None else self._compiled.path

    def _runs(self, count: int) -> Compiled | Scaled:
        """Return what runs batches of a size."""
        compiled = self._compiled
        return self.scaled if compiled is None or not compiled.takes(count) else compiled

    def _made(self, network: nn.Module) -> tuple[nn.Module, int]:
        """Prepare the network for the device; with the bytes of its numbers."""
        if isinstance(network, own_networks.Own):
            return network, network.nbytes
        if self._reference:
            return self._on_device(network)
        if not self.space.backbone.startswith(catalog.TIMM):
            return self._optimized(network)
        # timm has too many networks to know each: what becomes of one is held to what it was
        plain = self._on_device(copy.deepcopy(network) if self.on_gpu else network)
        try:
            optimized = self._optimized(network)
            if self._agree(plain[0], optimized[0]):
                return optimized
        except Exception as error:  # noqa: BLE001 - the tracer's errors are of all kinds
            reason = f"{type(error).__name__}: {error}"
        else:
            reason = "it would compute something else"
        log.info("network_not_optimized", backbone=self.space.backbone, reason=reason)
        return plain

    def _optimized(self, network: nn.Module) -> tuple[nn.Module, int]:
        on_cpu = self.device.type == "cpu"
        folded, nbytes = self._on_device(fusion.fold(network, pads=on_cpu))
        return fusion.fuse(folded, self._example()) if on_cpu else folded, nbytes

    def _on_device(self, network: nn.Module) -> tuple[nn.Module, int]:
        network = _prepared(network, self.device, self._dtype, self._layout)
        tensors = [*network.parameters(), *network.buffers()]
        return network, sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @torch.inference_mode()
    def _agree(self, plain: nn.Module, optimized: nn.Module) -> bool:
        noise = torch.rand(2, 3, *self.space.preprocess.shape, generator=torch.Generator().manual_seed(0))
        batch = noise.to(self.device, self._dtype).contiguous(memory_format=self._layout)
        cosines = nn.functional.cosine_similarity(plain(batch).float(), optimized(batch).float())
        return bool((cosines >= LEAST_COSINE[self._dtype]).all())

    def _slots(self, batch: int) -> list[slots.Slot]:
        shape = self.space.preprocess.shape
        if not self.on_gpu:
            return [slots.HostSlot(self.embed, batch, shape) for _ in range(SLOTS)]
        from imagekin_worker.network import cuda

        queue = cuda.Queue(self._runs(batch), self.device)
        return [cuda.CudaSlot(queue, batch, shape) for _ in range(SLOTS)]

    def _plainly_scaled(self, batch: Batch) -> Tensor:
        pixels = torch.from_numpy(batch).to(self.device)
        if batch.dtype == np.uint8:
            mean, std = self._channels(self.space.preprocess.mean), self._channels(self.space.preprocess.std)
            pixels = pixels.float().div_(255).sub_(mean).div_(std)
        return pixels.to(self._dtype).contiguous(memory_format=self._layout)

    def _example(self) -> Tensor:
        return torch.zeros(self.batch_size, 3, *self.space.preprocess.shape).contiguous(
            memory_format=torch.channels_last
        )

    def _channels(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, device=self.device).view(1, 3, 1, 1)


def build(space: Space) -> nn.Module:
    """Build a space's network without its head, on the meta device, so without numbers."""
    if space.backbone.startswith(catalog.TIMM):
        with torch.device("meta"):
            return timm_networks.build(space)
    network = skeleton(space.backbone, space.preprocess.shape[0])
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
    """Find the classifying module: the last Linear, or the last convolution if that classifies.

    For resnet50, vgg19 and efficientnet_b0 its input is the output of `children()[:-1]`, pooled, or `classifier[:-1]`.
    """
    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


def inputs_of(head: nn.Linear | nn.Conv2d) -> int:
    """Return the number of inputs of a head: the embedding's dim."""
    return head.in_features if isinstance(head, nn.Linear) else head.in_channels


def _arguments(name: str, crop: int) -> dict[str, Any]:
    # What torchvision's builders pass only together with its weights; without it the same weights mean another network.
    if name in ("googlenet", "inception_v3"):
        return {"transform_input": True, "init_weights": False}
    return {"image_size": crop} if name.startswith("vit_") else {}


class _OnMeta(TorchFunctionMode):
    """Makes parameters on the meta device.

    `with torch.device("meta")` would catch small computations too, and some builders compute their widths with tensors.
    """

    _FACTORIES = (torch.empty, torch.ones, torch.zeros, torch.full)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self._FACTORIES:
            kwargs.setdefault("device", "meta")
        return func(*args, **kwargs)
