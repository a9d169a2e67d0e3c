"""Networks of one's own: what they compute is what they compute elsewhere, and what cannot be used says why."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms

from imagekin import catalog, errors
from imagekin.catalog import Space, own
from imagekin.enums import Fit, Library, Precision
from imagekin.settings import Settings
from imagekin_worker.network import backbones, own_networks, preprocess
from kit.networks import DIM, KINDS, Small, cosines, describe, export, pictures

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NAME = "own/shop/first"
Put = Callable[..., Path]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(device="cpu", weights_dir=tmp_path)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "onnx":
        request.getfixturevalue("onnxruntime")
    return request.param


@pytest.fixture
def onnxruntime() -> Any:
    pytest.importorskip("onnxscript", reason="onnxscript exports to ONNX")
    return pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


def described(settings: Settings, kind: str = "pt2", **fields: Any) -> Path:
    """Put files there whose content does not matter."""
    path = settings.weights_dir / f"{NAME}.{kind}"
    describe(path, **fields)
    path.write_bytes(b"any content has a digest")
    return path


def placed(network: nn.Module, settings: Settings, kind: str = "pt2", **fields: Any) -> Path:
    batch = fields.pop("batch", None)
    path, shape = described(settings, kind, **fields), fields.get("input", 64)
    export(network, path, (shape, shape) if isinstance(shape, int) else shape, batch)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Put:
    """Put the small network there, which each exporter is asked for once."""
    kept = tmp_path_factory.mktemp("exported")

    def put(settings: Settings, kind: str = "pt2", **fields: Any) -> Path:
        once = kept / f"small.{kind}"
        if not once.exists():
            export(Small(), once)
        path = described(settings, kind, **fields)
        path.write_bytes(once.read_bytes())
        return path

    return put


def resolve(settings: Settings, name: str = NAME) -> Space:
    return catalog.resolve_space(name, None, Precision.EXACT, settings.weights_dir)


def load(settings: Settings) -> backbones.TorchBackbone:
    loaded = backbones.load(resolve(settings), settings)
    assert isinstance(loaded, backbones.TorchBackbone)
    return loaded


def ours(settings: Settings) -> np.ndarray:
    backbone, pixels = load(settings), []
    for picture in pictures():
        file = io.BytesIO()
        picture.save(file, "PNG")
        pixels.append(preprocess.prepare(file.getvalue(), backbone.space, settings)[1].transpose(2, 0, 1))
    return backbone.embed(np.stack(pixels))


def eager(network: nn.Module, *steps: Callable[[Any], Any]) -> np.ndarray:
    """Embed the pictures as the network's author would."""
    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    with torch.inference_mode():
        return network(torch.stack([torch.as_tensor(transform(each)) for each in pictures()])).numpy()


def test_embeddings_are_the_networks_own(kind: str, small: Put, settings: Settings) -> None:
    small(settings, kind)
    found, expected = ours(settings), eager(Small(), transforms.Resize(72), transforms.CenterCrop(64))
    assert found.shape == (3, DIM) == expected.shape
    assert cosines(found, expected).min() > 0.9999
    assert cosines(found[1:] - found[0], expected[1:] - expected[0]).min() > 0.9999


def test_an_input_that_is_not_square_and_a_picture_that_is_squashed(settings: Settings) -> None:
    network = Small()
    placed(network, settings, input=(48, 80), resize=None, fit="squash", interpolation="bicubic")
    bicubic = transforms.InterpolationMode.BICUBIC
    assert cosines(ours(settings), eager(network, transforms.Resize((48, 80), bicubic))).min() > 0.9999


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", ["pt2", "onnx"], indirect=True)
def test_a_file_for_one_batch_size_takes_batches_of_any(kind: str, batch: int, settings: Settings) -> None:
    network = Small()
    placed(network, settings, kind, batch=batch)
    backbone = load(settings)
    assert backbone.batch_size % batch == 0 and not backbone.compiles
    assert cosines(ours(settings), eager(network, transforms.Resize(72), transforms.CenterCrop(64))).min() > 0.9999
    pixels = np.random.default_rng(1).integers(0, 256, (7, 3, 64, 64), np.uint8)
    assert np.allclose(backbone.embed(pixels)[5], backbone.embed(pixels[5:6])[0], atol=1e-4)


def test_onnx_computes_on_the_threads_that_it_is_given(
    onnxruntime: Any, small: Put, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(settings, "onnx")
    made: list[int] = []
    session = onnxruntime.InferenceSession

    def noted(content: bytes, options: Any, **more: Any) -> Any:
        made.append(options.intra_op_num_threads)
        return session(content, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        backbone = backbones.load(resolve(settings), settings.model_copy(update={"lanes": 3}))
        pixels = np.zeros((2, 3, 64, 64), np.uint8)
        alone = backbone.embed(pixels)
        assert made == [1]
        torch.set_num_threads(2)
        assert np.allclose(backbone.embed(pixels), alone, atol=1e-5)
        assert made == [1, 3]
    finally:
        torch.set_num_threads(before)


class Outputs(Small):
    """Gives several outputs, or one that is no vector."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, pictures: Tensor) -> Any:
        features = self.features(pictures)
        vectors = self.last(features.flatten(1))
        return {
            "map": features,
            "tuple": (vectors.softmax(1), vectors),
            "dict": {"classes": vectors.softmax(1), "vector": vectors},
            "nan": vectors * torch.nan,
            "one": vectors.mean(0, keepdim=True),
            "flat": vectors.reshape(-1),
            "others": vectors - vectors.mean(0, keepdim=True),
        }[self.what]


# what the exporter to ONNX calls them is its own affair
@pytest.mark.parametrize(
    ("kind", "what", "output"),
    [("pt", "tuple", 1), ("pt2", "tuple", 1), ("pt2", "dict", "vector"), ("onnx", "tuple", 1)],
    indirect=["kind"],
)
def test_one_of_several_outputs_is_named(kind: str, what: str, output: str | int, settings: Settings) -> None:
    network = Outputs(what)
    placed(network, settings, kind, output=output)
    network.what = "vector"
    expected = eager(Small(), transforms.Resize(72), transforms.CenterCrop(64))
    assert cosines(ours(settings), expected).min() > 0.9999


@pytest.mark.parametrize(
    ("what", "fields", "said"),
    [
        ("map", {}, r"gives \(2, 32, 2, 2\) for 2 pictures, and should give a vector for each, \(2, 24\)"),
        ("tuple", {}, r"several outputs \(0, 1\), and `output` of its JSON has to say which"),
        ("tuple", {"output": 2}, r"several outputs \(0, 1\), and `output` of its JSON is '2'"),
        ("dict", {}, r"several outputs \(classes, vector\), and `output` of its JSON has to say"),
        ("nan", {}, "not all finite"),
        ("one", {}, r"gives \(1, 24\) for 2 pictures"),
        ("flat", {}, r"gives \(48,\) for 2 pictures"),
        ("others", {}, "depends on the number of pictures in the batch"),
        ("nan", {"output": "vector"}, "has one output, so `output` .'vector'. has to go"),
    ],
)
def test_what_is_no_vector_is_refused(what: str, fields: dict[str, Any], said: str, settings: Settings) -> None:
    placed(Outputs(what), settings, **fields)
    with pytest.raises(errors.WeightsUnavailable, match=said):
        load(settings)


def test_a_network_in_training_mode_is_refused(settings: Settings) -> None:
    placed(Small().train(), settings)
    with pytest.raises(errors.WeightsUnavailable, match=r"depends on .*eval mode before it is exported"):
        load(settings)


def test_dropout_at_work_is_refused(settings: Settings) -> None:
    network = Small()
    network.last = nn.Sequential(nn.Dropout(), network.last).train()  # pyright: ignore[reportAttributeAccessIssue]
    placed(network, settings)
    with pytest.raises(errors.WeightsUnavailable, match="is another one each time"):
        load(settings)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dim": 25}, "gives vectors of 24 numbers, and own/shop/first.json says 25"),
        ({"input": (64, 8), "resize": None}, r"does not take pictures of the shape \(2, 3, 64, 8\)"),
    ],
)
def test_a_description_that_is_not_the_networks_is_refused(
    fields: dict[str, Any], said: str, small: Put, settings: Settings
) -> None:
    small(settings, **fields)
    with pytest.raises(errors.WeightsUnavailable, match=said):
        load(settings)


def test_files_of_another_kind_are_refused(kind: str, settings: Settings) -> None:
    path = described(settings, kind)
    for content in (b"no network", _state_dict()):
        path.write_bytes(content)
        with pytest.raises(errors.WeightsUnavailable, match=rf"first\.{kind} cannot be read as "):
            load(settings)


def _state_dict() -> bytes:
    file = io.BytesIO()
    torch.save(Small().state_dict(), file)
    return file.getvalue()


def test_a_program_with_a_pickle_in_it_is_refused(small: Put, settings: Settings, tmp_path: Path) -> None:
    """torch.export.load would run what is in it."""
    path = small(settings)
    hole = tmp_path / "hole"
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    (config,) = (name for name in parts if name.endswith("model_weights_config.json"))
    weights = json.loads(parts[config])
    for each in weights["config"].values():
        each["use_pickle"] = True
        parts[str(Path(config).parent / each["path_name"])] = _pickle(hole)
    parts[config] = json.dumps(weights).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(errors.WeightsUnavailable, match=r"cannot be read as a program of torch\.export"):
        load(settings)
    assert not hole.exists()


class _Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def _pickle(hole: Path) -> bytes:
    file = io.BytesIO()
    torch.save(_Harm(hole), file)
    return file.getvalue()


def test_onnx_with_its_weights_in_a_second_file_is_refused(
    onnxruntime: Any, small: Put, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx writes such files")
    path = small(settings, "onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="first.data", size_threshold=0)
    assert path.with_name("first.data").exists()
    monkeypatch.chdir(path.parent)
    with pytest.raises(errors.WeightsUnavailable, match=r"first\.onnx cannot be read as ONNX"):
        load(settings)


def test_a_changed_file_or_description_is_another_space(settings: Settings) -> None:
    path = described(settings)
    first = resolve(settings)
    path.with_suffix(".json").write_text(json.dumps(json.loads(path.with_suffix(".json").read_text()), indent=4))
    describe(path, input=(64, 64))
    assert resolve(settings).fingerprint == first.fingerprint, "it says the same in other words"
    fields: list[dict[str, Any]] = [
        {"input": 72}, {"resize": 80}, {"mean": [0.5] * 3}, {"std": [0.5] * 3}, {"interpolation": "bicubic"},
        {"fit": "pad"}, {"output": 0}, {"dim": 12},
    ]  # fmt: skip
    found = {first.fingerprint}
    for each in fields:
        describe(path, **each)
        found.add(resolve(settings).fingerprint)
    assert len(found) == len(fields) + 1
    describe(path)
    path.write_bytes(b"other content")
    assert resolve(settings).fingerprint not in found
    with pytest.raises(errors.WeightsUnavailable, match="is not the file that this space was made with"):
        backbones.load(first, settings)


def test_a_worker_needs_the_file_alone(small: Put, settings: Settings) -> None:
    path = small(settings)
    space = resolve(settings)
    path.with_suffix(".json").unlink()
    assert backbones.load(space, settings).embed(np.zeros((1, 3, 64, 64), np.uint8)).shape == (1, DIM)
    path.unlink()
    with pytest.raises(errors.WeightsUnavailable, match=r"put it at .*/own/shop/first\.pt2"):
        backbones.load(space, settings)


def test_networks_without_faults_are_listed(settings: Settings) -> None:
    path = described(settings)
    describe(settings.weights_dir / "own/faulty.pt")
    listed = catalog.own_backbones(settings.weights_dir)
    assert [(each.name, each.dim, list(each.weights)) for each in listed] == [(NAME, DIM, [path.name])]
    assert listed[0].source is Library.OWN
    assert catalog.own_backbones(settings.weights_dir / "nowhere") == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dim": None}, "`dim` is missing: it should be how many numbers"),
        ({"dim": "24"}, "`dim` is wrong"),
        ({"input": 0}, "`input` is wrong: it should be the size"),
        ({"input": [64]}, "`input` is wrong"),
        ({"resize": 63}, "`resize` is wrong: .*at least `input`"),
        ({"mean": [123.675, 116.28, 103.53]}, "`mean` is wrong: .*three numbers from 0 to 1"),
        ({"std": [0.2, 0, 0.2]}, "`std` is wrong"),
        ({"std": [0.2, 0.2]}, "`std` is (wrong|missing)"),
        ({"fit": "stretch"}, "`fit` is wrong: it should be `crop`"),
        ({"interpolation": "nearest"}, "`interpolation` is wrong"),
        ({"output": -1}, "`output` is wrong"),
        ({"size": 64}, "`size` is unknown: the fields are dim, input"),
    ],
    ids=str,
)
def test_a_wrong_description_names_the_field(fields: dict[str, Any], said: str, settings: Settings) -> None:
    described(settings, **fields)
    with pytest.raises(errors.UnknownBackbone, match=rf"^own/shop/first\.json: {said}"):
        resolve(settings)


@pytest.mark.parametrize("text", ["", "[]", '{"dim": 3', "\0"])
def test_a_description_that_is_no_json_is_refused(text: str, settings: Settings) -> None:
    described(settings).with_suffix(".json").write_text(text)
    with pytest.raises(errors.UnknownBackbone, match="It should be a JSON object with dim, input"):
        resolve(settings)


def test_a_file_or_a_description_alone_says_what_is_missing(settings: Settings) -> None:
    path = settings.weights_dir / f"{NAME}.pt2"
    path.parent.mkdir(parents=True)
    with pytest.raises(errors.UnknownBackbone, match=r"there is no own/shop/first\.json, below"):
        resolve(settings)
    path.touch()
    with pytest.raises(errors.UnknownBackbone, match=r"first\.pt2 has no own/shop/first\.json beside it"):
        resolve(settings)
    describe(path)
    path.with_suffix(".onnx").touch()
    with pytest.raises(errors.UnknownBackbone, match=r"first\.pt2 and own/shop/first\.onnx are both"):
        resolve(settings)
    path.unlink()
    path.with_suffix(".onnx").unlink()
    with pytest.raises(errors.UnknownBackbone, match="no file of it is below"):
        resolve(settings)


@pytest.mark.parametrize("name", ["own/../first", "own//first", "own/./first", "own/", "own/a\0b", "own/" + "x" * 300])
def test_names_that_lead_elsewhere_are_refused(name: str, settings: Settings) -> None:
    described(settings)
    for suffix in (".json", ".pt2"):
        (settings.weights_dir / NAME).with_suffix(suffix).rename(settings.weights_dir / f"first{suffix}")
    with pytest.raises(errors.UnknownBackbone):
        resolve(settings, name)


def test_links_that_lead_out_are_not_followed(settings: Settings, tmp_path: Path) -> None:
    path = described(settings)
    inside = Settings(device="cpu", weights_dir=tmp_path / "inside")
    (tmp_path / "inside/own/shop").mkdir(parents=True)
    for suffix in (".json", ".pt2"):
        (tmp_path / f"inside/{NAME}{suffix}").symlink_to(path.with_suffix(suffix))
    with pytest.raises(errors.UnknownBackbone, match="There is no network"):
        resolve(inside)
    assert catalog.own_backbones(inside.weights_dir) == []


def test_other_weights_cannot_be_named(settings: Settings) -> None:
    path = described(settings)
    (settings.weights_dir / "other.pth").write_bytes(b"weights")
    assert resolve(settings).weights == path.name
    with pytest.raises(errors.UnknownWeights, match=r"first\.pt2, and no others"):
        catalog.resolve_space(NAME, "other.pth", Precision.EXACT, settings.weights_dir)


def test_an_adapted_space_remembers_the_networks_dim(settings: Settings) -> None:
    described(settings)
    space = resolve(settings)
    adapted = Space.from_json(json.loads(json.dumps(space.adapted("labels", 2).to_json())))
    assert (adapted.dim, adapted.base) == (2, space)
    assert adapted.adapted("others", 3).base == space
    assert catalog.resolve_space(None, None, Precision.EXACT, Path()).adapted("labels", 2).network_dim is None


def test_a_fit_of_the_collections_own(settings: Settings) -> None:
    described(settings)
    space = catalog.resolve_space(NAME, None, Precision.EXACT, settings.weights_dir, fit=Fit.PAD)
    assert (space.preprocess.fit, space.preprocess.resize) == (Fit.PAD, 64)


def test_a_worker_without_onnx_runtime_names_the_extra(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    described(settings, "onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(errors.WeightsUnavailable, match="extra `onnx`"):
        load(settings)


def test_the_page_names_every_field() -> None:
    """What a field should be stands in one place."""
    page = (Path(__file__).parents[3] / "docs/how-to/own-network.md").read_text()
    for name, field in own.Description.model_fields.items():
        assert f"| `{name}` | {field.description} |" in page
    assert set(own.KINDS) == set(own_networks._LOADERS)
