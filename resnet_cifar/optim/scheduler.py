"""Learning-rate schedules: plain functions of the update number, so that they can be plotted.

`Scheduler.build(lr, epochs, steps_per_epoch)` returns `schedule(step) -> rate` for the updates
0 … epochs · steps_per_epoch − 1. People configure epochs; code counts steps.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from resnet_cifar.errors import require

Schedule = Callable[[int], float]


@dataclass
class Scheduler(ABC):
    """Learning rate over the updates of a run: a linear warm-up times an option's own shape."""

    NAME: ClassVar[str]
    warmup_epochs: float

    def __post_init__(self) -> None:
        warmup = self.warmup_epochs
        require(0 <= warmup < math.inf, "scheduler.warmup_epochs", warmup, "0 or more")

    def build(self, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        """Build the schedule of a parameter group whose own rate is `lr`, warm-up included."""
        shape = self.shape(lr, epochs, steps_per_epoch)
        steps = round(self.warmup_epochs * steps_per_epoch)
        # step + 1: the first update has a rate above 0 already.
        return lambda step: shape(step) * min(1.0, (step + 1) / steps if steps else 1.0)

    @abstractmethod
    def shape(self, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        """Build the schedule of a group whose own rate is `lr`, without the warm-up."""


@dataclass
class Constant(Scheduler):
    """η = lr."""

    NAME: ClassVar[str] = "constant"

    def shape(self, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        return lambda step: lr


@dataclass
class Cosine(Scheduler):
    """η = η_min + ½ (lr − η_min)(1 + cos(π · epoch / epochs)), constant within an epoch."""

    NAME: ClassVar[str] = "cosine"
    eta_min: float

    def __post_init__(self) -> None:
        require(0 <= self.eta_min < math.inf, "scheduler.eta_min", self.eta_min, "0 or more")
        super().__post_init__()

    def shape(self, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        def schedule(step: int) -> float:
            # By whole epochs: the study's scheduler steps once an epoch.
            angle = math.pi * (step // steps_per_epoch) / epochs
            return self.eta_min + 0.5 * (lr - self.eta_min) * (1 + math.cos(angle))

        return schedule


@dataclass
class Step(Scheduler):
    """η = lr · gamma^(epoch // step_size)."""

    NAME: ClassVar[str] = "step"
    step_size: int
    gamma: float

    def __post_init__(self) -> None:
        require(self.step_size >= 1, "scheduler.step_size", self.step_size, "1 or more (epochs)")
        require(0 < self.gamma <= 1, "scheduler.gamma", self.gamma, "above 0, at most 1")
        super().__post_init__()

    def shape(self, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        return lambda step: lr * self.gamma ** (step // steps_per_epoch // self.step_size)


@dataclass
class Milestones(Scheduler):
    """η = lr · factor^(milestones passed): torch.optim.lr_scheduler.MultiStepLR."""

    NAME: ClassVar[str] = "milestones"
    milestones: list[int]
    factor: float

    def __post_init__(self) -> None:
        epochs = self.milestones
        rising = all(a < b for a, b in zip([0, *epochs], epochs, strict=False))
        rule = "whole numbers of epochs, rising, such as [150,225]"
        require(bool(epochs) and rising, "scheduler.milestones", epochs, rule)
        require(0 < self.factor <= 1, "scheduler.factor", self.factor, "above 0, at most 1")
        super().__post_init__()

    def shape(self, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        passed = partial(bisect_right, self.milestones)
        return lambda step: lr * self.factor ** passed(step // steps_per_epoch)


@dataclass
class OneCycle(Scheduler):
    """Rise from lr / div_factor to lr over pct_start of the run, then fall; both along cosines.

    The learning rate of torch.optim.lr_scheduler.OneCycleLR with cycle_momentum=False.
    """

    NAME: ClassVar[str] = "one_cycle"
    pct_start: float
    div_factor: float
    final_div_factor: float

    def __post_init__(self) -> None:
        part = self.pct_start
        require(0 < part < 1, "scheduler.pct_start", part, "above 0, below 1")
        for name in ("div_factor", "final_div_factor"):
            value = getattr(self, name)
            require(1 <= value < math.inf, f"scheduler.{name}", value, "1 or more")
        super().__post_init__()

    def shape(self, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        end_of_run = epochs * steps_per_epoch - 1  # the last update, which has the lowest rate
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

        return schedule


OPTIONS: tuple[type[Scheduler], ...] = (Constant, Cosine, Step, Milestones, OneCycle)
