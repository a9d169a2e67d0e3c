"""Compile one network ahead of time, as a process of its own.

`python -m imagekin_worker.tuning.compile` reads an order on its standard input. It is a separate process because
compiling holds Python's lock for seconds and takes most of a gigabyte. It ends with its parent, whose end of the pipe
closes then. The result is compared with the original network on real pictures before any process can load it: it must
compute the same, and faster.

For a CPU it is a model of OpenVINO, which a `fast` space may have computed in bfloat16; for a GPU PyTorch compiles it.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagekin.catalog import Space
from imagekin.demo import furniture
from imagekin.enums import Precision
from imagekin.settings import DAY_S, Settings
from imagekin_worker.network import allocator

if TYPE_CHECKING:
    from torch import Tensor

    from imagekin_worker.network.backbones import Scaled

    Call = Callable[[Tensor], Tensor]

NICE = 5
"""A lower priority than the lanes, but high enough to finish on a busy machine."""

# Mean and least cosine of the compiled network's embeddings to the network's own, of the same pixels. What `fast`
# promises, a mean of 0.999 and 0.995 at least, has room for its pixels, too: they take 0.0002 of the mean.
LEAST_COSINES = {Precision.EXACT: (0.9999, 0.9999), Precision.FAST: (0.9992, 0.997)}
PICTURES = 12

LEAST_GAIN = 1.03
KEEP_DAYS = 60
VERDICT_DAYS = 7
"""How long a network that was not faster counts as such: the trial may have met a busy machine."""
DRAFT = "draft-"
LEAST_ROUNDS = 4
TRIAL_S = 2.0


@dataclass(frozen=True, slots=True)
class Order:
    """What to compile: the network of a space, and the `path` of the file to make.

    `batch`: the pictures of a pass; `threads`: those inside a layer, on a CPU.
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
        """Whether the order is already done, for now."""
        return self.path.exists() or (self.verdict.exists() and _age_s(self.verdict) < VERDICT_DAYS * DAY_S)


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

    Of several forms that compute the same the fastest is taken. Raises WeightsUnavailable, RuntimeError if no form
    computes the same, and what PyTorch and OpenVINO raise if they cannot compile the network.
    """
    import torch

    from imagekin_worker.network import backbones
    from imagekin_worker.tuning import compiled

    torch.set_num_threads(order.threads)
    device = torch.device(order.device)
    settings = Settings(weights_dir=order.weights_dir, device=order.device)
    plain = backbones.scaled(order.space, settings, device)
    with torch.no_grad():
        batches = [batch.to(device) for batch in _batches(order, settings)]
        expected = torch.cat([plain(batch) for batch in batches])
        prepared = backbones.load(order.space, settings, device=device)
        assert isinstance(prepared, backbones.TorchBackbone)
        trials: list[tuple[float, Path, str]] = []
        said: dict[str, Any] = {}
        for draft in _build(plain, batches[0], order.space.precision, folder):
            network = compiled.load(draft, device, order.batch, threads=order.threads)
            cosines = _cosines(torch.cat([network(batch) for batch in batches]), expected)
            said = {"form": draft.stem, "mean": round(cosines[0], 6), "least": round(cosines[1], 6)}
            if all(found >= least for found, least in zip(cosines, LEAST_COSINES[order.space.precision], strict=True)):
                gain = _gain(network, prepared.scaled, batches[0])
                trials.append((gain, draft, json.dumps(said | {"gain": round(gain, 3)})))
    if not trials:
        raise RuntimeError(f"the compiled network computes different vectors: {said}")
    gain, draft, line = max(trials)
    # the last line is what the worker reports
    print(line, flush=True)
    if gain >= LEAST_GAIN:
        _place(draft, order.path)
    else:
        order.verdict.write_text(f"{gain:.3f}\n")


def _batches(order: Order, settings: Settings) -> list[Tensor]:
    """Prepare real pictures, the demo's, as batches uint8 (batch, height, width, 3)."""
    import numpy as np
    import torch

    from imagekin_worker.network import preprocess

    paths = sorted(furniture.FOLDER.glob("*.jpg"))
    wanted = max(1, PICTURES // order.batch) * order.batch
    pixels = [
        preprocess.prepare(paths[7 * at % len(paths)].read_bytes(), order.space, settings)[1] for at in range(wanted)
    ]
    return list(torch.tensor(np.stack(pixels)).split(order.batch))


def _build(network: Scaled, pixels: Tensor, precision: Precision, folder: Path) -> list[Path]:
    """Compile a network into a folder: all forms that are worth a trial. Its biases may be other ones then."""
    import torch

    from imagekin_worker.tuning import compiled, rounding

    if pixels.device.type != "cpu":
        program = torch.export.export(network, (pixels,))
        package = folder / "network.pt2"
        torch._inductor.aoti_compile_and_package(program, package_path=str(package))
        return [package]
    drafts = [_converted(network, pixels, "f32", folder)]
    if precision is Precision.FAST and compiled.can_bfloat16():
        rounding.correct_biases(network, (pixels.shape[1], pixels.shape[2]))
        drafts.append(_converted(network, pixels, "bf16", folder))
    return drafts


def _converted(network: Scaled, pixels: Tensor, numbers: str, folder: Path) -> Path:
    """Write a network as a model of OpenVINO that is computed in these numbers."""
    import torch

    from imagekin_worker.tuning import compiled

    openvino = compiled.openvino()
    model = openvino.convert_model(torch.export.export(network, (pixels[:1],)))
    model.reshape(list(pixels[:1].shape))
    model.set_rt_info(numbers, compiled.NUMBERS)
    path = folder / f"{numbers}.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def _place(draft: Path, path: Path) -> None:
    """Put a compiled network where others look for it: the file with its numbers comes first, if there is one."""
    numbers = draft.with_suffix(".bin")
    if numbers.exists():
        numbers.replace(path.with_suffix(".bin"))
    draft.replace(path)


def _cosines(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Return the mean and the least cosine of embeddings (n, dim)."""
    import torch

    cosines = torch.cosine_similarity(ours.double(), theirs.double())
    # numbers that are not finite are least
    cosines = torch.nan_to_num(cosines, -1.0)
    return float(cosines.mean()), float(cosines.min())


def _gain(compiled: Call, eager: Call, pixels: Tensor) -> float:
    """Time both in turns, since the machine's load varies; return how many times as fast the first is."""
    times: list[tuple[float, float]] = []
    until = time.perf_counter() + TRIAL_S
    # the first round warms up
    while len(times) <= LEAST_ROUNDS or time.perf_counter() < until:
        times.append((_seconds(compiled, pixels), _seconds(eager, pixels)))
    ours, theirs = (min(each) for each in zip(*times[1:], strict=True))
    return theirs / ours


def _seconds(call: Call, pixels: Tensor) -> float:
    started = time.perf_counter()
    call(pixels).cpu()
    return time.perf_counter() - started


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left, and files unused for KEEP_DAYS, including those of other code and PyTorch."""
    for path in folder.parent.glob(f"*/{DRAFT}*"):
        # those of other code may be at work: their lock is another one
        if path.parent == folder or _age_s(path) > DAY_S:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.parent.glob("*/*"):
        # .so: what PyTorch compiled for processors before OpenVINO did
        if path.suffix in (".xml", ".bin", ".pt2", ".slower", ".so") and _age_s(path) > KEEP_DAYS * DAY_S:
            path.unlink(missing_ok=True)


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _end_with_parent() -> None:
    """Wait for the end of standard input, then end this process and any C++ compiler that it started."""
    sys.stdin.read()
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
