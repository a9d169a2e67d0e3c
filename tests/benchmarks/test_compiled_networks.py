"""Compiled networks against the prepared ones that a CPU worker has in its first minute, in a worker's own lanes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peers import MARKS, Table

from imagekin.enums import Precision
from imagekin_worker.bench import forward, timing
from imagekin_worker.bench.workbench import DEFAULT, RESNET, Workbench
from imagekin_worker.network import allocator, backbones
from imagekin_worker.network.devices import cores
from imagekin_worker.pipeline.lanes import Arrangement, Pipeline
from imagekin_worker.tuning import compile
from imagekin_worker.tuning.compiled import load

pytestmark = MARKS


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("name", [DEFAULT, RESNET])
def test_a_compiled_network_is_used_where_it_is_faster(
    bench: Workbench, name: str, precision: Precision, tmp_path: Path
) -> None:
    allocator.keep_memory()
    space, settings, lanes = (
        bench.space(name, precision),
        bench.settings,
        forward.Configuration(cores(), 1, backbones.CPU_BATCH),
    )
    order = compile.Order(space, settings.weights_dir, "cpu", lanes.batch, lanes.intra_op, tmp_path / "network.xml")
    seconds = timing.seconds(lambda: compile.compile_network(order, tmp_path))
    assert order.done
    table = Table(f"{name} {precision}, {lanes}", "prepared: images/s", "compiled: images/s", "gain", "compiling: s")
    if order.verdict.exists():
        table.add("", "not used", order.verdict.read_text().strip(), seconds)
    else:
        compiled = backbones.load(space, settings)
        assert isinstance(compiled, backbones.TorchBackbone)
        compiled.switch(load(order.path, torch.device("cpu"), lanes.batch))
        works = {
            "prepared": lambda: forward.rate(bench, name, lanes),
            "compiled": lambda: forward.rate_of(compiled.embed, lanes, space.preprocess.shape, bench.sizes.rate_s),
        }
        rates = timing.in_turns(works, 5)
        table.add(rates["prepared"], rates["compiled"], rates["compiled"] / rates["prepared"], seconds)
    table.show()


def test_lanes_of_one_thread_and_others(bench: Workbench, tmp_path: Path) -> None:
    """Decoding and passes of a `fast` network, as a worker's lanes do them, without the service."""
    allocator.keep_memory()
    space, settings = bench.space(DEFAULT, Precision.FAST), bench.settings
    order = compile.Order(space, settings.weights_dir, "cpu", backbones.CPU_BATCH, 1, tmp_path / "network.xml")
    compile.compile_network(order, tmp_path)
    files = [path.read_bytes() for path in sorted(bench.pictures(DEFAULT).iterdir())]

    def way(lanes: int, threads: int, batch: int) -> Callable[[], float]:
        network = backbones.load(space, settings)
        assert isinstance(network, backbones.TorchBackbone)
        if order.path.exists():
            network.switch(load(order.path, torch.device("cpu"), batch, threads))
        arrangement = Arrangement(lanes, threads, batch)

        def run() -> float:
            lanes = Pipeline(network, settings, iter(files), bytes, arrangement=arrangement)
            return len(files) / timing.seconds(lambda: deque(lanes.outcomes(), maxlen=0))

        return run

    count = cores()
    ways = {f"{count} lanes of one thread, batch {batch}": way(count, 1, batch) for batch in (1, 4, 8, 16)} | {
        f"one lane of {count} threads, batch 4": way(1, count, 4),
        f"{2 * count} lanes of one thread, batch 4": way(2 * count, 1, 4),
    }
    rates = timing.in_turns(ways, 5)
    table = Table(f"{DEFAULT} {Precision.FAST}, {len(files)} JPEGs of 500 x 400", "lanes", "images/s")
    for name, rate in rates.items():
        table.add(name, rate)
    table.show()
