"""The network's options."""

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
        from resnet_cifar.resnet import resnet18

        return resnet18(self.width, norm, classes)
