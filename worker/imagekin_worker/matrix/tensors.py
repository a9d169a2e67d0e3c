"""Tensors that hold a matrix's rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from imagekin.enums import DType

DTYPES = {DType.FLOAT32: torch.float32, DType.FLOAT16: torch.float16}
_NUMPY = {torch.float32: np.float32, torch.float16: np.float16}


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an uninitialized tensor of a shape, such as (n, dim)."""
    # numpy asks the system for large pages, which fill twice as fast
    return (
        torch.from_numpy(np.empty(shape, _NUMPY[dtype]))
        if by_numpy(device)
        else torch.empty(shape, dtype=dtype, device=device)
    )


def grown(tensor: Tensor, rows: int) -> Tensor:
    """Return a copy of a tensor (n, ...) with this number of rows."""
    larger = empty((rows, *tensor.shape[1:]), tensor.dtype, tensor.device)
    larger[: len(tensor)] = tensor
    return larger


def by_numpy(device: torch.device) -> bool:
    """Return whether NumPy reads and writes the rows: on a CPU, where torch's threads wait even over a few rows."""
    return device.type == "cpu"


def take(tensor: Tensor, places: np.ndarray) -> np.ndarray:
    """Return a copy (m, ...) of some rows of a tensor (n, ...)."""
    if by_numpy(tensor.device):
        return tensor.numpy()[places]
    return tensor[torch.from_numpy(places).to(tensor.device)].cpu().numpy()


def put(tensor: Tensor, places: slice | np.ndarray, values: np.ndarray) -> None:
    """Write values (m, ...) over some rows of a tensor (n, ...)."""
    if by_numpy(tensor.device):
        tensor.numpy()[places] = values
    else:
        there = places if isinstance(places, slice) else torch.from_numpy(places).to(tensor.device)
        tensor[there] = of(values).to(tensor)


def of(array: np.ndarray) -> Tensor:
    """Return an array (n, ...) as a tensor, without a copy."""
    # through DLPack because torch.from_numpy warns of read-only memory
    return torch.from_dlpack(array)
