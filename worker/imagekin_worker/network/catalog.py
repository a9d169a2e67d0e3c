"""Write `imagekin/catalog.json`: run `python -m imagekin_worker.network.catalog` for another torchvision."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from torchvision import models
from torchvision.models import WeightsEnum

from imagekin import catalog
from imagekin_worker.network import backbones, fake, lite0

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.pth$")


def build() -> dict[str, Any]:
    """Return torchvision's classifiers, efficientnet_lite0 and the fake backbone, as in catalog.json."""
    names = sorted(models.list_models(module=models))
    described = [_lite0(), *(_torchvision(name) for name in names), _fake()]
    return {"backbones": [dataclasses.asdict(each) | {"weights": _list(each)} for each in described]}


def _list(backbone: catalog.Backbone) -> list[dict[str, Any]]:
    return [dataclasses.asdict(each) for each in backbone.weights.values()]


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
    return catalog.Weights(entry.name, entry.url, digest[1], preprocess)


def _lite0() -> catalog.Backbone:
    weights = catalog.Weights("IMAGENET1K", None, catalog.file_digest(lite0.weights_path()), lite0.PREPROCESS)
    layer, head = backbones.head_of(lite0.EfficientNetLite0())
    dim = backbones.inputs_of(head)
    return catalog.Backbone(catalog.DEFAULT_BACKBONE, dim, layer, {weights.name: weights}, weights.name)


def _fake() -> catalog.Backbone:
    weights = catalog.Weights("PIXELS", None, fake.FAKE_DIGEST, fake.PREPROCESS)
    return catalog.Backbone(
        catalog.FAKE_BACKBONE, fake.FAKE_DIM, fake.FAKE_LAYER, {weights.name: weights}, weights.name, hidden=True
    )


def text() -> str:
    """Return the content of catalog.json."""
    return json.dumps(build(), indent=1) + "\n"


if __name__ == "__main__":
    catalog.CATALOG_PATH.write_text(text())
