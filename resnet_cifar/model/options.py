"""The network's options: its depth and width, and what its normalisation layers are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from resnet_cifar.errors import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


@dataclass
class ResNet18:
    """ResNet-18 for 32 × 32 images, `width` channels in the first stage."""

    NAME: ClassVar[str] = "resnet18"
    width: int

    def __post_init__(self) -> None:
        require(1 <= self.width <= 1024, "model.width", self.width, "1 to 1024")

    def build(self, norm: Callable[[int], nn.Module], classes: int) -> nn.Module:
        """The network: float [N, 3, 32, 32] to logits [N, classes]. `norm(channels)` is a layer."""
        from resnet_cifar.model.resnet import resnet18

        return resnet18(self.width, norm, classes)


DETACH = ("none", "mean", "var", "both")


@dataclass
class BatchNorm:
    """Batch normalisation; `detach` names the batch statistics the gradient does not pass."""

    NAME: ClassVar[str] = "batchnorm"
    detach: str
    eps: float
    momentum: float

    def __post_init__(self) -> None:
        require(self.detach in DETACH, "norm.detach", self.detach, "one of " + ", ".join(DETACH))
        require(0 < self.eps < 1, "norm.eps", self.eps, "above 0, below 1")
        require(0 < self.momentum <= 1, "norm.momentum", self.momentum, "above 0, at most 1")

    def check(self, width: int) -> None:
        """Any width will do."""

    def build(self, channels: int) -> nn.Module:
        """A layer for float [N, channels, H, W]."""
        from torch import nn

        from resnet_cifar.model.detached_batchnorm import DetachedBatchNorm2d

        if self.detach == "none":
            return nn.BatchNorm2d(channels, eps=self.eps, momentum=self.momentum)
        return DetachedBatchNorm2d(
            channels, detach=self.detach, eps=self.eps, momentum=self.momentum
        )


@dataclass
class GroupNorm:
    """Group normalisation over `groups` groups of channels."""

    NAME: ClassVar[str] = "groupnorm"
    groups: int
    eps: float

    def __post_init__(self) -> None:
        require(self.groups >= 1, "norm.groups", self.groups, "1 or more")
        require(0 < self.eps < 1, "norm.eps", self.eps, "above 0, below 1")

    def check(self, width: int) -> None:
        """Every stage's channels are a multiple of the width, so it is what must divide."""
        fits = width % self.groups == 0
        require(fits, "norm.groups", self.groups, f"a divisor of model.width={width}")

    def build(self, channels: int) -> nn.Module:
        """A layer for float [N, channels, H, W]."""
        from torch import nn

        return nn.GroupNorm(self.groups, channels, eps=self.eps)


@dataclass
class NoNorm:
    """No normalisation at all."""

    NAME: ClassVar[str] = "none"

    def check(self, width: int) -> None:
        """Any width will do."""

    def build(self, channels: int) -> nn.Module:
        """The identity."""
        from torch import nn

        return nn.Identity()
