"""Weights are found, held to their digest and to their network; models stay warm within their budget."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from imagekin import catalog, errors
from imagekin.catalog import Space
from imagekin.enums import Precision
from imagekin.settings import Settings
from imagekin_worker.network import backbones, checkpoints, lite0
from imagekin_worker.network.fake import FAKE_DIM, Behaviour, FakeBackbone, fake_space


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(device="cpu", weights_dir=tmp_path)


@pytest.fixture(scope="module")
def squeezenet() -> nn.Module:
    torch.manual_seed(0)
    return models.get_model("squeezenet1_1", weights=None).eval()


def space_of(backbone: str, weights: str | None, settings: Settings) -> Space:
    return catalog.resolve_space(backbone, weights, Precision.EXACT, settings.weights_dir)


def pictures(count: int, side: int = 224) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def test_lite0_gives_what_its_unfolded_reference_gives(settings: Settings) -> None:
    space = space_of("efficientnet_lite0", None, settings)
    batch = pictures(5)
    ours = backbones.load(space, settings).embed(batch)
    reference = backbones.load(space, settings, reference=True).embed(batch)
    assert ours.shape == (5, 1280)
    assert ours.dtype == np.float32
    assert np.abs(ours - reference).max() < 1e-4 * np.abs(reference).max()


def test_lite0_takes_every_tensor_of_the_wheel() -> None:
    state = torch.load(lite0.weights_path(), weights_only=True)
    network = lite0.EfficientNetLite0()
    assert list(state) == list(network.state_dict())
    network.load_state_dict(state, strict=True)


def test_pixels_and_scaled_pixels_are_the_same_picture(settings: Settings) -> None:
    space = space_of("efficientnet_lite0", None, settings)
    backbone, batch = backbones.load(space, settings), pictures(1)
    scaled: Any = (batch.astype(np.float32) / 255 - np.float32(0.5)) / np.float32(0.5)
    assert np.allclose(backbone.embed(batch), backbone.embed(scaled), atol=1e-5)


def test_no_gradient_is_kept(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = backbones.load(space_of("efficientnet_lite0", None, settings), settings)
    assert isinstance(backbone, backbones.TorchBackbone)
    seen: list[Any] = []
    backbone._network.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    backbone.embed(pictures(1))
    assert not any(parameter.requires_grad for parameter in backbone._network.parameters())
    assert seen[0].grad_fn is None


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_come_from_files(suffix: str, squeezenet: nn.Module, settings: Settings) -> None:
    path = settings.weights_dir / f"mine.{suffix}"
    if suffix == "pth":
        torch.save(squeezenet.state_dict(), path)
    else:
        save_file(squeezenet.state_dict(), path)
    batch: Any = pictures(2).astype(np.float32) / 255
    ours = backbones.load(space_of("squeezenet1_1", path.name, settings), settings).embed(batch)
    with torch.inference_mode():
        expected = squeezenet.get_submodule("features")(torch.from_numpy(batch)).relu().mean((2, 3)).numpy()
    assert np.allclose(ours, expected, atol=1e-4)


def test_a_head_for_other_classes_does_not_matter(settings: Settings) -> None:
    torch.save(
        models.get_model("squeezenet1_1", weights=None, num_classes=7).state_dict(), settings.weights_dir / "w.pth"
    )
    space = space_of("squeezenet1_1", "w.pth", settings)
    assert backbones.load(space, settings).embed(pictures(1)).shape == (1, 512)


def test_old_names_in_densenets_files_are_understood(settings: Settings) -> None:
    space = space_of("densenet121", None, settings)
    network = backbones.build(space)
    state = {name: torch.zeros(tensor.shape) for name, tensor in network.state_dict().items()}
    old = {name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for name, value in state.items()}
    assert set(old) != set(state)
    checkpoints.fill(network, old, space)
    assert not any(tensor.is_meta for tensor in network.state_dict().values())


def test_weights_of_another_network_are_named_by_their_first_misfits(settings: Settings) -> None:
    torch.save(models.get_model("squeezenet1_0", weights=None).state_dict(), settings.weights_dir / "w.pth")
    with pytest.raises(errors.WeightsUnavailable, match=r"features\.0\.weight should be \(64, 3, 3, 3\)"):
        backbones.load(space_of("squeezenet1_1", "w.pth", settings), settings)


@pytest.mark.parametrize("name", ["extra", "missing"])
def test_tensors_too_many_or_too_few_are_named(name: str, squeezenet: nn.Module, settings: Settings) -> None:
    state = dict(squeezenet.state_dict())
    if name == "extra":
        state["features.99.weight"] = torch.zeros(1)
    else:
        del state["features.0.bias"]
    torch.save(state, settings.weights_dir / "w.pth")
    expected = {
        "extra": "features.99.weight is unknown",
        "missing": r"features\.0\.bias should be \(64,\) and is missing",
    }
    with pytest.raises(errors.WeightsUnavailable, match=expected[name]):
        backbones.load(space_of("squeezenet1_1", "w.pth", settings), settings)


class _Malice:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("malice",))


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps(_Malice(), protocol=2), b"PK\x03\x04"])
def test_files_without_weights_are_refused_and_run_nothing(
    content: bytes, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(settings.weights_dir)
    for name in ("w.pth", "w.safetensors"):
        (settings.weights_dir / name).write_bytes(content)
        with pytest.raises(errors.WeightsUnavailable):
            backbones.load(space_of("resnet18", name, settings), settings)
    assert not Path("malice").exists()


def test_a_file_that_changed_after_the_space_was_made_is_refused(squeezenet: nn.Module, settings: Settings) -> None:
    path = settings.weights_dir / "w.pth"
    torch.save(squeezenet.state_dict(), path)
    space = space_of("squeezenet1_1", "w.pth", settings)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(errors.WeightsUnavailable, match="SHA-256"):
        backbones.load(space, settings)
    path.unlink()
    with pytest.raises(errors.WeightsUnavailable, match=str(path)):
        backbones.load(space, settings)


def _as_torchvisions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give squeezenet1_1 weights in the catalog whose file is this one; nothing answers at their address."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path.rename(path.with_name(f"squeeze-{digest}.pth"))
    known = catalog.backbones()["squeezenet1_1"]
    weights = catalog.Weights(
        "LOCAL", f"http://127.0.0.1:9/squeeze-{digest}.pth", digest, known.weights["IMAGENET1K_V1"].preprocess
    )
    local = catalog.Backbone(known.name, known.dim, known.layer, {"LOCAL": weights}, "LOCAL")
    monkeypatch.setattr(catalog, "backbones", lambda: {"squeezenet1_1": local})


def test_named_weights_are_found_offline_in_either_folder_and_the_error_says_where(
    squeezenet: nn.Module, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hub = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    torch.save(squeezenet.state_dict(), settings.weights_dir / "w.pth")
    _as_torchvisions(settings.weights_dir / "w.pth", monkeypatch)
    (placed,) = settings.weights_dir.iterdir()
    space = space_of("squeezenet1_1", None, settings)
    expected = backbones.load(space, settings).embed(pictures(1))

    cache = hub / "checkpoints"
    cache.mkdir()
    cached = placed.rename(cache / placed.name)
    assert np.array_equal(backbones.load(space, settings).embed(pictures(1)), expected)

    cached.unlink()
    with pytest.raises(errors.WeightsUnavailable) as missing:
        backbones.load(space, settings)
    assert f"put it at {placed}" in missing.value.detail
    assert f"http://127.0.0.1:9/{placed.name}" in missing.value.detail


def test_the_fake_is_cheap_deterministic_and_tells_pictures_apart(settings: Settings) -> None:
    backbone = backbones.load(fake_space(), settings)
    batch = pictures(3, side=32)
    assert backbone.embed(batch).shape == (3, FAKE_DIM)
    assert np.array_equal(backbone.embed(batch)[1:2], backbone.embed(batch[1:2]))
    assert len(np.unique(backbone.embed(batch), axis=0)) == 3


def test_a_fakes_weights_file_says_how_it_behaves(settings: Settings) -> None:
    (settings.weights_dir / "slow.json").write_text('{"delay_s": 0.25}')
    backbone = backbones.load(fake_space("slow.json", settings.weights_dir), settings)
    assert isinstance(backbone, FakeBackbone)
    assert backbone.behaviour == Behaviour(delay_s=0.25)


def test_a_fatal_color_kills_the_process(settings: Settings) -> None:
    code = """if True:
        import numpy, sys
        from imagekin_worker.network import fake
        backbone = fake.FakeBackbone(fake.fake_space(), fake.Behaviour(fatal_rgb=(255, 0, 255)))
        batch = numpy.zeros((2, 3, 32, 32), numpy.uint8)
        backbone.embed(batch)
        print("alive", flush=True)
        batch[1, [0, 2]] = 255
        backbone.embed(batch)
        print("unreachable", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("alive\n", -9)
