"""Compile one network ahead of time, as a process of its own.

`python -m imagekin_worker.tuning.compile` reads an order on its standard input. It is a separate process because
compiling holds Python's lock for seconds and takes most of a gigabyte. It ends with its parent, whose end of the pipe
closes then. The result is compared with the original network before any process can load it: it must compute the same,
and faster.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagekin.catalog import Space
from imagekin.enums import Precision
from imagekin.settings import DAY_S, Settings
from imagekin_worker.network import allocator

if TYPE_CHECKING:
    from torch import Tensor, nn

    Call = Callable[[Tensor], Tensor]

NICE = 5
"""A lower priority than the lanes, but high enough to finish on a busy machine."""

LEAST_COSINE = {Precision.EXACT: 0.9999, Precision.FAST: 0.999}

LEAST_GAIN = 1.03
KEEP_DAYS = 60
DRAFT = "draft-"
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Order:
    """What to compile: the network of a space for one batch size, and the `path` of the file to make.

    `threads`: those inside a layer, on a CPU.
    """

    space: Space
    weights_dir: Path
    device: str
    batch: int
    threads: int
    path: Path

    def to_json(self) -> str:
        """Return the order as one line."""
        return json.dumps(asdict(self) | {"space": self.space.to_json()}, default=str)

    @classmethod
    def from_json(cls, line: str) -> Order:
        """Read what `to_json` wrote."""
        said: dict[str, Any] = json.loads(line)
        paths = {name: Path(said[name]) for name in ("weights_dir", "path")}
        return cls(**{**said, **paths, "space": Space.from_json(said["space"])})

    @property
    def verdict(self) -> Path:
        """The file that is written instead if the network was not faster."""
        return self.path.with_suffix(".slower")

    @property
    def done(self) -> bool:
        """Whether the order is already done."""
        return self.path.exists() or self.verdict.exists()


def main() -> None:
    """Carry out the order from standard input, unless another process did so meanwhile."""
    os.nice(NICE)
    # the trial compares as a worker would
    allocator.keep_memory()
    order = Order.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    order.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with order.path.with_name("lock").open("w") as lock:
        # one at a time on a machine, and before PyTorch is imported: who waits here should be small
        fcntl.flock(lock, fcntl.LOCK_EX)
        if order.done:
            return
        remove_leftovers(order.path.parent)
        with tempfile.TemporaryDirectory(prefix=DRAFT, dir=order.path.parent) as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
            compile_network(order, Path(folder))


def compile_network(order: Order, folder: Path) -> None:
    """Compile in a folder, test the result, and put it in its place, or the verdict that it was not faster.

    Raises WeightsUnavailable, and what PyTorch raises if it cannot compile the network.
    """
    import torch

    from imagekin_worker.network import backbones
    from imagekin_worker.tuning.compiled import load

    torch.set_num_threads(order.threads)
    device = torch.device(order.device)
    settings = Settings(weights_dir=order.weights_dir, device=order.device)
    plain = backbones.scaled(order.space, settings, device)
    pixels = torch.randint(0, 256, (order.batch, *order.space.preprocess.shape, 3), dtype=torch.uint8, device=device)
    with torch.no_grad():
        draft = _build(plain, pixels, folder)
        compiled = load(draft, device, order.batch, lanes=1)
        cosine = _least_cosine(compiled(pixels), plain(pixels))
        eager = backbones.load(order.space, settings, device=device)
        assert isinstance(eager, backbones.TorchBackbone)
        gain = _gain(compiled, eager.scaled, pixels)
    if cosine < LEAST_COSINE[order.space.precision]:
        raise RuntimeError(f"the compiled network computes different vectors: a cosine of {cosine:.6f}")
    print(json.dumps({"gain": round(gain, 3), "cosine": round(cosine, 8)}), flush=True)
    if gain >= LEAST_GAIN:
        draft.replace(order.path)
    else:
        order.verdict.write_text(f"{gain:.3f}\n")


def _build(network: nn.Module, pixels: Tensor, folder: Path) -> Path:
    """Compile into a file of a folder: a package, or on a CPU the library from it (see compiled.Library)."""
    import torch

    program = torch.export.export(network, (pixels,))
    on_cpu = pixels.device.type == "cpu"
    package = folder / "network.pt2"
    # freezing lays a CPU's weights out for oneDNN, once
    options = {"freezing": True} if on_cpu else {}
    torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=options)
    if not on_cpu:
        return package
    with zipfile.ZipFile(package) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        return Path(archive.extract(name, folder))


def _least_cosine(ours: Tensor, theirs: Tensor) -> float:
    import torch

    return float(torch.cosine_similarity(ours.double(), theirs.double()).min())


def _gain(compiled: Call, eager: Call, pixels: Tensor) -> float:
    """Time both in turns, since the machine's load varies; return how many times as fast the first is."""
    times: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(1 + ROUNDS):
        for which, call in enumerate((compiled, eager)):
            started = time.perf_counter()
            call(pixels).cpu()
            times[which].append(time.perf_counter() - started)
    return min(times[1][1:]) / min(times[0][1:])


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left, and files unused for KEEP_DAYS, including those of other code and PyTorch."""
    for path in folder.parent.glob(f"*/{DRAFT}*"):
        # those of other code may be at work: their lock is another one
        if path.parent == folder or _age_s(path) > DAY_S:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.parent.glob("*/*"):
        if path.suffix in (".so", ".pt2", ".slower") and _age_s(path) > KEEP_DAYS * DAY_S:
            path.unlink(missing_ok=True)


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _end_with_parent() -> None:
    """Wait for the end of standard input, then end this process and any C++ compiler that it started."""
    sys.stdin.read()
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
