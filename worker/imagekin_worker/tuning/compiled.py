"""Loads networks that were compiled ahead of time; on a CPU several lanes can run one at the same time."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_capsule_of = ctypes.pythonapi.PyCapsule_New
_capsule_of.restype, _capsule_of.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Library:
    """A network in a shared library for a CPU, called through AOTInductor's C interface; see backbones.Compiled.

    PyTorch's own loader holds Python's lock while the network runs, so that lanes and the thread that renews leases
    would wait for each other; a call through ctypes releases it. The interface is that of
    torch/csrc/inductor/aoti_runtime/interface.h.
    """

    def __init__(self, path: Path, batch: int, lanes: int) -> None:
        """Load a library, with room for `lanes` calls at once. Raises OSError and RuntimeError if that fails."""
        try:
            bridge: Any = torch._C._aoti  # pyright: ignore[reportAttributeAccessIssue] - PyTorch's own, undocumented
            self._handles_of = bridge.unsafe_alloc_void_ptrs_from_tensors
            self._tensors_of = bridge.alloc_tensors_by_stealing_from_void_ptrs
        except AttributeError as error:
            raise RuntimeError(f"PyTorch {torch.__version__} passes its tensors to libraries in another way") from error
        self.batch = batch
        self.nbytes = path.stat().st_size
        self._library = ctypes.CDLL(str(path))
        self._run = self._function("AOTInductorModelContainerRun", 7)
        self._container = ctypes.c_void_p()
        self._check(
            self._function("AOTInductorModelContainerCreateWithDevice", 4)(
                ctypes.byref(self._container), ctypes.c_size_t(lanes), b"cpu", None
            )
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        """Embed one batch; see backbones.Compiled. Raises RuntimeError."""
        if len(pixels) != self.batch:
            raise RuntimeError(f"compiled for {self.batch} pictures, called with {len(pixels)}")
        (given,) = self._handles_of([pixels])
        inputs = (ctypes.c_void_p * 1)(_pointer_of(given, None))
        outputs = (ctypes.c_void_p * 1)()
        self._check(self._run(self._container, inputs, 1, outputs, 1, None, None))
        (embeddings,) = self._tensors_of([_capsule_of(outputs[0], None, None)])
        return embeddings

    def __del__(self) -> None:
        if getattr(self, "_container", None):
            self._function("AOTInductorModelContainerDelete", 1)(self._container)

    def _function(self, name: str, arguments: int) -> Callable[..., int]:
        function = getattr(self._library, name)
        function.restype = ctypes.c_int32
        if arguments == 7:
            function.argtypes = [
                ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p,
                ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p,
            ]  # fmt: skip
        return function

    @staticmethod
    def _check(error: int) -> None:
        if error:
            raise RuntimeError("the compiled network failed; the reason is in the process's output")


class Package:
    """A network in a PyTorch package, for a GPU, where one thread runs it; see backbones.Compiled."""

    def __init__(self, path: Path, device: torch.device, batch: int) -> None:
        """Load a package. Raises RuntimeError if it cannot be loaded."""
        self.batch = batch
        self.nbytes = path.stat().st_size
        # without its own locks it can be recorded into a graph
        self._model: Any = torch._inductor.aoti_load_package(
            str(path), run_single_threaded=True, device_index=device.index or 0
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        """Embed one batch; see backbones.Compiled."""
        return self._model(pixels)


def load(path: Path, device: torch.device, batch: int, lanes: int) -> Library | Package:
    """Load a compiled network for `lanes` calls at once. Raises OSError and RuntimeError if that fails."""
    return Library(path, batch, lanes) if device.type == "cpu" else Package(path, device, batch)
