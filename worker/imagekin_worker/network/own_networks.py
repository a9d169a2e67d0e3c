"""Networks of one's own: TorchScript, exported programs and ONNX, run as they are once they have passed some trials.

What they compute cannot be read off the file, so a few pictures of noise go through when one is loaded: it must give
a vector for each, of the length that was said, and the same one in any company.
"""

from __future__ import annotations

import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from imagekin import catalog, errors
from imagekin.catalog import Space
from imagekin.settings import Settings
from imagekin_worker.network import checkpoints, devices

# Of two vectors that should be the same: how far apart they may be, as a share of their length. A cosine of 0.99999.
LARGEST_DIFFERENCE = 4e-3

_DYNAMIC = "docs/how-to/own-network.md shows how to export one for batches of any size"
_LETTERS_SHOWN = 300


class Own(nn.Module):
    """A network out of a file: pictures (n, 3, height, width) float32 to vectors (n, dim) float32.

    It runs on `device` alone. `least` and `most` pictures fit into one of its own batches; others are divided or filled
    up. `compiles`: whether PyTorch can compile it.
    """

    def __init__(self, part: Part, output: str, nbytes: int) -> None:
        super().__init__()
        self.run = part.run
        self.device, self.least, self.most = part.device, part.least, part.most
        self.compiles = part.compiles and part.most is None
        self.nbytes = nbytes
        self.layout = torch.contiguous_format
        self._output = output

    def forward(self, pictures: Tensor) -> Tensor:
        """Embed scaled pictures (n, 3, height, width) into (n, dim)."""
        pieces = pictures.contiguous(memory_format=self.layout).split(self.most or len(pictures))
        vectors = [self._embedded(piece) for piece in pieces]
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors)

    def train(self, mode: bool = True) -> Own:
        """Stay as it is: a file says itself what it computes, and a program of torch.export refuses to be asked."""
        return self

    def batch(self, usual: int) -> int:
        """Return a batch size near the usual one that leaves no place of its own batches empty."""
        return usual if self.least <= 1 else self.least * max(1, usual // self.least)

    def lay_out(self, layout: torch.memory_format) -> None:
        """Lay pictures and weights out in memory, as far as that can be chosen."""
        self.layout = layout
        if isinstance(self.run, nn.Module):
            self.run.to(memory_format=layout)

    def _embedded(self, piece: Tensor) -> Tensor:
        missing = self.least - len(piece)
        if missing <= 0:
            return _chosen(self.run(piece), self._output)
        filled = torch.cat([piece, piece[-1:].expand(missing, -1, -1, -1)])
        return _chosen(self.run(filled), self._output)[: len(piece)]


@dataclass(frozen=True)
class Part:
    """What a file holds: what runs batches of `least` to `most` pictures on a device."""

    run: Callable[[Tensor], Any]
    device: torch.device
    least: int = 1
    most: int | None = None
    compiles: bool = False


def load(space: Space, settings: Settings, device: torch.device, *, reference: bool = False) -> Own:
    """Load the network of a space and try it; `reference` keeps the layout in memory that it was exported with.

    Raises WeightsUnavailable, which says what is wrong with the file.
    """
    suffix = PurePosixPath(space.weights).suffix
    path = checkpoints.placed(space.backbone + suffix, settings)
    checkpoints.verify(path, space)
    try:
        part = _LOADERS[suffix](path, device, settings)
    except errors.WeightsUnavailable:
        raise
    except Exception as error:  # the readers' errors are of all kinds
        raise errors.WeightsUnavailable(f"{path} cannot be read as {_KINDS[suffix]}: {_first_line(error)}") from error
    network = Own(part, space.layer.removeprefix(catalog.OUTPUT).removeprefix("."), path.stat().st_size).requires_grad_(
        False
    )
    expected = _tried(network, space, path)
    if not reference and isinstance(part.run, nn.Module):
        _lay_out_better(network, space, expected)
    return network


@torch.inference_mode()
def _tried(network: Own, space: Space, path: Path) -> Tensor:
    """Run some noise and return the vectors (2, dim); raises WeightsUnavailable, which says what is wrong with them."""
    pictures = _noise(space, network.device)
    vectors = _vectors(network, pictures[:2], space, path)
    for company, others in (
        (pictures[:1], "on the number of pictures in the batch"),
        (pictures[[0, 2]], "on the other pictures of the batch"),
    ):
        if not _same(_vectors(network, company, space, path)[0], vectors[0]):
            same = _same(_vectors(network, pictures[:2], space, path)[0], vectors[0])
            depends = f"depends {others}" if same else "is another one each time"
            raise errors.WeightsUnavailable(
                f"{path}: the vector of a picture {depends}. Set the network to eval mode before it is exported "
                "(`network.eval()`), so that BatchNorm and Dropout work as after training."
            )
    return vectors


def _vectors(network: Own, pictures: Tensor, space: Space, path: Path) -> Tensor:
    count = len(pictures)
    shape = (count, *pictures.shape[1:])
    try:
        found = network(pictures)
    except _Unsuitable as error:
        raise errors.WeightsUnavailable(f"{path} {error}") from error
    except Exception as error:  # whatever the network raises
        raise errors.WeightsUnavailable(
            f"{path} does not take pictures of the shape {shape}, float32: {_first_line(error)} If `input` of "
            f"{space.backbone}.json is right, it may take one batch size only: {_DYNAMIC}."
        ) from error
    if not isinstance(found, Tensor):
        raise errors.WeightsUnavailable(f"{path} gives {type(found).__name__}, and should give a tensor.")
    if found.ndim != 2 or len(found) != count:
        raise errors.WeightsUnavailable(
            f"{path} gives {tuple(found.shape)} for {count} pictures, and should give a vector for each, "
            f"{(count, space.dim)}: end the network with pooling and flatten(1), and export it for batches of any size."
        )
    if found.shape[1] != space.dim:
        raise errors.WeightsUnavailable(
            f"{path} gives vectors of {found.shape[1]} numbers, and {space.backbone}.json says {space.dim}: correct "
            "`dim` there, and make a new collection."
        )
    if not found.is_floating_point() or not torch.isfinite(found).all():
        raise errors.WeightsUnavailable(f"{path} gives vectors whose numbers are not all finite and floating-point.")
    return found.float()


def _lay_out_better(network: Own, space: Space, expected: Tensor) -> None:
    """Lay the network out as convolutions are fastest, if it still computes the same."""
    network.lay_out(torch.channels_last)
    pictures = _noise(space, network.device)
    try:
        with torch.inference_mode():
            found = network(pictures[:2])
            same = all(map(_same, (*found, *network(pictures[:1])), (*expected, expected[0])))
    except Exception:  # noqa: BLE001 - operations that need the layout that they were exported with
        same = False
    if not same:
        network.lay_out(torch.contiguous_format)


def _same(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= LARGEST_DIFFERENCE * expected.norm())


def _noise(space: Space, device: torch.device) -> Tensor:
    """Make three pictures (3, 3, height, width), scaled as the network wants them: noise, noise, and one color."""
    pixels = torch.rand(3, 3, *space.preprocess.shape, generator=torch.Generator().manual_seed(0))
    pixels[2] = 1.0
    mean, std = (torch.tensor(each)[:, None, None] for each in (space.preprocess.mean, space.preprocess.std))
    return ((pixels - mean) / std).to(device)


class _Unsuitable(Exception):
    """An output that is not the vector; the text continues the file's name."""


def _chosen(found: Any, output: str) -> Any:
    """Pick the output that is the vector: by its name or its position, or the only one. Raises _Unsuitable."""
    if isinstance(found, Tensor):
        if output:
            raise _Unsuitable(f"has one output, so `output` ({output!r}) has to go from its JSON.")
        return found
    if not isinstance(found, Mapping | tuple | list):
        raise _Unsuitable(f"gives {type(found).__name__}, and should give a tensor.")
    named = found if isinstance(found, Mapping) else dict(enumerate(found))
    values = {str(at): value for at, value in enumerate(named.values())} | {str(at): each for at, each in named.items()}
    if not output and len(named) == 1:
        return next(iter(named.values()))
    if output not in values:
        wanted = (
            f"`output` of its JSON is {output!r}" if output else "`output` of its JSON has to say which is the vector"
        )
        raise _Unsuitable(f"has several outputs ({', '.join(map(str, named))}), and {wanted}.")
    return values[output]


def _torchscript(path: Path, device: torch.device, _settings: Settings) -> Part:
    with warnings.catch_warnings():
        # PyTorch would rather have torch.export, as the docs say, too
        warnings.simplefilter("ignore", FutureWarning)
        return Part(torch.jit.load(str(path), map_location=device).eval(), device)


def _exported(path: Path, device: torch.device, _settings: Settings) -> Part:
    with _no_pickle():
        program = torch.export.load(str(path))
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1 or not isinstance(inputs[0].meta.get("val"), Tensor):
        raise errors.WeightsUnavailable(f"{path} has {len(inputs)} inputs, and should have one, the pictures.")
    least, most = _limits(inputs[0].meta["val"].shape[0], program.range_constraints)
    if device.type != "cpu":
        program = move_to_device_pass(program, device)
    return Part(program.module(), device, least, most, compiles=True)


def _limits(count: int | torch.SymInt, ranges: Mapping[Any, Any]) -> tuple[int, int | None]:
    """Return the fewest and the most pictures of a program's batches; None if there is no limit."""
    if isinstance(count, int):
        return count, count
    known = ranges.get(count.node.expr)
    if known is None:
        return 1, None
    most = known.upper
    return max(1, int(known.lower)), int(most) if most.is_Integer else None


def _onnx(path: Path, _device: torch.device, settings: Settings) -> Part:
    try:
        import onnxruntime
    except ImportError as error:
        raise errors.WeightsUnavailable(
            f"This worker has no ONNX Runtime, which {path} needs: install imagekin with the extra `onnx`."
        ) from error
    sessions = _Sessions(onnxruntime, path, settings.lanes or devices.cores())
    count = sessions.batch
    return Part(sessions, torch.device("cpu"), *((count, count) if isinstance(count, int) else (1, None)))


class _Sessions:
    """An ONNX network on the CPU: a session with one thread for lanes, and one with all for single searches."""

    def __init__(self, library: Any, path: Path, cores: int) -> None:
        self._library, self._path, self._cores = library, path, cores
        self._lock = threading.Lock()
        self._by_threads = {1: self._session(1)}
        inputs = self._by_threads[1].get_inputs()
        if len(inputs) != 1:
            raise errors.WeightsUnavailable(f"{path} has {len(inputs)} inputs, and should have one, the pictures.")
        if inputs[0].type != "tensor(float)":
            raise errors.WeightsUnavailable(f"{path} takes {inputs[0].type}, and should take float32: tensor(float).")
        self._input = inputs[0].name
        self.batch = inputs[0].shape[0]
        self._outputs = [each.name for each in self._by_threads[1].get_outputs()]

    def __call__(self, pictures: Tensor) -> Any:
        """Run pictures (n, 3, height, width); returns the outputs by name, of any shape."""
        session = self._of(1 if torch.get_num_threads() == 1 else self._cores)
        found = session.run(None, {self._input: np.ascontiguousarray(pictures.numpy())})
        values = [torch.from_numpy(each) if isinstance(each, np.ndarray) else each for each in found]
        return dict(zip(self._outputs, values, strict=True))

    def _of(self, threads: int) -> Any:
        with self._lock:
            if threads not in self._by_threads:
                self._by_threads[threads] = self._session(threads)
            return self._by_threads[threads]

    def _session(self, threads: int) -> Any:
        """Read the file, and no other: weights in a second file would not be part of the digest."""
        options = self._library.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # a thread that waits would take its core from a decoder
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory() as empty:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", empty)
            return self._library.InferenceSession(self._path.read_bytes(), options, providers=["CPUExecutionProvider"])


@contextmanager
def _no_pickle() -> Iterator[None]:
    """Let torch.export read tensors alone: it would fall back to pickles, with any code in them."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[0] if lines else ''}"[:_LETTERS_SHOWN]
    return said if said.endswith(".") else said + "."


_LOADERS: dict[str, Callable[[Path, torch.device, Settings], Part]] = {
    ".pt": _torchscript,
    ".pt2": _exported,
    ".onnx": _onnx,
}
_KINDS = {
    ".pt": "TorchScript (`torch.jit.save`; the weights alone are named by --weights, docs/how-to/own-weights.md)",
    ".pt2": "a program of torch.export (`torch.export.save`)",
    ".onnx": "ONNX",
}
