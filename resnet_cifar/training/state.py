"""The state of training: what changes, and what a checkpoint holds."""

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from resnet_cifar.compute.epoch_sums import EpochSums
from resnet_cifar.model.batch_counts import BatchCounts
from resnet_cifar.optim.optimizer_step import OptimizerStep
from resnet_cifar.record.checkpoint import compare_weights
from resnet_cifar.record.schema import RunRecord


@dataclass
class State:
    """Everything that training changes. Whatever is not here is a function of the configuration.

    So no random generator is: an epoch's draws follow from (seed, stream, epoch) alone.
    """

    model: nn.Module
    optimizer_step: OptimizerStep
    epoch_sums: EpochSums  # summed loss and correct images of this epoch's updates so far
    rotations: Tensor  # the probe's sums of this epoch so far: gradient_flow.empty_rotations
    steps: int  # updates of an epoch
    record: RunRecord  # whose cell and seed a checkpoint is known by
    epoch: int = 0  # epochs completed
    step: int = 0  # updates made in the epoch after those
    best: dict[str, Any] | None = None  # metrics of the best epoch so far
    best_weights: dict[str, Any] = field(default_factory=dict)  # what best.pt has of it

    def __post_init__(self) -> None:
        self.batch_counts = BatchCounts(self.model)

    def dump(self) -> dict[str, Any]:
        """Return all of it as plain containers and tensors, which load with weights_only=True."""
        # At the end of the best epoch the same tensors serve twice: they are written once.
        best, now = self.best_weights, (self.epoch, self.step)
        return {
            **self.optimizer_step.dump(),
            **(best if (best.get("epoch"), 0) == now else self.dump_weights()),
            "best_weights": best,
            "totals": self.epoch_sums.totals(self.step),
            "rotations": self.rotations,
            "step": self.step,
        }

    def dump_weights(self) -> dict[str, Any]:
        """Return what is kept of a finished run: weights, no optimizer."""
        with self.batch_counts.after(self.epoch * self.steps + self.step):
            model = self.model.state_dict()
        return {
            "cell": self.record.cell,
            "seed": self.record.seed,
            "model": model,
            **self.optimizer_step.dump_weights(),
            "epoch": self.epoch,
            "best": self.best,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from what `dump` or `dump_weights` returned. Raises ValueError, and as torch."""
        with self.batch_counts.after(0):
            weights = {"model": self.model.state_dict(), **self.optimizer_step.dump_weights()}
            compare_weights(saved, weights)
            if best_weights := saved.get("best_weights", {}):
                compare_weights(best_weights, weights)
            self.model.load_state_dict(saved["model"])
        self.optimizer_step.restore(saved)
        if "optimizer" in saved:  # a finished run's checkpoint has weights alone
            self.epoch_sums.restore(saved["totals"], saved["step"])
            if "rotations" in saved:
                self.rotations.copy_(saved["rotations"])
        self.epoch, self.step = now = saved["epoch"], saved.get("step", 0)
        self.best, self.best_weights = saved["best"], best_weights
        # Earlier versions left them in best.pt alone, and were perhaps killed before they did.
        if not best_weights and self.best and (self.best["epoch"], 0) == now:
            self.keep_best(self.best)

    def keep_best(self, metrics: dict[str, Any]) -> None:
        """Take the epoch that has just ended, of these `metrics`, for the best one so far."""
        self.best = metrics
        self.best_weights = copy.deepcopy(self.dump_weights())

    def end_epoch(self) -> None:
        """Move on to the next epoch, whose sums begin at zero."""
        self.epoch, self.step = self.epoch + 1, 0
        self.epoch_sums.clear()
        self.rotations.zero_()
        self.optimizer_step.end_epoch()
