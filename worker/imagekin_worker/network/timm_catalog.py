"""What timm's registry says of its networks, for `imagekin.catalog`."""

from __future__ import annotations

import json
import math
from typing import Any

import timm
from timm.data.config import resolve_data_config
from timm.models import PretrainedCfg

from imagekin import catalog
from imagekin.catalog import Preprocess, Space
from imagekin.enums import Fit, Precision
from imagekin_worker.network import timm_networks

_FITS = {"center": Fit.CROP, "border": Fit.PAD, "squash": Fit.SQUASH}
# What the entries leave out.
_USUAL = {"mean": list(catalog.FALLBACK_PREPROCESS.mean), "std": list(catalog.FALLBACK_PREPROCESS.std), "fit": "crop"}


def names() -> list[str]:
    """Return the networks with weights on the hub, `NAME.TAG`, by name."""
    return sorted(name for name in timm.list_models(pretrained=True) if config_of(name).hf_hub_id)


def config_of(name: str) -> PretrainedCfg:
    """Return what the registry says of a network, `NAME.TAG`, or of its default weights, `NAME`. Raises KeyError."""
    config = timm.models.get_pretrained_cfg(name)
    if config is None:
        raise KeyError(name)
    return config


def entry(name: str, dim: int) -> dict[str, Any]:
    """Return what the catalog has of a network, `NAME.TAG`; `dim` takes time and is given."""
    config = config_of(name)
    preprocess = preprocess_of(config)
    described = {key: each for key, each in preprocess.to_json().items() if key != "antialias"}
    described = {key: each for key, each in described.items() if _USUAL.get(key) != each}
    of_default = {"default": True} if config_of(name.partition(".")[0]).tag == config.tag else {}
    return {
        "name": name,
        "dim": dim,
        "layer": _layer(config),
        **described,
        "hub": config.hf_hub_id,
        "license": config.license,
        **of_default,
    }


def preprocess_of(config: PretrainedCfg) -> Preprocess:
    """Return what timm's own transform for a configuration does (`timm.data.create_transform`, not in training)."""
    data = resolve_data_config(pretrained_cfg=config.to_dict())
    sides = data["input_size"][1:]
    scaled = [math.floor(side / data["crop_pct"]) for side in sides]
    return Preprocess(
        resize=_sides(scaled),
        crop=_sides(sides),
        interpolation=data["interpolation"],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        fit=_FITS[data["crop_mode"]],
    )


def measured(name: str) -> int:
    """Return the dim of a network's pooled features, by running it on shapes."""
    preprocess = preprocess_of(config_of(name))
    return timm_networks.pooled(Space(catalog.TIMM + name, "", "", "", preprocess, 0, Precision.EXACT))


def text() -> str:
    """Return the content of timm.json, a network a line; it takes minutes."""
    lines = ",\n".join(json.dumps(entry(name, measured(name)), separators=(",", ":")) for name in names())
    return f'{{"timm": "{timm.__version__}", "backbones": [\n{lines}\n]}}\n'


def _sides(sides: Any) -> int | tuple[int, int]:
    height, width = sides
    return height if height == width else (height, width)


def _layer(config: PretrainedCfg) -> str:
    """Name the head, whose input the embedding is, or the output of a network without one."""
    if not config.num_classes or not config.classifier:
        return "output"
    return config.classifier if isinstance(config.classifier, str) else "+".join(config.classifier)
