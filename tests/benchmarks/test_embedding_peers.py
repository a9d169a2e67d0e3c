"""Embedding a folder with resnet50: imagekin's whole job, the original class, imagededup, a plain DataLoader.

The DataLoader feeds PyTorch, ONNX Runtime, and OpenVINO in float32 and in what it chooses by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peers import MARKS, Table
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from imagekin.enums import Precision
from imagekin_worker.bench import forward, original, timing, weights
from imagekin_worker.bench.workbench import RESNET, Workbench
from imagekin_worker.network import backbones
from imagekin_worker.network.devices import cores
from imagekin_worker.tuning import compiled

pytestmark = MARKS

LEAST_COSINE = 0.9999
# of what is computed in bfloat16, where the processor has it
LEAST_HALF = 0.999
BATCH = 32

Vectors = dict[str, np.ndarray]
# images a second, and what they are
Timed = tuple[float, Vectors]
Network = Callable[[torch.Tensor], Any]


def test_embedding(bench: Workbench, tmp_path: Path) -> None:
    folder = bench.pictures(RESNET)
    few = sorted(folder.iterdir())[: bench.sizes.class_pictures]
    found: dict[str, Vectors] = {}
    loader = f"DataLoader, {cores()} processes, batches of {BATCH}"
    ways: dict[str, Callable[[], Timed]] = {
        "imagekin, HTTP submit to last commit": lambda: whole_job(bench, folder, Precision.EXACT),
        "the same, compiled": lambda: whole_job(bench, folder, Precision.EXACT, compiled=True),
        "the same, fast and compiled": lambda: whole_job(bench, folder, Precision.FAST, compiled=True),
        "the original class": lambda: original_class(bench, few),
        "imagededup's CNN": lambda: imagededup(bench, folder),
        loader: lambda: data_loader(folder, weights.eager(bench.space(RESNET), bench.settings)),
        f"{loader}, ONNX Runtime": lambda: data_loader(folder, runtime),
        f"{loader}, OpenVINO in float32": lambda: data_loader(folder, single),
        f"{loader}, OpenVINO as it comes": lambda: data_loader(folder, chosen),
    }
    runtime, single, chosen = onnx_runtime(bench, tmp_path), openvino(bench, "f32"), openvino(bench, None)
    halves = {"the same, fast and compiled", f"{loader}, OpenVINO as it comes"}

    def timed(name: str) -> float:
        rate, found[name] = ways[name]()
        return rate

    imagekin, again, fast, *_ = ways
    for precision, name in ((Precision.EXACT, again), (Precision.FAST, fast)):
        network = backbones.load(bench.space(RESNET, precision), bench.compiled_settings)
        forward.compile_network(network, bench.compiled_settings)
        timed(name)  # loads the network
    timed(imagekin)
    rates = timing.in_turns({name: lambda name=name: timed(name) for name in ways}, bench.sizes.repetitions)
    table = Table(f"{RESNET}, {bench.sizes.slow_pictures} JPEGs of 500 x 400", "way", "images/s", "imagekin over it",
                  "cosine to imagekin's")  # fmt: skip
    for name, rate in rates.items():
        least = min(cosine(found[imagekin][key], vector) for key, vector in found[name].items())
        table.add(name, rate, rates[imagekin] / rate, f"{least:.6f}")
        assert least >= (LEAST_HALF if name in halves else LEAST_COSINE), name
    table.show()


def whole_job(bench: Workbench, folder: Path, precision: Precision, *, compiled: bool = False) -> Timed:
    """Embed a folder through the running service."""
    service = bench.service(compiled=compiled)
    with service.collection(RESNET, bench.weights(RESNET), precision) as name:
        run = service.embed(folder, name)
        vectors = service.client.vectors(name)
    return run.rate, dict(zip(vectors.keys, vectors.embeddings, strict=True))


def original_class(bench: Workbench, files: Sequence[Path]) -> Timed:
    """Embed a few pictures with the class: it keeps a graph for each."""
    space = bench.space(RESNET)
    peer = original.Original(RESNET, original.network(space, bench.settings), original.transform_of(RESNET), "cpu")
    peer.embed_image(files[0])
    seconds = timing.seconds(lambda: peer.embed_dataset(files))
    return len(files) / seconds, {
        Path(key).name: vector.detach().numpy().ravel() for key, vector in peer.dataset.items()
    }


def imagededup(bench: Workbench, folder: Path) -> Timed:
    """Embed a folder with imagededup's encoder, given the same network and transforms."""
    methods = pytest.importorskip("imagededup.methods", reason="pip install 'imagekin[benchmarks]'")
    from imagededup.utils import CustomModel  # type: ignore[import-not-found] - an extra

    network = weights.eager(bench.space(RESNET), bench.settings).requires_grad_(False)
    encoder = methods.CNN(verbose=False, model_config=CustomModel(RESNET, network, original.transform_of(RESNET)))
    seconds = timing.seconds(lambda: encoder.encode_images(folder))
    return len(encoder.encoding_map) / seconds, encoder.encoding_map


class Pictures(Dataset):
    """What a tutorial writes: open, RGB, transform."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())
        self.transform = original.transform_of(RESNET)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        path = self.paths[index]
        return self.transform(Image.open(path).convert("RGB")), path.name


def data_loader(folder: Path, network: Network) -> Timed:
    """Embed a folder with processes that decode beside a network's passes."""
    vectors: Vectors = {}

    @torch.inference_mode()
    def run() -> None:
        for pixels, names in DataLoader(Pictures(folder), BATCH, num_workers=cores()):
            vectors.update(zip(names, np.asarray(network(pixels)), strict=True))

    seconds = timing.seconds(run)
    return len(vectors) / seconds, vectors


def onnx_runtime(bench: Workbench, folder: Path) -> Network:
    """Export the network and open it in ONNX Runtime, as its documentation has it."""
    import onnxruntime

    network, path = weights.eager(bench.space(RESNET), bench.settings), folder / "network.onnx"
    pixels = torch.zeros(2, 3, *bench.space(RESNET).preprocess.shape)
    torch.onnx.export(
        network, (pixels,), path, dynamic_shapes=({0: torch.export.Dim("batch")},), input_names=["pixels"]
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels.numpy()})[0]


def openvino(bench: Workbench, numbers: str | None) -> Network:
    """Convert the network and compile it by OpenVINO, in numbers of a kind or in those that it chooses."""
    library = compiled.openvino()
    network = weights.eager(bench.space(RESNET), bench.settings)
    model = library.convert_model(network, example_input=torch.zeros(1, 3, *bench.space(RESNET).preprocess.shape))
    hints = {"INFERENCE_PRECISION_HINT": numbers} if numbers else {}
    run = library.Core().compile_model(model, "CPU", hints)
    return lambda pixels: run(pixels.numpy())[0]


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
