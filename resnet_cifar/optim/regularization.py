"""Weight decay, label smoothing, clipped gradients, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from resnet_cifar.errors import require
from resnet_cifar.identity import added

if TYPE_CHECKING:
    from torch import Tensor, nn, optim
    from torch.amp.grad_scaler import GradScaler

    from resnet_cifar.optim.optimizer_step import OptimizerStep


@dataclass
class Regularization:
    """Weight decay on all parameters, or on those with more than one dimension; label smoothing;
    gradients clipped by their norm; weights averaged over the updates (`Average`), which training
    itself does not notice.
    """

    NAME: ClassVar[str] = "regularization"
    weight_decay: float
    decay_norm_and_bias: bool
    label_smoothing: float
    ema_decay: float = added(0.0)
    clip_norm: float = added(0.0)

    def __post_init__(self) -> None:
        for name, end, allowed in (
            ("weight_decay", math.inf, "a finite number, 0 or more"),
            ("label_smoothing", 1.0, "at least 0, below 1"),
            ("ema_decay", 1.0, "0 (no averaged weights) or more, below 1"),
            ("clip_norm", math.inf, "0 (no clipping) or a finite number above"),
        ):
            value = getattr(self, name)
            require(0 <= value < end, f"regularization.{name}", value, allowed)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Divide the model's parameters into optimizer groups, each with its weight_decay."""
        parameters = list(model.parameters())
        if self.decay_norm_and_bias:
            return [{"params": parameters, "weight_decay": self.weight_decay}]
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]

    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Build the loss: mean cross-entropy in nats.

        It takes logits [N, classes] and labels, int64 [N] or shares, float [N, classes].
        """
        from torch import nn

        return nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)

    def build_step(
        self, model: nn.Module, optimizer: optim.Optimizer, scaler: GradScaler | None = None
    ) -> OptimizerStep:
        """Build the update of `model` by `optimizer`: clipping and averaging around its step."""
        from resnet_cifar.optim.optimizer_step import Average, OptimizerStep

        average = Average(model, self.ema_decay) if self.ema_decay else None
        return OptimizerStep(optimizer, self.clip_norm, average, scaler)


OPTIONS: tuple[type[Regularization], ...] = (Regularization,)
