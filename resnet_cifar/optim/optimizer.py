"""Optimizers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from resnet_cifar.errors import require

if TYPE_CHECKING:
    import torch


@dataclass
class Optimizer(ABC):
    """Rule by which gradients update the weights."""

    NAME: ClassVar[str]
    lr: float  # of parameter groups without a rate of their own

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, "optimizer.lr", self.lr, "a finite number above 0")

    @abstractmethod
    def build(self, groups: list[dict[str, Any]], fused: bool = True) -> torch.optim.Optimizer:
        """Build the optimizer over parameter groups that carry their own weight_decay."""


@dataclass
class SGD(Optimizer):
    """Stochastic gradient descent with momentum, PyTorch's update rule:

    v ← momentum·v + (1 − dampening)(∇L + weight_decay·w),  w ← w − lr·v.
    """

    NAME: ClassVar[str] = "sgd"
    momentum: float
    dampening: float
    nesterov: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = "at least 0, below 1"
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, allowed)
        require(0 <= self.dampening < 1, "optimizer.dampening", self.dampening, allowed)
        possible = not self.nesterov or (self.momentum > 0 and self.dampening == 0)
        rule = "false, or optimizer.momentum above 0 and optimizer.dampening=0"
        require(possible, "optimizer.nesterov", self.nesterov, rule)

    def build(self, groups: list[dict[str, Any]], fused: bool = True) -> torch.optim.Optimizer:
        import torch

        rule: Any = {"dampening": self.dampening, "nesterov": self.nesterov, "fused": fused}
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, **rule)


@dataclass
class AdamW(Optimizer):
    """AdamW (Loshchilov & Hutter 2019, "Decoupled weight decay regularization")."""

    NAME: ClassVar[str] = "adamw"
    beta1: float
    beta2: float
    eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.beta1 < 1, "optimizer.beta1", self.beta1, "at least 0, below 1")
        require(0 <= self.beta2 < 1, "optimizer.beta2", self.beta2, "at least 0, below 1")
        require(0 < self.eps < 1, "optimizer.eps", self.eps, "above 0, below 1")

    def build(self, groups: list[dict[str, Any]], fused: bool = True) -> torch.optim.Optimizer:
        import torch

        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(groups, lr=self.lr, betas=betas, eps=self.eps, fused=fused)


OPTIONS: tuple[type[Optimizer], ...] = (SGD, AdamW)
