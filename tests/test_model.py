"""The network: size, arithmetic, shape."""

import pytest
import torch
from torch import nn

from resnet_cifar.config.compose import compose
from resnet_cifar.model.options import ResNet18


def test_the_studys_network() -> None:
    config = compose([])
    model = config.model.build(config.norm.build, 10)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    assert config.multiply_accumulates() == 555_422_720
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 20
    assert all(m.bias is None for m in model.modules() if isinstance(m, nn.Conv2d))


def test_detached_norm_replaces_every_norm() -> None:
    config = compose(["norm=detached_batchnorm", "model.width=4"])
    model = config.model.build(config.norm.build, 10)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert all(norm.detach == "both" for norm in norms)


def test_stages_halve_the_image() -> None:
    net = ResNet18(4).build(nn.BatchNorm2d, 10)
    shapes = []
    for stage in net.stages:
        stage.register_forward_hook(lambda m, x, out: shapes.append(tuple(out.shape[1:])))
    logits = net(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert shapes == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]


@pytest.mark.parametrize("width", [1, 3, 16])
def test_any_width(width: int) -> None:
    assert ResNet18(width).build(nn.BatchNorm2d, 7)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
