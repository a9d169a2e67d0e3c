"""Networks of timm: built and filled by timm itself, without their heads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from imagekin import catalog, errors
from imagekin.catalog import Space

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

_LINES_SHOWN = 3


def build(space: Space) -> nn.Module:
    """Build a network that gives pooled features (n, dim), with numbers by chance. Raises WeightsUnavailable."""
    return _library().create_model(_name(space), pretrained=False, num_classes=0).eval()


def filled(space: Space, path: Path, state: Mapping[str, Tensor]) -> nn.Module:
    """Build a network that gives pooled features (n, dim), with the weights of a file, whose tensors are `state`.

    timm reads the file itself, as it translates the names of some publishers. The head is filled, too, where the file
    has one, and taken off: only then does timm insist on every tensor. Raises WeightsUnavailable.
    """
    timm = _library()
    config = timm.models.get_pretrained_cfg(_name(space))
    classes = _classes(config, state, named=space.weights in catalog.backbones()[space.backbone].weights)
    overlay = {"file": str(path), "num_classes": classes, "label_offset": 0}
    try:
        network = timm.create_model(
            _name(space), pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay
        ).eval()
    except (
        RuntimeError,
        ValueError,
        KeyError,
        AttributeError,
    ) as error:  # tensors that are missing, unknown, misshapen
        said = "; ".join(line.strip() for line in str(error).splitlines()[:_LINES_SHOWN])
        raise errors.WeightsUnavailable(f"The weights {space.weights!r} do not fit {space.backbone}: {said}") from error
    network.reset_classifier(0)
    return simplified(network)


def simplified(network: nn.Module) -> nn.Module:
    """Bring a network into the form that is folded: branches of training merged, plain BatchNorm before activations."""
    from timm.layers.norm_act import BatchNormAct2d
    from timm.utils.model import reparameterize_model

    network = reparameterize_model(network, inplace=True)
    for name, module in list(network.named_modules()):
        if type(module) is BatchNormAct2d and isinstance(module.act, nn.Module):
            network.set_submodule(name, nn.Sequential(_plain(module), module.act))
    return network


def pooled(space: Space) -> int:
    """Return the dim of a network's pooled features, by running it on shapes without numbers."""
    with torch.device("meta"), torch.inference_mode():
        network = build(space)
        return network(torch.empty(1, 3, *space.preprocess.shape)).shape[1]


def _name(space: Space) -> str:
    return space.backbone.removeprefix(catalog.TIMM)


def _library() -> Any:
    try:
        import timm
    except ImportError as error:
        raise errors.WeightsUnavailable(
            "This worker has no timm, which has the network: install imagekin with the extra `timm`."
        ) from error
    return timm


def _classes(config: PretrainedCfg, state: Mapping[str, Tensor], *, named: bool) -> int:
    """Return how many classes the head in a file has; 0 without one.

    timm's own weights have what their configuration says, under their publisher's names.
    """
    heads = [config.classifier] if isinstance(config.classifier, str) else list(config.classifier or ())
    found = (state.get(f"{head}.weight") for head in heads)
    return next((len(each) for each in found if each is not None), config.num_classes if named else 0)


def _plain(norm: Any) -> nn.BatchNorm2d:
    with torch.device("meta"):
        plain = nn.BatchNorm2d(norm.num_features, eps=norm.eps, affine=norm.affine)
    plain.weight, plain.bias = norm.weight, norm.bias
    plain.running_mean, plain.running_var = norm.running_mean, norm.running_var
    plain.num_batches_tracked = norm.num_batches_tracked
    return plain.eval()
