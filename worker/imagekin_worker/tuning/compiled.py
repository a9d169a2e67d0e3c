"""Networks that were compiled ahead of time: by OpenVINO for a CPU, by PyTorch for a GPU."""

from __future__ import annotations

import importlib
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
    call it at the same time; Python's lock is free meanwhile.
    """

    def __init__(self, path: Path, lanes: int, threads: int) -> None:
        """Load a model for `lanes` calls at once of `threads` threads each. Raises RuntimeError if that fails."""
        core = openvino().Core()
        model = core.read_model(path)
        self.path = path
        self.nbytes = path.with_suffix(".bin").stat().st_size
        self._model: Any = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": model.get_rt_info(NUMBERS).astype(str),
                "NUM_STREAMS": lanes,
                "INFERENCE_NUM_THREADS": lanes * threads,
                # cores may be shared with other processes
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._own = threading.local()

    def takes(self, count: int) -> bool:
        """Return whether it takes batches of a size: it takes all."""
        return True

    def __call__(self, pixels: Tensor) -> Tensor:
        """Embed pixels uint8 (n, height, width, 3) into (n, dim) float32. Raises RuntimeError."""
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        request, rows = self._own.request, []
        for picture in pixels.numpy():
            request.infer([picture[None]], share_inputs=True)
            rows.append(request.get_output_tensor(0).data[0].copy())
        return torch.from_numpy(np.stack(rows))


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


def load(path: Path, device: torch.device, batch: int, *, lanes: int = 1, threads: int = 1) -> Inference | Package:
    """Load a compiled network for `lanes` calls at once. Raises OSError and RuntimeError if that fails."""
    return Inference(path, lanes, threads) if device.type == "cpu" else Package(path, device, batch)
