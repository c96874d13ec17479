"""The compiled path, by the part of the compiler that needs no GPU: what it makes graphs of."""

from __future__ import annotations

import itertools
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import TINY
from test_fake_cuda import NORMS
from torch import nn
from torch._dynamo.exc import Unsupported
from torch._dynamo.utils import counters

from resnet_cifar.compute import captured, device
from resnet_cifar.config.compose import compose
from resnet_cifar.model.options import BatchNorm, ResNet18
from resnet_cifar.training import run as run_module
from resnet_cifar.training.engine import Engine
from resnet_cifar.training.interrupt import Interrupt
from resnet_cifar.training.live import Display
from resnet_cifar.training.run import assemble

STEPS = 3  # of an epoch: two batches and a smaller one


@pytest.fixture(params=["", None], ids=["plain", "captured"])
def engine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Engine:
    """A compiled network of every norm there is, a layer each and then from the first again.

    The obstacle to capturing its steps is "", or there is none and the captured body is run.
    """
    norms = [compose(["model.width=32", norm]).norm for norm in NORMS]
    builders = itertools.cycle([norm.build for norm in norms])
    built: list[nn.Module] = []

    def build(_: BatchNorm, channels: int) -> nn.Module:
        built.append(next(builders)(channels))
        return built[-1]

    config = compose(
        [
            *TINY,
            "data.train_size=20",
            "model.width=32",
            "trainer.batch_size=8",
            "trainer.precision=bf16",
            "trainer.deterministic=false",
            "trainer.compile=true",
        ]
    )
    compiler = torch.compile

    def whole(model: nn.Module, mode: str, dynamic: bool) -> nn.Module:
        return compiler(model, backend="eager", fullgraph=True, dynamic=dynamic)

    with monkeypatch.context() as patch, Display("quiet") as display:
        patch.setattr(torch, "compile", whole)
        patch.setattr(BatchNorm, "build", build)
        patch.setattr(ResNet18, "BLOCKS", (2, 1))  # every kind of block
        patch.setattr(run_module, "Recorder", mock.MagicMock())
        patch.setattr(device, "matmul_rate", lambda _: 1e12)
        patch.setattr(captured, "obstacle", lambda *_: request.param)
        made = assemble(
            config,
            tmp_path / "none",
            device.resolve(config.trainer),
            config.data.load(),
            display,
            Interrupt(),
        )
    assert len(built) >= len(norms)
    torch._dynamo.reset()
    counters.clear()
    return made


def test_the_network_is_compiled_once(engine: Engine) -> None:
    """No break in a graph (that raises), and none for the smaller last batch or made again."""
    for epoch in (1, 2, 3):
        engine.train_epoch(epoch)
        engine.validate(epoch)
        engine.state.end_epoch()
        assert counters["stats"]["unique_graphs"] == 1, epoch
    assert engine.steps == STEPS
    assert not counters["graph_break"]


def test_a_break_would_be_seen(engine: Engine) -> None:
    for module in engine.state.model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, args, out: print(float(out.sum())))
    with pytest.raises(Unsupported):
        engine.train_epoch(1)
