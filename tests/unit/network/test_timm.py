"""Networks of timm give what timm's own network and transform give, whatever is done to them here."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform

from imagekin import catalog, errors
from imagekin.catalog import Space
from imagekin.enums import Fit, Library, Precision
from imagekin.settings import Settings
from imagekin_worker.network import backbones, preprocess, timm_catalog
from kit.networks import FAMILIES, LARGE, cosines, keep, of_timm, pictures


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What this machine has in its cache is nothing to a test."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def ours(space: Space, settings: Settings) -> np.ndarray:
    pixels = []
    for picture in pictures():
        file = io.BytesIO()
        picture.save(file, "PNG")
        pixels.append(preprocess.prepare(file.getvalue(), space, settings)[1].transpose(2, 0, 1))
    return backbones.load(space, settings).embed(np.stack(pixels))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.faults if name == LARGE else ()) for name in FAMILIES]
)
def test_embeddings_are_timms_own(name: str, tmp_path: Path) -> None:
    network = of_timm(name)
    keep(network, tmp_path / f"timm/{name}.safetensors")
    space = catalog.resolve_space(f"timm/{name}", None, Precision.EXACT, tmp_path)
    found = ours(space, Settings(weights_dir=tmp_path, device="cpu"))

    reference = timm.create_model(name, num_classes=0).eval()
    reference.load_state_dict(network.state_dict(), strict=False)
    transform: Any = create_transform(**resolve_data_config({}, model=reference), is_training=False)
    with torch.inference_mode():
        expected = reference(torch.stack([torch.as_tensor(transform(each)) for each in pictures()])).numpy()

    assert found.shape == (3, space.dim) == expected.shape
    assert cosines(found, expected).min() > 0.9999
    # what tells pictures apart is a small part of a vector by chance
    assert cosines(found[1:] - found[0], expected[1:] - expected[0]).min() > 0.999


def test_the_catalog_is_the_registrys() -> None:
    """New names in a newer timm are no error, but what the catalog says must hold."""
    listed = {each.name: each for each in catalog.backbones().values() if each.source is Library.TIMM}
    assert len(listed) > 1500
    registered = set(timm.list_models(pretrained=True))
    for name, backbone in listed.items():
        plain = name.removeprefix("timm/")
        assert plain in registered, name
        config = timm_catalog.config_of(plain)
        (weights,) = backbone.weights.values()
        assert weights.preprocess == timm_catalog.preprocess_of(config), name
        assert (weights.license, weights.hub) == (config.license, config.hf_hub_id), name


@pytest.mark.parametrize(
    "name", [*FAMILIES, "vit_base_patch16_sapiens2.fb", "naflexvit_base_patch16_gap.e300_s576_in1k"]
)
def test_dims_are_those_of_the_networks(name: str) -> None:
    known = catalog.backbones().get(f"timm/{name}")
    assert known is not None and known.dim == timm_catalog.measured(name)


def test_a_name_without_a_tag_means_what_timm_means() -> None:
    assert catalog.find("timm/resnet50").name == f"timm/resnet50.{timm_catalog.config_of('resnet50').tag}"


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(errors.UnknownBackbone, match=r"timm/vit_small_patch14_dinov2\.lvd142m"):
        catalog.find("timm/vit_small_patch14_dinov2.lvd142")


def test_some_weights_want_pictures_squashed_and_inputs_that_are_not_square() -> None:
    assert catalog.find("timm/convnextv2_nano.fcmae_ft_in22k_in1k_384").preprocess.fit is Fit.SQUASH
    assert catalog.find("timm/vit_base_patch16_sapiens2.fb").preprocess.shape == (1024, 768)


def test_weights_that_are_not_here_name_the_place_for_them(tmp_path: Path) -> None:
    with pytest.raises(errors.UnknownWeights) as caught:
        catalog.resolve_space("timm/resnet10t.c3_in1k", None, Precision.EXACT, tmp_path)
    assert str(tmp_path / "timm/resnet10t.c3_in1k.safetensors") in str(caught.value)
    assert "timm/resnet10t.c3_in1k elsewhere" in str(caught.value)


@pytest.mark.parametrize("classes", [0, 7])
def test_weights_of_ones_own_may_have_any_head(classes: int, tmp_path: Path) -> None:
    network = of_timm("resnet10t", num_classes=classes)
    keep(network, tmp_path / "own.safetensors")
    settings = Settings(weights_dir=tmp_path, device="cpu")
    space = catalog.resolve_space("timm/resnet10t", "own.safetensors", Precision.EXACT, tmp_path)
    network.reset_classifier(0)  # pyright: ignore[reportCallIssue]
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, *space.preprocess.shape), np.uint8)
    mean, std = (torch.tensor(each)[:, None, None] for each in (space.preprocess.mean, space.preprocess.std))
    with torch.inference_mode():
        expected = network((torch.from_numpy(batch) / 255 - mean) / std).numpy()
    assert cosines(backbones.load(space, settings).embed(batch), expected).min() > 0.9999


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    keep(of_timm("resnet10t"), tmp_path / "other.safetensors")
    space = catalog.resolve_space("timm/resnet18.a1_in1k", "other.safetensors", Precision.EXACT, tmp_path)
    with pytest.raises(errors.WeightsUnavailable, match=r"do not fit timm/resnet18\.a1_in1k"):
        backbones.load(space, Settings(weights_dir=tmp_path, device="cpu"))


def test_a_worker_without_timm_names_the_extra(tmp_path: Path) -> None:
    keep(of_timm("resnet10t"), tmp_path / "timm/resnet10t.c3_in1k.safetensors")
    code = (
        "import sys; sys.modules['timm'] = None\n"
        "from pathlib import Path\n"
        "from imagekin import catalog, errors\n"
        "from imagekin.enums import Precision\n"
        "from imagekin.settings import Settings\n"
        "from imagekin_worker.network import backbones\n"
        "where = Path(sys.argv[1])\n"
        "space = catalog.resolve_space('timm/resnet10t.c3_in1k', None, Precision.EXACT, where)\n"
        "try: backbones.load(space, Settings(weights_dir=where))\n"
        "except errors.WeightsUnavailable as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert "extra `timm`" in done.stdout
