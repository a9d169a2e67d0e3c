"""What makes a backbone faster is done when it pays, beside the work, once; and it computes the same."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from structlog.testing import capture_logs
from torchvision import models

from imagekin import catalog
from imagekin.enums import Precision
from imagekin.settings import DAY_S, Settings
from imagekin_worker.network import backbones, preprocess
from imagekin_worker.pictures import decoding
from imagekin_worker.pipeline.lanes import Arrangement, Pipeline, arrangement_of
from imagekin_worker.tuning import cache_key, compile, compiled, rounding
from imagekin_worker.tuning import tuner as tuner_module
from kit import networks
from kit.patience import until

LEAST_COSINE = 0.9999


@pytest.fixture(scope="module")
def backbone() -> backbones.TorchBackbone:
    """A backbone to look at; those that are switched need their own."""
    return lite0()


def lite0(settings: Settings | None = None) -> backbones.TorchBackbone:
    return load(catalog.resolve_space("efficientnet_lite0", None, Precision.EXACT, Path()), settings)


def squeezenet(settings: Settings) -> backbones.TorchBackbone:
    """A network that is compiled in a third of the time, with weights of the test's own."""
    torch.manual_seed(6)
    state = models.get_model("squeezenet1_1", weights=None).state_dict()
    torch.save(state, settings.weights_dir / "seeded.pth")
    return load(catalog.resolve_space("squeezenet1_1", "seeded.pth", Precision.EXACT, settings.weights_dir), settings)


def load(space: catalog.Space, settings: Settings | None = None) -> backbones.TorchBackbone:
    loaded = backbones.load(space, settings or Settings(device="cpu"))
    assert isinstance(loaded, backbones.TorchBackbone)
    return loaded


@pytest.fixture
def make_tuner(tmp_path: Path) -> Iterator[Callable[..., tuner_module.Tuner]]:
    made: list[tuner_module.Tuner] = []

    def make(**fields: Any) -> tuner_module.Tuner:
        defaults: dict[str, Any] = {"data_dir": tmp_path, "device": "cpu", "calibrate_after_s": 0, "compile_after_s": 0}
        made.append(tuner_module.Tuner(Settings(**(defaults | fields))))
        return made[-1]

    yield make
    for tuner in made:
        tuner.close()


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[compile.Order]:
    """The orders of compilations, which are not carried out."""
    orders: list[compile.Order] = []

    class Idle:
        ended = False

        def __init__(self, order: compile.Order, backbone: backbones.TorchBackbone) -> None:
            orders.append(order)

        def stop(self) -> None:
            pass

    monkeypatch.setattr(tuner_module, "Compilation", Idle)
    return orders


def jpeg(seed: int) -> bytes:
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def test_nothing_is_done_before_it_pays(
    make_tuner: Callable[..., tuner_module.Tuner], backbone: backbones.TorchBackbone, begun: list[compile.Order]
) -> None:
    tuner = make_tuner(compile_after_s=60)
    assert tuner.arrangement(backbone).batch == backbones.CPU_BATCH
    tuner.worked(backbone, 100, 59)
    assert begun == []
    tuner.worked(backbone, 100, 2)
    assert [order.batch for order in begun] == [backbones.CPU_BATCH]
    tuner.worked(backbone, 100, 60)
    assert len(begun) == 1, "one at a time, and one for each backbone"


def test_zero_turns_both_off(
    make_tuner: Callable[..., tuner_module.Tuner],
    backbone: backbones.TorchBackbone,
    begun: list[compile.Order],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuner_module.calibration, "calibrate", pytest.fail)
    tuner = make_tuner()
    tuner.arrangement(backbone)
    tuner.worked(backbone, 100, 10_000)
    assert begun == []


def test_a_calibration_is_made_once_and_used(
    make_tuner: Callable[..., tuner_module.Tuner], backbone: backbones.TorchBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []

    def calibrate(_backbone: object, _settings: object, budget_s: float) -> Arrangement:
        made.append(budget_s)
        return Arrangement(2, 1, 8)

    monkeypatch.setattr(tuner_module.calibration, "calibrate", calibrate)
    tuner = make_tuner(calibrate_after_s=10)
    tuner.arrangement(backbone)
    for _ in range(5):
        tuner.worked(backbone, 400, 4)
    assert len(made) == 1 and made[0] <= 5
    assert tuner.arrangement(backbone).batch == 8


def test_a_network_too_slow_for_a_trial_of_seconds_is_not_tried(
    make_tuner: Callable[..., tuner_module.Tuner], backbone: backbones.TorchBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner_module.calibration, "calibrate", pytest.fail)
    tuner = make_tuner(calibrate_after_s=1)
    tuner.arrangement(backbone)
    tuner.worked(backbone, 2, 20)
    assert tuner.arrangement(backbone).batch == backbones.CPU_BATCH


def test_without_openvino_it_stays_as_it_is(
    make_tuner: Callable[..., tuner_module.Tuner],
    backbone: backbones.TorchBackbone,
    begun: list[compile.Order],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiled, "find_spec", lambda _: None)
    tuner = make_tuner(compile_after_s=1)
    tuner.arrangement(backbone)
    tuner.worked(backbone, 1, 2)
    assert begun == []


def test_a_network_that_cannot_be_compiled_is_not(
    make_tuner: Callable[..., tuner_module.Tuner],
    backbone: backbones.TorchBackbone,
    begun: list[compile.Order],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As TorchScript and ONNX."""
    monkeypatch.setattr(backbone, "compiles", False)
    tuner = make_tuner(compile_after_s=1)
    tuner.arrangement(backbone)
    tuner.worked(backbone, 1, 2)
    assert begun == []


@pytest.mark.parametrize(("lanes", "asked"), [(2, 1), (3, 0)])
def test_a_network_whose_copies_would_be_too_large_is_not_compiled(
    lanes: int,
    asked: int,
    make_tuner: Callable[..., tuner_module.Tuner],
    backbone: backbones.TorchBackbone,
    begun: list[compile.Order],
) -> None:
    """Each lane has its own."""
    tuner = make_tuner(compile_after_s=1, lanes=lanes, model_memory_bytes=int(2.5 * backbone.nbytes))
    tuner.arrangement(backbone)
    with capture_logs() as logs:
        tuner.worked(backbone, 1, 2)
    assert len(begun) == asked
    assert ["IMAGEKIN_MODEL_MEMORY_BYTES" in line["reason"] for line in logs] == [True] * (1 - asked)


def test_a_file_that_is_no_model_is_left_alone(
    make_tuner: Callable[..., tuner_module.Tuner], backbone: backbones.TorchBackbone
) -> None:
    tuner = make_tuner(compile_after_s=1)
    tuner.arrangement(backbone)
    path = tuner._order(backbone).path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no model")
    assert tuner.arrangement(backbone).batch == backbones.CPU_BATCH
    assert backbone.compiled_from is None


def test_an_order_survives_its_way(
    make_tuner: Callable[..., tuner_module.Tuner], backbone: backbones.TorchBackbone
) -> None:
    tuner = make_tuner()
    tuner.arrangement(backbone)
    order = tuner._order(backbone)
    assert compile.Order.from_json(order.to_json()) == order
    assert cache_key.key() in order.path.parts


def test_that_a_network_is_not_faster_is_asked_again_after_a_while(
    make_tuner: Callable[..., tuner_module.Tuner], backbone: backbones.TorchBackbone, begun: list[compile.Order]
) -> None:
    for days, asked in ((compile.VERDICT_DAYS - 1, 0), (compile.VERDICT_DAYS + 1, 1)):
        tuner = make_tuner(compile_after_s=1)
        tuner.arrangement(backbone)
        verdict = tuner._order(backbone).verdict
        verdict.parent.mkdir(parents=True, exist_ok=True)
        verdict.write_text("0.98")
        then = time.time() - days * DAY_S
        os.utime(verdict, (then, then))
        tuner.worked(backbone, 1, 2)
        assert len(begun) == asked


def test_giving_up_ends_the_process_and_leaves_nothing(
    make_tuner: Callable[..., tuner_module.Tuner], backbone: backbones.TorchBackbone, tmp_path: Path
) -> None:
    tuner = make_tuner(compile_after_s=1)
    tuner.arrangement(backbone)
    tuner.worked(backbone, 1, 2)
    compilation = tuner._compilation
    assert isinstance(compilation, tuner_module.Compilation) and not compilation.ended
    until(lambda: any(tmp_path.rglob(f"{compile.DRAFT}*")))
    tuner.close()
    assert compilation.ended
    assert not tuner._order(backbone).done
    compile.remove_leftovers(tuner._order(backbone).path.parent)
    assert not any(tmp_path.rglob(f"{compile.DRAFT}*"))


@pytest.mark.parametrize("make", [squeezenet, pytest.param(lite0, marks=pytest.mark.faults)])
def test_a_compiled_network_takes_over_and_computes_the_same(
    make: Callable[[Settings], backbones.TorchBackbone], make_tuner: Callable[..., tuner_module.Tuner], tmp_path: Path
) -> None:
    """Held to the reference path, Pillow and the eager network, over whole pictures and in two lanes at once."""
    settings = Settings(device="cpu", weights_dir=tmp_path)
    options = {"compile_after_s": 1, "batch_size": 2, "lanes": 2, "weights_dir": tmp_path}
    backbone, tuner = make(settings), make_tuner(**options)
    arrangement = tuner.arrangement(backbone)
    tuner.worked(backbone, 1, 2)
    assert isinstance(tuner._compilation, tuner_module.Compilation)
    # work goes on beside it, and then by it
    before = embed(backbone, arrangement)
    until(lambda: tuner._compilation is not None and tuner._compilation.ended, timeout_s=200)
    tuner.worked(backbone, 1, 0.1)
    assert tuner._compilation is None
    if tuner._order(backbone).verdict.exists():
        pytest.skip("compiled, it is not faster here")
    assert backbone.compiled_from == tuner._order(backbone).path
    after = embed(backbone, arrangement)

    space = backbone.space
    decoded = [decoding.decode(jpeg(seed), settings) for seed in range(11)]
    whole = np.stack([preprocess.transform(picture, space.preprocess) for picture in decoded])
    expected = torch.from_numpy(backbones.load(space, settings, reference=True).embed(whole))
    for ours in (before, after):
        assert torch.cosine_similarity(torch.from_numpy(ours), expected).min() >= LEAST_COSINE
    assert not np.array_equal(before, after), "it was not the compiled network that computed them"

    another = load(space, settings)
    make_tuner(**options).arrangement(another)
    assert another.compiled_from == backbone.compiled_from, "it is kept for other processes"


def small(weights: Path) -> tuple[str, torch.nn.Module]:
    """A network of one's own, as a program of torch.export."""
    path, network = weights / "own/small.pt2", networks.Small()
    networks.export(network, path)
    networks.describe(path)
    return "own/small", network


def of_timm(name: str) -> Callable[[Path], tuple[str, Any]]:
    """A network of timm, without its head."""

    def make(weights: Path) -> tuple[str, torch.nn.Module]:
        network: Any = networks.of_timm(name)
        networks.keep(network, weights / f"timm/{name}.safetensors")
        network.reset_classifier(0)
        return f"timm/{name}", network

    return make


QUICK = "resnet10t.c3_in1k"


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "make",
    [
        small,
        *(
            pytest.param(of_timm(name), id=name, marks=() if name == QUICK else pytest.mark.faults)
            for name in networks.FAMILIES
        ),
    ],
)
def test_networks_of_all_libraries_compute_the_same_compiled(
    make: Callable[[Path], tuple[str, torch.nn.Module]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held to the network itself, whether it is faster here or not."""
    monkeypatch.setattr(compile, "LEAST_GAIN", 0)
    name, network = make(tmp_path)
    space = catalog.resolve_space(name, None, Precision.EXACT, tmp_path)
    order = compile.Order(space, tmp_path, "cpu", 2, 1, tmp_path / "network.xml")
    compile.compile_network(order, tmp_path)
    backbone = load(space, Settings(device="cpu", weights_dir=tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, *space.preprocess.shape), np.uint8)
    before = backbone.embed(pixels)
    backbone.switch(compiled.load(order.path, torch.device("cpu"), 2))
    after = backbone.embed(pixels)
    mean, std = (torch.tensor(each)[:, None, None] for each in (space.preprocess.mean, space.preprocess.std))
    with torch.inference_mode():
        expected = network.eval()((torch.from_numpy(pixels) / 255 - mean) / std).numpy()
    least = [float(networks.cosines(found, expected).min()) for found in (before, after)]
    print(f"| `{name}` | {least[0]:.7f} | {least[1]:.7f} |")
    assert min(least) >= LEAST_COSINE
    assert not np.array_equal(before, after), "it was not the compiled network that computed them"


def embed(backbone: backbones.TorchBackbone, arrangement: Arrangement) -> np.ndarray:
    outcomes = list(Pipeline(backbone, Settings(device="cpu"), range(11), jpeg, arrangement=arrangement).outcomes())
    rows = {outcome.item: outcome.embedding for outcome in outcomes if outcome.embedding is not None}
    return np.stack([rows[at] for at in range(11)])


def test_the_settings_have_the_last_word_on_the_arrangement(backbone: backbones.TorchBackbone) -> None:
    assert arrangement_of(backbone, Settings(lanes=3, batch_size=7)) == Arrangement(3, 1, 7)
    assert arrangement_of(backbone, Settings()).lanes == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    "content", [b"no model", b"<net/>", Path(__file__).read_bytes()], ids=["none", "empty", "text"]
)
def test_a_file_that_is_no_compiled_network_is_told_of_once(
    content: bytes, backbone: backbones.TorchBackbone, tmp_path: Path
) -> None:
    tuner = tuner_module.Tuner(Settings(data_dir=tmp_path, compile_after_s=1, lanes=1))
    tuner.arrangement(backbone)
    path = tuner._order(backbone).path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with capture_logs() as logs:
        for _ in range(3):
            tuner.arrangement(backbone)
    assert [line["event"] for line in logs] == ["compiled_network_unusable"]
    assert backbone.compiled_from is None


def test_a_compiled_network_takes_batches_of_any_size_from_many_threads(tmp_path: Path) -> None:
    """Each picture is computed by itself: the same bits in each batch, whichever thread asks."""
    backbone = lite0(Settings(device="cpu"))
    network = backbones.scaled(backbone.space, Settings(device="cpu"), torch.device("cpu"))
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, *backbone.space.preprocess.shape), np.uint8)
    path = compile._converted(network, torch.from_numpy(pixels[:1].transpose(0, 2, 3, 1).copy()), "f32", tmp_path)
    before = backbone.nbytes
    backbone.switch(compiled.load(path, torch.device("cpu"), 4))
    copy = backbone.nbytes - before
    alone = np.concatenate([backbone.embed(pixels[at : at + 1]) for at in range(7)])
    with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(1,)) as threads:
        for found in threads.map(backbone.embed, [pixels] * 8):
            assert np.array_equal(found, alone)
    assert copy > 10e6
    assert before + 2 * copy <= backbone.nbytes <= before + 6 * copy, "one for each call at a time, each counted"


def test_lanes_may_begin_at_the_same_moment(tmp_path: Path) -> None:
    """The first call of OpenVINO's binding in a process never ends if another thread makes one, too."""
    backbone = lite0(Settings(device="cpu"))
    network = backbones.scaled(backbone.space, Settings(device="cpu"), torch.device("cpu"))
    pixels = torch.zeros((1, *backbone.space.preprocess.shape, 3), dtype=torch.uint8)
    path = compile._converted(network, pixels, "f32", tmp_path)
    code = (
        "import sys, threading, torch; from pathlib import Path; from imagekin_worker.tuning import compiled;"
        # so that threads take turns at any moment
        "sys.setswitchinterval(1e-5);"
        f"network = compiled.load(Path({str(path)!r}), torch.device('cpu'), 4);"
        "together, pixels = threading.Barrier(8), torch.zeros(1, 224, 224, 3, dtype=torch.uint8);"
        "lanes = [threading.Thread(target=lambda: (together.wait(), network(pixels))) for _ in range(8)];"
        "[lane.start() for lane in lanes]; [lane.join() for lane in lanes]"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)


@pytest.mark.skipif(not compiled.can_bfloat16(), reason="without OpenVINO, or the processor has no bfloat16")
def test_fast_may_be_bfloat16_and_keeps_its_promise(tmp_path: Path) -> None:
    """By corrected biases: rounding alone is further from the network than `fast` may be."""
    settings = Settings(device="cpu", weights_dir=tmp_path)
    space = catalog.resolve_space("efficientnet_lite0", None, Precision.FAST, tmp_path)
    order = compile.Order(space, tmp_path, "cpu", 4, 1, tmp_path / "network.xml")
    network = backbones.scaled(space, settings, torch.device("cpu"))
    batches = compile._batches(order, settings)
    with torch.no_grad():
        expected = torch.cat([network(batch) for batch in batches])
        cosines = []
        for corrected in (False, True):
            if corrected:
                rounding.correct_biases(network, space.preprocess.shape)
            path = compile._converted(network, batches[0], "bf16", tmp_path)
            rounded = compiled.load(path, torch.device("cpu"), 4)
            cosines.append(compile._cosines(torch.cat([rounded(batch) for batch in batches]), expected))
    (plain_mean, _), (mean, least) = cosines
    assert mean > plain_mean and mean >= 0.999 and least >= 0.995


def test_what_is_compiled_is_told_to_none_outside() -> None:
    """OpenVINO's package that reports its use to its makers is never loaded."""
    code = (
        "import sys; from imagekin_worker.tuning import compiled; openvino = compiled.openvino();"
        "from openvino.tools.ovc import convert_impl;"
        "assert convert_impl.tm.__name__ == 'openvino.tools.ovc.telemetry_stub', convert_impl.tm;"
        "assert sys.modules['openvino_telemetry'] is None"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
