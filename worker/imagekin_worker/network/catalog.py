"""Write the files of `imagekin.catalog`: run `python -m imagekin_worker.network.catalog` for other libraries."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from torchvision import models
from torchvision.models import WeightsEnum

from imagekin import catalog
from imagekin.catalog import files
from imagekin.enums import Library
from imagekin_worker.network import backbones, fake, lite0, timm_catalog

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.pth$")


def build() -> dict[str, Any]:
    """Return torchvision's classifiers, efficientnet_lite0 and the fake backbone, as in torchvision.json."""
    names = sorted(models.list_models(module=models))
    described = [_lite0(), *(_torchvision(name) for name in names), _fake()]
    return {"backbones": [dataclasses.asdict(each) | {"weights": _list(each)} for each in described]}


def _list(backbone: catalog.Backbone) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in dataclasses.asdict(each).items() if key != "hub"}
        | {"preprocess": each.preprocess.to_json()}
        for each in backbone.weights.values()
    ]


def _torchvision(name: str) -> catalog.Backbone:
    layer, head = backbones.head_of(backbones.skeleton(name))
    return catalog.Backbone(name, backbones.inputs_of(head), layer, *weights_of(name))


def weights_of(name: str) -> tuple[dict[str, catalog.Weights], str | None]:
    """Return the weights that torchvision has for a classifier, and the name of the default ones."""
    entries = models.get_model_weights(name)
    weights = {entry.name: _weights(entry) for entry in entries}
    return weights, entries["DEFAULT"].name if weights else None


def _weights(entry: WeightsEnum) -> catalog.Weights:
    preset = entry.transforms()
    (resize,), (crop,) = preset.resize_size, preset.crop_size
    preprocess = catalog.Preprocess(
        resize, crop, preset.interpolation.value, tuple(preset.mean), tuple(preset.std), bool(preset.antialias)
    )
    digest = _HASH_IN_NAME.search(entry.url)
    if digest is None:
        raise RuntimeError(f"the address of {entry} does not contain a digest: {entry.url}")
    # torchvision's documentation: SWAG's weights are not for commercial use, the others come with the library
    license_ = "cc-by-nc-4.0" if "SWAG" in entry.name else "bsd-3-clause"
    return catalog.Weights(entry.name, entry.url, digest[1], preprocess, license_)


def _lite0() -> catalog.Backbone:
    weights = catalog.Weights("IMAGENET1K", None, files.digest(lite0.weights_path()), lite0.PREPROCESS, "apache-2.0")
    layer, head = backbones.head_of(lite0.EfficientNetLite0())
    dim = backbones.inputs_of(head)
    return catalog.Backbone(
        catalog.DEFAULT_BACKBONE, dim, layer, {weights.name: weights}, weights.name, source=Library.IMAGEKIN
    )


def _fake() -> catalog.Backbone:
    weights = catalog.Weights("PIXELS", None, fake.FAKE_DIGEST, fake.PREPROCESS)
    return catalog.Backbone(
        catalog.FAKE_BACKBONE,
        fake.FAKE_DIM,
        fake.FAKE_LAYER,
        {weights.name: weights},
        weights.name,
        hidden=True,
        source=Library.IMAGEKIN,
    )


def text() -> str:
    """Return the content of torchvision.json."""
    return json.dumps(build(), indent=1) + "\n"


if __name__ == "__main__":
    catalog.TORCHVISION_PATH.write_text(text())
    catalog.TIMM_PATH.write_text(timm_catalog.text())
