"""The catalog knows what the libraries have, and makes spaces of what callers ask for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision import models

from imagekin import catalog, errors
from imagekin.catalog import files
from imagekin.enums import Colors, Fit, Library, Precision
from imagekin_worker.network import backbones, lite0
from imagekin_worker.network import catalog as generator

TORCHVISION = sorted(models.list_models(module=models))


def resolve(backbone: str | None, weights: str | None, weights_dir: Path) -> catalog.Space:
    return catalog.resolve_space(backbone, weights, Precision.EXACT, weights_dir)


def test_knows_every_classifier_of_torchvision() -> None:
    every = catalog.backbones().items()
    assert {name for name, each in every if each.source is Library.TORCHVISION} == set(TORCHVISION)
    assert {name for name, each in every if each.source is Library.IMAGEKIN and not each.hidden} == {
        "efficientnet_lite0"
    }


@pytest.mark.parametrize("name", TORCHVISION)
def test_knows_the_weights_that_torchvision_has(name: str) -> None:
    known = catalog.backbones()[name]
    assert (known.weights, known.default_weights) == generator.weights_of(name)


@pytest.mark.parametrize(
    ("name", "dim", "layer"),
    [
        ("resnet50", 2048, "fc"),
        ("vgg19", 4096, "classifier.6"),
        ("efficientnet_b0", 1280, "classifier.1"),
        ("efficientnet_lite0", 1280, "_fc"),
        ("squeezenet1_0", 512, "classifier.1"),
        ("googlenet", 1024, "fc"),
        ("maxvit_t", 512, "classifier.5"),
        ("regnet_y_400mf", 440, "fc"),
        ("vit_b_32", 768, "heads.head"),
    ],
)
def test_dim_and_layer_are_those_of_the_network(name: str, dim: int, layer: str, tmp_path: Path) -> None:
    space = resolve(name, None, tmp_path)
    network = backbones.build(space).to("meta")
    with torch.inference_mode():
        embedding = network(torch.empty(2, 3, *space.preprocess.shape, device="meta"))
    assert (space.dim, space.layer) == (dim, layer)
    assert embedding.shape == (2, dim)


def test_the_default_is_lite0_with_its_own_normalisation(tmp_path: Path) -> None:
    space = resolve(None, None, tmp_path)
    assert space.backbone == "efficientnet_lite0"
    half = (0.5, 0.5, 0.5)
    assert space.preprocess == catalog.Preprocess(256, 224, "bicubic", half, half, colors=Colors.SRGB)
    assert space.weights_digest == files.digest(lite0.weights_path())


def test_needs_no_torch() -> None:
    code = "import sys; from imagekin import catalog; catalog.backbones(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("weights", ["IMAGENET1K_V2", "ResNet50_Weights.IMAGENET1K_V2", "ResNet50_Weights.DEFAULT"])
def test_default_and_long_names_mean_the_named_weights(weights: str, tmp_path: Path) -> None:
    assert resolve("resnet50", weights, tmp_path) == resolve("resnet50", None, tmp_path)


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_long_name_of_torchvision_is_understood(name: str, tmp_path: Path) -> None:
    for entry in models.get_model_weights(name):
        assert resolve(name, str(entry), tmp_path).weights == entry.name


def test_another_networks_long_name_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(errors.UnknownWeights):
        resolve("resnet50", "ResNet18_Weights.IMAGENET1K_V1", tmp_path)


def test_unknown_names_come_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(errors.UnknownBackbone, match=r"Did you mean .*resnet50") as backbone:
        resolve("resnet5", None, tmp_path)
    with pytest.raises(errors.UnknownWeights, match=r"Did you mean .*IMAGENET1K_V2"):
        resolve("resnet50", "IMAGENET_V2", tmp_path)
    assert "fake" not in backbone.value.detail


def test_a_weights_file_takes_its_backbones_default_transforms(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "b0.pth").write_bytes(b"weights")
    space = resolve("efficientnet_b0", "mine/b0.pth", tmp_path)
    assert space.preprocess == resolve("efficientnet_b0", None, tmp_path).preprocess
    assert space.weights_digest == hashlib.sha256(b"weights").hexdigest()


def test_a_changed_weights_file_is_another_space_and_a_renamed_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    file.write_bytes(b"one")
    one = resolve("resnet50", "a.pth", tmp_path).fingerprint
    file.rename(tmp_path / "b.pth")
    assert resolve("resnet50", "b.pth", tmp_path).fingerprint == one
    file.write_bytes(b"another")
    assert resolve("resnet50", "a.pth", tmp_path).fingerprint != one


@pytest.mark.parametrize(
    "weights", ["../secret.pth", "/etc/hostname", "link.pth", "folder", "no.pth", "a\0b", "x" * 5000]
)
def test_only_files_below_the_weights_folder_are_read(weights: str, tmp_path: Path) -> None:
    root = tmp_path / "weights"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "secret.pth").write_bytes(b"secret")
    (root / "link.pth").symlink_to(tmp_path / "secret.pth")
    with pytest.raises(errors.UnknownWeights):
        resolve("resnet50", weights, root)


def test_a_digest_is_read_again_when_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "w"
    file.write_bytes(b"old")
    old = files.digest(file)
    file.write_bytes(b"new")
    os.utime(file, ns=(1, 1))
    assert files.digest(file) != old


def test_weights_without_transforms_get_the_fallback(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"w")
    bare = dataclasses.replace(catalog.backbones()["resnet50"], weights={}, default_weights=None)
    assert catalog._find_weights(bare, "w.pth", tmp_path).preprocess == catalog.FALLBACK_PREPROCESS


def test_a_space_survives_json(tmp_path: Path) -> None:
    space = resolve("vgg19", None, tmp_path)
    again = catalog.Space.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert again.fingerprint == space.fingerprint
    assert len(space.fingerprint) == 32


def test_whatever_decides_the_numbers_is_in_the_fingerprint(tmp_path: Path) -> None:
    space = resolve("vgg19", None, tmp_path)
    others = [
        dataclasses.replace(space, backbone="vgg16"),
        dataclasses.replace(space, weights_digest="0"),
        dataclasses.replace(space, layer="classifier.3"),
        dataclasses.replace(space, dim=1),
        dataclasses.replace(space, precision=Precision.FAST),
        dataclasses.replace(space, preprocess=catalog.FALLBACK_PREPROCESS),
        dataclasses.replace(space, preprocess=dataclasses.replace(space.preprocess, colors=Colors.STORED)),
        *(dataclasses.replace(space, preprocess=space.preprocess.fitted(fit)) for fit in (Fit.PAD, Fit.SQUASH)),
    ]
    assert len({space.fingerprint, *(each.fingerprint for each in others)}) == len(others) + 1


def test_a_fingerprint_is_the_same_in_every_release(tmp_path: Path) -> None:
    # Collections on disk carry it: another value here would orphan their vectors.
    assert resolve(None, None, tmp_path).fingerprint == "9129a8bc7cb2bbb31d830a6c6ca0c214"
    before_colors = catalog.resolve_space(None, None, Precision.EXACT, tmp_path, Colors.STORED)
    assert before_colors.fingerprint == "0329c37aeceacd86d0efb24d8ed3d83e"


@pytest.mark.parametrize("fit", list(Fit))
def test_a_fit_survives_json_and_the_usual_one_is_not_in_it(fit: Fit, tmp_path: Path) -> None:
    space = catalog.resolve_space(None, None, Precision.EXACT, tmp_path, fit=fit)
    described = space.to_json()
    assert described["preprocess"].get("fit", "crop") == fit.value
    assert ("fit" in described["preprocess"]) == (fit is not Fit.CROP)
    assert catalog.Space.from_json(json.loads(json.dumps(described))) == space
    assert space.preprocess.scale == ((256, 256) if fit is Fit.CROP else (224, 224))


def test_a_space_from_before_colors_takes_them_as_they_are_stored(tmp_path: Path) -> None:
    described = resolve(None, None, tmp_path).to_json()
    del described["preprocess"]["colors"]
    space = catalog.Space.from_json(described)
    assert space.preprocess.colors is Colors.STORED
    assert space.to_json() == described
