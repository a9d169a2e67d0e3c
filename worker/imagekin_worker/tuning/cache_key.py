"""What a measurement or a compiled network of a machine depends on, and where it is kept."""

from __future__ import annotations

import functools
import hashlib
import platform
from importlib import metadata
from pathlib import Path

import torch

from imagekin.settings import Settings

# Where it is decided how a network is computed: a change there makes what is kept worthless.
_PACKAGES = ("network", "pipeline", "tuning")


def folder(settings: Settings, kind: str) -> Path:
    """Return the folder for one kind of results of this machine, PyTorch and OpenVINO, and this code."""
    return settings.cache_folder / kind / key()


@functools.cache
def key() -> str:
    """Return 16 hex characters that name the machine, the libraries and the code."""
    parts = [platform.machine(), _processor(), torch.__version__, _version("openvino"), *_gpus()]
    digest = hashlib.sha256("\n".join(parts).encode())
    for package in _PACKAGES:
        for path in sorted((Path(__file__).parents[1] / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    """Return the processor's model and features: native code and times are valid for no other processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.processor()} {torch.backends.cpu.get_cpu_capability()}"
    told = {line.partition(":")[0].strip(): line for line in reversed(lines)}
    return "\n".join(told.get(name, "") for name in ("model name", "flags", "CPU part", "Features"))


def _gpus() -> list[str]:
    return [str(torch.cuda.get_device_properties(at).name) for at in range(torch.cuda.device_count())]
