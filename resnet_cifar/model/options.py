"""The network's options: its depth, its width, its normalisation layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from resnet_cifar.errors import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


def training_flop(macs: int) -> int:
    """Count FLOP to train on an image whose forward pass takes `macs` multiply-accumulates."""
    return 3 * 2 * macs  # forward, gradient of the inputs, gradient of the weights


@dataclass
class Model(ABC):
    """A network for 32 × 32 images."""

    NAME: ClassVar[str]
    width: int  # channels of the first stage

    def __post_init__(self) -> None:
        require(1 <= self.width <= 1024, "model.width", self.width, "1 to 1024")

    @abstractmethod
    def build(self, norm: Callable[[int], nn.Module], classes: int) -> nn.Module:
        """Build the network [N, 3, 32, 32] to [N, classes]; norm(channels) makes a norm layer."""

    def multiply_accumulates(self, classes: int) -> int:
        """Count multiply-accumulates of one image's forward pass: convolutions and products.

        It counts on a network without values; an option that knows a formula needs no torch.
        """
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            network = self.build(lambda channels: torch.nn.Identity(), classes).eval()
            network(torch.zeros(1, 3, 32, 32))
        return int(counter.get_total_flops()) // 2


@dataclass
class ResNet(Model):
    """A residual network of basic blocks: He et al. 2016."""

    BLOCKS: ClassVar[tuple[int, int, int, int]]  # of each stage

    def build(self, norm: Callable[[int], nn.Module], classes: int) -> nn.Module:
        from resnet_cifar.model.resnet import ResNet

        return ResNet(self.width, self.BLOCKS, norm, classes)

    def multiply_accumulates(self, classes: int) -> int:
        positions, before = 32 * 32, self.width
        total = positions * 9 * 3 * before
        for stage, blocks in enumerate(self.BLOCKS):
            channels = self.width * 2**stage
            if stage:
                positions //= 4
                total += positions * before * channels  # the shortcut's projection
            total += positions * 9 * channels * (before + (2 * blocks - 1) * channels)
            before = channels
        return total + before * classes


@dataclass
class ResNet18(ResNet):
    """ResNet-18: 11,173,962 parameters at width 64, BatchNorm and 10 classes."""

    NAME: ClassVar[str] = "resnet18"
    BLOCKS: ClassVar[tuple[int, int, int, int]] = (2, 2, 2, 2)


@dataclass
class ResNet34(ResNet):
    """ResNet-34: 21,282,122 parameters at width 64, BatchNorm and 10 classes."""

    NAME: ClassVar[str] = "resnet34"
    BLOCKS: ClassVar[tuple[int, int, int, int]] = (3, 4, 6, 3)


DETACH = ("none", "mean", "var", "both")


@dataclass
class Norm(ABC):
    """Kind of the normalisation layers."""

    NAME: ClassVar[str]

    def check(self, width: int) -> None:  # noqa: B027 (most go with any width)
        """Raise ConfigError if stages of `width` channels, or of multiples, can't have it."""

    @abstractmethod
    def build(self, channels: int) -> nn.Module:
        """Build a layer for float [N, channels, H, W]."""


@dataclass
class BatchNorm(Norm):
    """Batch normalisation; `detach` names the batch statistics the gradient does not pass."""

    NAME: ClassVar[str] = "batchnorm"
    detach: str
    eps: float
    momentum: float

    def __post_init__(self) -> None:
        require(self.detach in DETACH, "norm.detach", self.detach, "one of " + ", ".join(DETACH))
        require(0 < self.eps < 1, "norm.eps", self.eps, "above 0, below 1")
        require(0 < self.momentum <= 1, "norm.momentum", self.momentum, "above 0, at most 1")

    def build(self, channels: int) -> nn.Module:
        from torch import nn

        from resnet_cifar.model.detached_batchnorm import DetachedBatchNorm2d

        if self.detach == "none":
            return nn.BatchNorm2d(channels, eps=self.eps, momentum=self.momentum)
        return DetachedBatchNorm2d(channels, self.detach, self.eps, self.momentum)


@dataclass
class GroupNorm(Norm):
    """Group normalisation over `groups` groups of channels."""

    NAME: ClassVar[str] = "groupnorm"
    groups: int
    eps: float

    def __post_init__(self) -> None:
        require(self.groups >= 1, "norm.groups", self.groups, "1 or more")
        require(0 < self.eps < 1, "norm.eps", self.eps, "above 0, below 1")

    def check(self, width: int) -> None:
        # They then divide every stage's, too.
        fits = width % self.groups == 0
        require(fits, "norm.groups", self.groups, f"a divisor of model.width={width}")

    def build(self, channels: int) -> nn.Module:
        from torch import nn

        return nn.GroupNorm(self.groups, channels, eps=self.eps)


@dataclass
class NoNorm(Norm):
    """No normalisation at all."""

    NAME: ClassVar[str] = "none"

    def build(self, channels: int) -> nn.Module:
        from torch import nn

        return nn.Identity()


OPTIONS: tuple[type[Model | Norm], ...] = (ResNet18, ResNet34, BatchNorm, GroupNorm, NoNorm)
