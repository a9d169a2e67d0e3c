"""Weights files: found on this machine or downloaded, verified by their digest, loaded into a network."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from imagekin import catalog, errors
from imagekin.catalog import Space, files, hub
from imagekin.settings import Settings
from imagekin_worker.network import lite0

_MISMATCHES_NAMED = 3
# Names in torchvision's densenet files, from before a module's name could hold no dot.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")


def read(space: Space, settings: Settings) -> Mapping[str, Tensor]:
    """Return the state dict of a space's weights, by name tensors of any shape.

    Raises WeightsUnavailable.
    """
    path = locate(space, settings)
    verify(path, space)
    return _tensors(path)


def verify(path: Path, space: Space) -> None:
    """Hold a file to the digest of a space's weights. Raises WeightsUnavailable."""
    if not files.digest(path).startswith(space.weights_digest):
        raise errors.WeightsUnavailable(
            f"{path} is not the file that this space was made with: its SHA-256 does not begin with "
            f"{space.weights_digest[:16]}. Put the right file there, or make a new collection."
        )


def locate(space: Space, settings: Settings) -> Path:
    """Find a space's weights file: below IMAGEKIN_WEIGHTS_DIR, in torch's or the hub's cache, or download it there.

    Raises WeightsUnavailable.
    """
    named = catalog.backbones()[space.backbone].weights.get(space.weights)
    if named is None:
        return placed(space.weights, settings)
    if named.hub is not None:
        found = hub.placed(space.backbone, settings.weights_dir) or hub.cached(named.hub)
        return found or hub.download(space.backbone, named.hub, settings.weights_dir)
    if named.url is None:
        return lite0.weights_path()
    name = PurePosixPath(urlparse(named.url).path).name
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    path = files.below(settings.weights_dir, name) or (cached if cached.is_file() else None)
    return path or _download(named.url, cached, settings)


def fill(network: nn.Module, state: Mapping[str, Tensor], space: Space) -> None:
    """Load a state dict, tensors of any shape, into a network without its head; tensors of the head are optional.

    Raises WeightsUnavailable, naming the first tensors that do not fit.
    """
    tensors = OrderedDict((_OLD_DENSENET.sub(r"\1\2", name), tensor) for name, tensor in state.items())
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    head = space.layer + "."
    misfits = [
        f"{name} should be {shape} and is {found.get(name, 'missing')}"
        for name, shape in wanted.items()
        if found.get(name) != shape and (name in found or _matters(name))
    ] + [f"{name} is unknown" for name in found if name not in wanted and not name.startswith(head)]
    if misfits:
        more = f" and {len(misfits) - _MISMATCHES_NAMED} more" if len(misfits) > _MISMATCHES_NAMED else ""
        named = "; ".join(misfits[:_MISMATCHES_NAMED])
        raise errors.WeightsUnavailable(f"The weights {space.weights!r} do not fit {space.backbone}: {named}{more}.")
    _assign(network, tensors)


def _assign(network: nn.Module, tensors: OrderedDict[str, Tensor]) -> None:
    # mnasnet takes a state dict without this for one of its first version and rebuilds itself.
    tensors._metadata = network.state_dict()._metadata  # pyright: ignore[reportAttributeAccessIssue]
    network.load_state_dict(tensors, strict=False, assign=True)
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, torch.zeros(buffer.shape, dtype=buffer.dtype))


def _matters(name: str) -> bool:
    """Return whether the embedding depends on a tensor: counters and auxiliary heads are only used in training."""
    return not name.endswith("num_batches_tracked") and not name.startswith(("aux1.", "aux2.", "AuxLogits."))


def placed(weights: str, settings: Settings) -> Path:
    """Find a file by its path below IMAGEKIN_WEIGHTS_DIR. Raises WeightsUnavailable."""
    path = files.below(settings.weights_dir, weights)
    if path is None:
        raise errors.WeightsUnavailable(
            f"The weights file {weights!r} is missing on this worker: put it at {settings.weights_dir / weights}."
        )
    return path


def _download(url: str, cached: Path, settings: Settings) -> Path:
    digest = re.search(r"-([0-9a-f]+)\.", cached.name)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(cached), digest[1] if digest else None, progress=False)
    except (OSError, RuntimeError) as error:  # no network, no room, another digest
        raise errors.WeightsUnavailable(
            f"{cached.name} is not on this worker and could not be downloaded ({error}). "
            f"Fetch {url} elsewhere and put it at {settings.weights_dir / cached.name}, or into {cached.parent}."
        ) from error
    return cached


def _tensors(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        raise errors.WeightsUnavailable(
            f"{path} cannot be read as a state dict of tensors alone (.pth or .safetensors): {error}"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise errors.WeightsUnavailable(f"{path} does not contain a state dict: it should map names to tensors.")
    return state
