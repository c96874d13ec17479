"""Weight decay and label smoothing: what the optimizer and the loss are told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from resnet_cifar.errors import require

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass
class Regularization:
    """Weight decay on all parameters, or on those with more than one dimension; label smoothing."""

    NAME: ClassVar[str] = "regularization"
    weight_decay: float
    decay_norm_and_bias: bool
    label_smoothing: float

    def __post_init__(self) -> None:
        decay, smoothing = self.weight_decay, self.label_smoothing
        key = "regularization.weight_decay"
        require(0 <= decay < math.inf, key, decay, "a finite number, 0 or more")
        key = "regularization.label_smoothing"
        require(0 <= smoothing < 1, key, smoothing, "at least 0, below 1")

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The model's parameters as optimizer groups, each with its weight_decay."""
        parameters = list(model.parameters())
        if self.decay_norm_and_bias:
            return [{"params": parameters, "weight_decay": self.weight_decay}]
        matrices = [p for p in parameters if p.ndim > 1]
        vectors = [p for p in parameters if p.ndim <= 1]
        return [
            {"params": matrices, "weight_decay": self.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]

    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Mean cross-entropy of logits [N, classes] and labels int64 [N], in nats."""
        from torch import nn

        return nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)


OPTIONS: tuple[type[Regularization], ...] = (Regularization,)
