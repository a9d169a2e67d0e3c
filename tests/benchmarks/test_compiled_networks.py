"""Compiled networks against the prepared ones that a CPU worker has in its first minute, in a worker's own lanes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peers import MARKS, Table

from imagekin.enums import Precision
from imagekin_worker.bench import forward, timing
from imagekin_worker.bench.workbench import DEFAULT, RESNET, Workbench
from imagekin_worker.network import allocator, backbones
from imagekin_worker.network.devices import cores
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
        compiled.switch(load(order.path, torch.device("cpu"), lanes.batch, lanes=lanes.lanes))
        works = {
            "prepared": lambda: forward.rate(bench, name, lanes),
            "compiled": lambda: forward.rate_of(compiled.embed, lanes, space.preprocess.shape, bench.sizes.rate_s),
        }
        rates = timing.in_turns(works, 5)
        table.add(rates["prepared"], rates["compiled"], rates["compiled"] / rates["prepared"], seconds)
    table.show()
