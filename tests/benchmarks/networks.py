"""What networks of timm cost on this machine: the forward pass, a whole embed job, and the worker's memory.

    python tests/benchmarks/networks.py [NAME ...] [--count 300] [--folder FOLDER] [--json]

Each network gets weights by chance, as speed and memory do not depend on them, and a service of its own, whose worker
embeds COUNT distinct pictures of 480 x 360 twice: first with nothing warm, then as other pictures with all of it warm.
The first job has the calibration in it, and compiling is off, as in a worker's first minute. A plain program, not a
test.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import timm
import torch
from curation import descendants
from PIL import Image
from safetensors.torch import save_file

from imagekin import Client, catalog
from imagekin.demo import furniture
from imagekin.enums import Precision
from imagekin.settings import Settings
from imagekin.stack import Stack
from imagekin_worker.bench import forward
from imagekin_worker.network import allocator, backbones
from imagekin_worker.network.devices import cores

NAMES = (
    "resnet50.a1_in1k",
    "convnextv2_tiny.fcmae_ft_in1k",
    "vit_small_patch14_dinov2.lvd142m",
    "mobilenetv4_conv_medium.e500_r256_in1k",
    "vit_base_patch16_siglip_224.webli",
)
SIZE = (480, 360)
FORWARD_S = 6.0


@dataclass(frozen=True)
class Row:
    """A network and what it took; rates in images a second, memory in MiB, `cpu_s_per_image` of the warm job."""

    network: str
    parameters_m: float
    input: str
    dim: int
    forward_per_s: float
    first_job_per_s: float
    warm_job_per_s: float
    cpu_s_per_image: float
    worker_mib: int
    load: str


def draw(count: int, folder: Path, seed: int) -> None:
    """Write `count` JPEGs of 480 x 360, parts of the demo's pictures."""
    chance = random.Random(seed)
    folder.mkdir()
    paths = [picture.path for picture in furniture.pictures()]
    for number in range(count):
        with Image.open(paths[number % len(paths)]) as image:
            whole = image.convert("RGB")
        side = min(whole.width / 4, whole.height / 3) * chance.uniform(0.6, 0.95)
        width, height = 4 * side, 3 * side
        left, top = chance.uniform(0, whole.width - width), chance.uniform(0, whole.height - height)
        box = (left, top, left + width, top + height)
        whole.resize(SIZE, Image.Resampling.BICUBIC, box=box).save(folder / f"{number:04d}.jpg", quality=88)


def place(name: str, weights: Path) -> float:
    """Write weights by chance where a worker looks for them; returns the millions of parameters."""
    torch.manual_seed(0)
    network = timm.create_model(name)
    path = weights / f"timm/{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}, path)
    return sum(each.numel() for each in network.parameters()) / 1e6


def forward_rate(name: str, settings: Settings) -> tuple[catalog.Space, float]:
    """Measure the forward pass of the prepared network, in a worker's lanes."""
    space = catalog.resolve_space(f"timm/{name}", None, Precision.EXACT, settings.weights_dir)
    backbone = backbones.load(space, settings)
    lanes = forward.Configuration(cores(), 1, backbone.batch_size)
    return space, forward.rate_of(backbone.embed, lanes, space.preprocess.shape, FORWARD_S)


def peak_mib() -> int:
    """Return the most memory that one of the service's processes had, in MiB."""
    peaks = [0]
    for process in descendants(os.getpid()):
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:  # it has ended
            continue
        peaks += [int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")]
    return max(peaks)


def cpu_s() -> float:
    """Return the seconds that the service's processes had a core: other work on the machine changes them little."""
    ticks = 0
    for process in descendants(os.getpid()):
        try:
            after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        ticks += int(after_name[11]) + int(after_name[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(name: str, first: Path, second: Path, folder: Path) -> Row:
    """Measure one network."""
    settings = Settings(
        data_dir=folder / "data",
        weights_dir=folder / "weights",
        port=0,
        warm=(),
        calibrate_after_s=1,
        compile_after_s=0,
    )
    before = os.getloadavg()[0]
    parameters = place(name, settings.weights_dir)
    space, rate = forward_rate(name, settings)
    with Stack(settings, log=lambda _: None) as stack:
        client = Client(stack.url)
        client.create_collection("pictures", backbone=f"timm/{name}")
        jobs, spent = [], 0.0
        for archive in (first, second):
            started, before_cpu = time.perf_counter(), cpu_s()
            result = client.embed(archive, "pictures", upload=True).result()
            assert result.embedded == len(list(archive.iterdir())), result
            jobs.append(result.embedded / (time.perf_counter() - started))
            spent = (cpu_s() - before_cpu) / result.embedded
        memory = peak_mib()
    height, width = space.preprocess.shape
    return Row(
        network=f"timm/{name}",
        parameters_m=round(parameters, 1),
        input=f"{height} x {width}",
        dim=space.dim,
        forward_per_s=round(rate, 1),
        first_job_per_s=round(jobs[0], 1),
        warm_job_per_s=round(jobs[1], 1),
        cpu_s_per_image=round(spent, 3),
        worker_mib=memory,
        load=f"{before:.1f} to {os.getloadavg()[0]:.1f}",
    )


def main() -> None:
    """Measure each network and print a row for it."""
    parser = argparse.ArgumentParser(description="Measure what networks of timm cost on this machine.")
    parser.add_argument("names", nargs="*", default=NAMES, help="without `timm/`")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="where to write, some gigabytes")
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    allocator.keep_memory()
    if not said.json:
        print("| " + " | ".join(each.name for each in fields(Row)) + " |", "|---" * len(fields(Row)) + "|", sep="\n")
    with tempfile.TemporaryDirectory(prefix="networks-", dir=said.folder) as pictures:
        archives = [Path(pictures) / each for each in ("first", "second")]
        for seed, archive in enumerate(archives):
            draw(said.count, archive, seed)
        for name in said.names:
            with tempfile.TemporaryDirectory(prefix="networks-", dir=said.folder) as folder:
                row = asdict(measure(name, archives[0], archives[1], Path(folder)))
            shown = json.dumps(row) if said.json else "| " + " | ".join(str(each) for each in row.values()) + " |"
            print(shown, flush=True)


if __name__ == "__main__":
    main()
