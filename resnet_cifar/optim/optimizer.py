"""Optimizers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from resnet_cifar.errors import require

if TYPE_CHECKING:
    import torch


def _require_lr(lr: float) -> None:
    require(0 < lr < math.inf, "optimizer.lr", lr, "a finite number above 0")


@dataclass
class SGD:
    """Stochastic gradient descent with momentum, PyTorch's update rule:

    v ← momentum·v + (1 − dampening)(∇L + weight_decay·w),  w ← w − lr·v.
    """

    NAME: ClassVar[str] = "sgd"
    lr: float
    momentum: float
    dampening: float
    nesterov: bool

    def __post_init__(self) -> None:
        _require_lr(self.lr)
        allowed = "at least 0, below 1"
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, allowed)
        require(0 <= self.dampening < 1, "optimizer.dampening", self.dampening, allowed)
        possible = not self.nesterov or (self.momentum > 0 and self.dampening == 0)
        rule = "Nesterov needs optimizer.momentum above 0 and optimizer.dampening=0"
        require(possible, "optimizer.nesterov", self.nesterov, rule)

    def build(self, groups: list[dict[str, Any]], fused: bool = True) -> torch.optim.Optimizer:
        """An optimizer over parameter groups that carry their own weight_decay."""
        import torch

        return torch.optim.SGD(
            groups,
            lr=self.lr,
            momentum=self.momentum,
            dampening=self.dampening,
            nesterov=self.nesterov,
            fused=fused,
        )


@dataclass
class AdamW:
    """AdamW (Loshchilov & Hutter 2019, "Decoupled weight decay regularization")."""

    NAME: ClassVar[str] = "adamw"
    lr: float
    beta1: float
    beta2: float
    eps: float

    def __post_init__(self) -> None:
        _require_lr(self.lr)
        require(0 <= self.beta1 < 1, "optimizer.beta1", self.beta1, "at least 0, below 1")
        require(0 <= self.beta2 < 1, "optimizer.beta2", self.beta2, "at least 0, below 1")
        require(0 < self.eps < 1, "optimizer.eps", self.eps, "above 0, below 1")

    def build(self, groups: list[dict[str, Any]], fused: bool = True) -> torch.optim.Optimizer:
        """An optimizer over parameter groups that carry their own weight_decay."""
        import torch

        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(groups, lr=self.lr, betas=betas, eps=self.eps, fused=fused)
