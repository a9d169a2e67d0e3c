"""A fused network is the same function."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from imagekin_worker.network import fusion


class Mixed(nn.Module):
    """Every way in which an activation follows a convolution, and the ways in which it must not be taken in."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.activation = activation
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 1)
        self.reflected = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm(self.first(x)))
        both = self.twice(x)
        x = self.activation(both) + both
        x = self.shared(torch.relu(self.shared(x)))
        x = nn.functional.relu(self.reflected(x))
        return nn.functional.relu(self.deep(x))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(4)


def mixed(activation: nn.Module) -> Mixed:
    network = Mixed(activation)
    network.norm.running_mean = torch.randn(8)
    network.norm.running_var = torch.rand(8) + 0.5
    return network.eval()


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), nn.ReLU6(), nn.SiLU(), nn.Sigmoid(), nn.Hardswish()])
def test_fused_and_folded_networks_compute_the_same(activation: nn.Module) -> None:
    network, batch = mixed(activation), 3 * torch.randn(4, 3, 20, 20)
    with torch.inference_mode():
        expected = network(batch)
        folded = fusion.fold(copy.deepcopy(network))
        fused = fusion.fuse(folded, batch.contiguous(memory_format=torch.channels_last))
        assert torch.allclose(fused(batch), expected, atol=1e-4)
        assert torch.allclose(fused(batch[:1]), expected[:1], atol=1e-4)


def test_what_can_be_fused_is() -> None:
    fused = fusion.fuse(fusion.fold(mixed(nn.ReLU6())), torch.zeros(1, 3, 20, 20))
    kinds = {name: type(module).__name__ for name, module in fused.named_modules()}
    assert "norm" not in {name for name, kind in kinds.items() if kind == "BatchNorm2d"}
    assert {name for name, kind in kinds.items() if kind == "_Convolution"} == {"first", "twice", "deep"}


def test_without_onednn_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    network = mixed(nn.ReLU())
    assert fusion.fuse(network, torch.zeros(1, 3, 20, 20)) is network


class Padded(nn.Module):
    """Padding before a convolution: more behind, more in front, and one that two convolutions take."""

    def __init__(self) -> None:
        super().__init__()
        self.behind, self.in_front, self.shared = (
            nn.ZeroPad2d((0, 1, 1, 2)),
            nn.ZeroPad2d((2, 0, 1, 1)),
            nn.ZeroPad2d(1),
        )
        self.first = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 5, groups=8)
        self.third, self.fourth = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.in_front(torch.relu(self.norm(self.first(self.behind(x))))))
        x = self.shared(x)
        return self.third(x) + self.fourth(x)


def test_padding_goes_into_the_convolution_after_it() -> None:
    network, batch = Padded().eval(), torch.randn(2, 3, 20, 22)
    with torch.inference_mode():
        expected = network(batch)
        folded = fusion.fold(copy.deepcopy(network), pads=True)
        assert torch.allclose(folded(batch), expected, atol=1e-5)
        fused = fusion.fuse(folded, batch.contiguous(memory_format=torch.channels_last))
        assert torch.allclose(fused(batch), expected, atol=1e-5)
    assert isinstance(fused, torch.fx.GraphModule)
    called = {node.target for node in fused.graph.nodes if node.op == "call_module"}
    assert "behind" not in called
    assert {"in_front", "shared"} <= called
