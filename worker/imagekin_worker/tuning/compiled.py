"""Networks that were compiled ahead of time: by OpenVINO for a CPU, by PyTorch for a GPU."""

from __future__ import annotations

import importlib
import sys
from collections import defaultdict, deque
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUMBERS = "imagekin_numbers"
"""Where a model of OpenVINO says what it is computed in: f32 or bf16."""


def available(device: torch.device) -> bool:
    """Return whether networks can be compiled for a device here."""
    return device.type != "cpu" or find_spec("openvino") is not None


def openvino() -> Any:
    """Import OpenVINO, without the package through which it would tell its makers of each conversion."""
    # None stands for a module that cannot be imported, for which OpenVINO has a stub
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType] - documented for import
    return importlib.import_module("openvino")


def can_bfloat16() -> bool:
    """Return whether OpenVINO is here and finds instructions for bfloat16."""
    return find_spec("openvino") is not None and "BF16" in openvino().Core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    )


def numbers(path: Path) -> str:
    """Return what a model of OpenVINO is computed in."""
    return openvino().Core().read_model(path).get_rt_info(NUMBERS).astype(str)


class Inference:
    """A network that OpenVINO runs on a CPU, picture by picture; see backbones.Compiled.

    Larger batches gain nothing there, and so batches of all sizes are computed in the same way. Several threads may
    call it at the same time, and Python's lock is free meanwhile. Each call at a time has a model of its own, which
    runs in the caller's thread, with as many others inside a layer as PyTorch would have there. One model for all of
    them would save memory, but has threads of its own: the system then puts two of them on one core while another is
    idle, which costs a job a tenth of its speed.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Load a network, ready for calls with `threads` threads. Raises RuntimeError if that fails."""
        self._core = openvino().Core()
        self._network: Any = self._core.read_model(path)
        self._numbers = self._network.get_rt_info(NUMBERS).astype(str)
        self.path = path
        self._size = path.with_suffix(".bin").stat().st_size
        # by threads: requests that nobody uses now, each of a model of its own
        self._free: dict[int, deque[Any]] = defaultdict(deque)
        self._models: list[Any] = []
        # Alone in the process: in two threads at once the first call of OpenVINO 2026.4's Python binding waits for
        # Python's lock while that of the other holds it and waits for the first one's end.
        self._embed(np.zeros(self._network.inputs[0].shape, np.uint8), threads)

    @property
    def nbytes(self) -> int:
        """The memory of its models."""
        return self._size * len(self._models)

    def takes(self, count: int) -> bool:
        """Return whether it takes batches of a size: it takes all."""
        return True

    def __call__(self, pixels: Tensor) -> Tensor:
        """Embed pixels uint8 (n, height, width, 3) into (n, dim) float32. Raises RuntimeError."""
        return torch.from_numpy(self._embed(pixels.numpy(), torch.get_num_threads()))

    def _embed(self, pixels: NDArray[np.uint8], threads: int) -> NDArray[np.float32]:
        try:
            request = self._free[threads].pop()
        except IndexError:
            request = self._request(threads)
        rows: list[NDArray[np.float32]] = []
        for picture in pixels:
            request.infer([picture[None]], share_inputs=True)
            rows.append(request.get_output_tensor(0).data[0].copy())
        self._free[threads].append(request)
        return np.stack(rows)

    def _request(self, threads: int) -> Any:
        """Make another model, and return the one request that it computes at a time."""
        model = self._core.compile_model(
            self._network,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": self._numbers,
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": threads,
                # cores may be shared with other processes
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._models.append(model)
        return model.create_infer_request()


class Package:
    """A network in a PyTorch package, for a GPU, where one thread runs it; see backbones.Compiled."""

    def __init__(self, path: Path, device: torch.device, batch: int) -> None:
        """Load a package. Raises RuntimeError if it cannot be loaded."""
        self.path = path
        self.nbytes = path.stat().st_size
        self._batch = batch
        # without its own locks it can be recorded into a graph
        self._model: Any = torch._inductor.aoti_load_package(
            str(path), run_single_threaded=True, device_index=device.index or 0
        )

    def takes(self, count: int) -> bool:
        """Return whether it takes batches of a size: that which it was compiled for."""
        return count == self._batch

    def __call__(self, pixels: Tensor) -> Tensor:
        """Embed one batch; see backbones.Compiled."""
        return self._model(pixels)


def load(path: Path, device: torch.device, batch: int, threads: int = 1) -> Inference | Package:
    """Load a compiled network, ready for calls with `threads` threads; raises OSError and RuntimeError."""
    return Inference(path, threads) if device.type == "cpu" else Package(path, device, batch)
