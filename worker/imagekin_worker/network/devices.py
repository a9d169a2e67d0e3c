"""Which device a process computes on, and with which number format."""

from __future__ import annotations

import os

import torch

from imagekin.enums import Precision
from imagekin.settings import Settings

# The first generation of NVIDIA's that multiplies bfloat16 in its tensor cores; before it, PyTorch only emulates it.
AMPERE = 8


def choose(settings: Settings, place: int = 0) -> torch.device:
    """Choose the device that IMAGEKIN_DEVICE names; `auto` is CUDA if available.

    Without a device number, the processes of one worker spread over the GPUs: `place` is the process's position among
    them.
    """
    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", place % max(torch.cuda.device_count(), 1))
    return device


def numbers(device: torch.device, precision: Precision) -> torch.dtype:
    """Choose a network's number format: half precision on a GPU if the space is `fast`; on a CPU it would be slower."""
    if device.type != "cuda" or precision is not Precision.FAST:
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= AMPERE else torch.float16


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
