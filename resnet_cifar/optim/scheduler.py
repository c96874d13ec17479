"""Learning-rate schedules: plain functions of the update number, so that they can be plotted.

`build(lr, epochs, steps_per_epoch)` returns `schedule(step) -> learning rate` for the updates
0 … epochs · steps_per_epoch − 1. People configure epochs; code counts steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from resnet_cifar.errors import require

Schedule = Callable[[int], float]


def _require_warmup(epochs: float) -> None:
    require(0 <= epochs < math.inf, "scheduler.warmup_epochs", epochs, "0 or more")


def _with_warmup(schedule: Schedule, warmup_epochs: float, steps_per_epoch: int) -> Schedule:
    """`schedule`, scaled by a factor that rises linearly to 1 over the first updates."""
    steps = round(warmup_epochs * steps_per_epoch)
    return lambda step: schedule(step) * min(1.0, (step + 1) / steps if steps else 1.0)


@dataclass
class Constant:
    """η = lr."""

    NAME: ClassVar[str] = "constant"
    warmup_epochs: float

    def __post_init__(self) -> None:
        _require_warmup(self.warmup_epochs)

    def build(self, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        return _with_warmup(lambda step: lr, self.warmup_epochs, steps_per_epoch)


@dataclass
class Cosine:
    """η = η_min + ½ (lr − η_min)(1 + cos(π · epoch / epochs)), constant within an epoch."""

    NAME: ClassVar[str] = "cosine"
    eta_min: float
    warmup_epochs: float

    def __post_init__(self) -> None:
        require(0 <= self.eta_min < math.inf, "scheduler.eta_min", self.eta_min, "0 or more")
        _require_warmup(self.warmup_epochs)

    def build(self, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        def schedule(step: int) -> float:
            angle = math.pi * (step // steps_per_epoch) / epochs
            return self.eta_min + 0.5 * (lr - self.eta_min) * (1 + math.cos(angle))

        return _with_warmup(schedule, self.warmup_epochs, steps_per_epoch)


@dataclass
class Step:
    """η = lr · gamma^(epoch // step_size)."""

    NAME: ClassVar[str] = "step"
    step_size: int
    gamma: float
    warmup_epochs: float

    def __post_init__(self) -> None:
        require(self.step_size >= 1, "scheduler.step_size", self.step_size, "1 or more (epochs)")
        require(0 < self.gamma <= 1, "scheduler.gamma", self.gamma, "above 0, at most 1")
        _require_warmup(self.warmup_epochs)

    def build(self, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        def schedule(step: int) -> float:
            return lr * self.gamma ** (step // steps_per_epoch // self.step_size)

        return _with_warmup(schedule, self.warmup_epochs, steps_per_epoch)


@dataclass
class OneCycle:
    """Rise from lr / div_factor to lr over pct_start of the run, then fall; both along cosines.

    The learning rate of torch.optim.lr_scheduler.OneCycleLR with cycle_momentum=False.
    """

    NAME: ClassVar[str] = "one_cycle"
    pct_start: float
    div_factor: float
    final_div_factor: float
    warmup_epochs: float

    def __post_init__(self) -> None:
        inside = 0 < self.pct_start < 1
        require(inside, "scheduler.pct_start", self.pct_start, "above 0, below 1")
        for name in ("div_factor", "final_div_factor"):
            value = getattr(self, name)
            require(1 <= value < math.inf, f"scheduler.{name}", value, "1 or more")
        _require_warmup(self.warmup_epochs)

    def build(self, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        end_of_run = epochs * steps_per_epoch - 1
        peak = self.pct_start * (end_of_run + 1) - 1
        first = lr / self.div_factor
        last = first / self.final_div_factor

        def schedule(step: int) -> float:
            if step > peak:
                start, end, part = lr, last, (step - peak) / (end_of_run - peak)
            elif peak > 0:
                start, end, part = first, lr, step / peak
            else:  # the first update is the peak: PyTorch divides by zero here
                return lr
            return end + (start - end) / 2 * (1 + math.cos(math.pi * part))

        return _with_warmup(schedule, self.warmup_epochs, steps_per_epoch)
