"""The training loop: epochs of steps, validation, records, checkpoints. It knows no YAML."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_cifar.data.augmentation import (
    Draws,
    clean,
    probe_draws,
    training_draws,
    validation_draws,
)
from resnet_cifar.data.images import DeviceImages
from resnet_cifar.device import Compute, full_float32
from resnet_cifar.display import Display
from resnet_cifar.errors import Interrupted
from resnet_cifar.interrupt import Interrupt
from resnet_cifar.optim.scheduler import Schedule
from resnet_cifar.probe import gradient_flow
from resnet_cifar.probe.options import Probe
from resnet_cifar.record import checkpoint
from resnet_cifar.record.recorder import Recorder
from resnet_cifar.record.run_files import OBJECTIVE, finite


@dataclass(frozen=True)
class Plan:
    """What is fixed before the first step."""

    epochs: int
    batch_size: int
    seed: int
    flip_probability: float
    schedule: Schedule
    augmented_val_every: int
    checkpoint_epochs: int
    checkpoint_seconds: float
    eval_batch_size: int
    histogram_epochs: int
    val_index: np.ndarray  # int64 [n], for predictions.npz
    classes: tuple[str, ...]  # their names


@dataclass
class State:
    """What training changes, and what a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    totals: Tensor  # float64 [2] on the device: this epoch's summed loss and correct images so far
    rotations: Tensor  # this epoch's measured rotations so far: gradient_flow.rotations
    epoch: int = 0  # epochs completed
    step: int = 0  # updates made in the epoch after those
    best: dict[str, Any] | None = None
    labels: dict[str, Any] = field(default_factory=dict)  # cell and seed, to know the file by

    def dump(self) -> dict[str, Any]:
        """Plain containers and tensors: loads with weights_only=True."""
        return {
            **self.labels,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "totals": self.totals,
            "rotations": self.rotations,
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
        }

    def dump_weights(self) -> dict[str, Any]:
        return {
            **self.labels,
            "model": self.model.state_dict(),
            "epoch": self.epoch,
            "best": self.best,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        if "optimizer" in saved:  # a finished run's checkpoint has weights alone
            self.optimizer.load_state_dict(saved["optimizer"])
            self.totals.copy_(saved["totals"])
            if "rotations" in saved:  # not in the checkpoints of earlier versions
                self.rotations.copy_(saved["rotations"])
        self.epoch, self.step, self.best = saved["epoch"], saved.get("step", 0), saved["best"]


@dataclass
class Engine:
    """A run in memory. `fit()` trains it to its end."""

    plan: Plan
    probe: Probe
    state: State
    forward: Callable[[Tensor], Tensor]  # the model, or the compiled model
    loss: Callable[[Tensor, Tensor], Tensor]
    train: DeviceImages
    val: DeviceImages
    compute: Compute
    directory: Path
    recorder: Recorder
    display: Display
    interrupt: Interrupt
    _saved_at: float = field(default_factory=time.monotonic)

    @property
    def steps(self) -> int:
        """Updates in an epoch; the last batch may be smaller."""
        return math.ceil(len(self.train) / self.plan.batch_size)

    def fit(self) -> str:
        """Train from where the state is to the last epoch.

        Returns:
            "completed" or "diverged".

        Raises:
            Interrupted: a signal came; the state is in last.pt.
        """
        self.display.start(self.plan.epochs, self.steps)
        while self.state.epoch < self.plan.epochs:
            start = time.perf_counter()
            epoch = self.state.epoch + 1
            metrics = {"epoch": epoch, **self.train_epoch(epoch)}
            if not math.isfinite(metrics["loss/train"]):
                self.recorder.epoch(metrics)
                self.recorder.progress(epoch, self.state.best)
                return "diverged"
            metrics |= self.validate(epoch)
            if self.probe.due(epoch, self.plan.epochs):
                metrics |= self.examine(epoch)
            metrics["speed/epoch_seconds"] = time.perf_counter() - start
            self.finish_epoch(epoch, metrics)
        checkpoint.save(self.directory / checkpoint.LAST, self.state.dump_weights())
        (self.directory / checkpoint.PREVIOUS).unlink(missing_ok=True)
        return "completed"

    def train_epoch(self, epoch: int) -> dict[str, Any]:
        """The remaining steps of an epoch; its training metrics. One host sync, at the end."""
        plan, state = self.plan, self.state
        start, first = time.perf_counter(), state.step
        draws = training_draws(
            plan.seed, epoch, len(self.train), self.train.padding, plan.flip_probability
        ).to(self.compute.device)
        state.model.train()
        measured = self._measured_steps(epoch)
        try:
            for step in range(first, self.steps):
                with self._rotating() if step in measured else contextlib.nullcontext():
                    self.step(draws, step, plan.schedule((epoch - 1) * self.steps + step))
                state.step = step + 1
                self._show(epoch, first, start)
                self._stop_or_save()
            loss, correct = (state.totals / len(self.train)).tolist()
        finally:
            seconds = time.perf_counter() - start
            images = min(state.step * plan.batch_size, len(self.train)) - first * plan.batch_size
            self.recorder.trained(max(0, images), seconds)
        return {
            "step": epoch * self.steps,
            "accuracy/train": correct,
            "loss/train": loss,
            "lr": plan.schedule(epoch * self.steps - 1),
            "speed/images_per_second": max(0, images) / seconds,
        }

    def step(self, draws: Draws, step: int, lr: float) -> None:
        """One update. Nothing in it waits for the device."""
        state, size = self.state, self.plan.batch_size
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        x, y = self.train.batch(draws, step * size, (step + 1) * size)
        loss, logits = update(x, y, self.forward, self.loss, state.optimizer, self.compute)
        state.totals[0] += loss * len(y)
        state.totals[1] += (logits.argmax(1) == y).sum()

    def validate(self, epoch: int) -> dict[str, Any]:
        """Validation in the clean view, and in the augmented one when it is due."""
        last = epoch == self.plan.epochs
        n, padding = len(self.val), self.val.padding
        views = {"val": clean(n, padding)}
        if last or epoch % self.plan.augmented_val_every == 0:
            views["val_augmented"] = validation_draws(
                self.plan.seed, epoch, n, padding, self.plan.flip_probability
            )
        logits = {
            view: predict(
                self.state.model,
                self.val,
                draws,
                self.compute,
                self.plan.eval_batch_size,
                self._stop,
            )
            for view, draws in views.items()
        }
        if last:
            plan, val = self.plan, self.val
            self.recorder.predictions(
                logits, val.labels, plan.val_index, val.pixels(), plan.classes
            )
        metrics: dict[str, Any] = {}
        for view, values in logits.items():
            metrics |= {f"{k}/{view}": v for k, v in score(values, self.val.labels).items()}
        return metrics

    def examine(self, epoch: int) -> dict[str, Any]:
        """Probe the network as the epoch left it: rows to the record, metrics returned."""
        start = time.perf_counter()
        plan, state, probe = self.plan, self.state, self.probe
        draws = probe_draws(plan.seed, len(self.train), self.train.padding, plan.flip_probability)
        x, y = self.train.batch(draws.to(self.compute.device), 0, probe.images)
        with full_float32():
            rows = gradient_flow.inspect(state.model, x, y, self.loss)
        steps = self._measured_steps(epoch)
        lr = sum(plan.schedule((epoch - 1) * self.steps + step) for step in steps) / len(steps)
        turned = gradient_flow.angular_updates(state.model, state.optimizer, state.rotations, lr)
        batchnorm = any(row["kind"] == "norm" for row in rows)
        metrics = self._validate_with_batch_statistics() if batchnorm else {}
        where = {"epoch": epoch, "step": epoch * self.steps}
        self.recorder.probe([where | row | turned.get(row["layer"], {}) for row in rows])
        return {**metrics, "speed/probe_seconds": time.perf_counter() - start}

    def _validate_with_batch_statistics(self) -> dict[str, float]:
        """Clean validation, normalised as in training: batches about as large, their statistics.

        Where `loss/val` is large and this is not, it is the running statistics that lag.
        """
        images = min(self.probe.val_images, len(self.val))
        size = math.ceil(images / math.ceil(images / self.plan.batch_size))  # no small last batch
        draws = Draws(*(part[:images] for part in clean(len(self.val), self.val.padding)))
        model = copy.deepcopy(self.state.model)  # in training mode it moves its running statistics
        logits = predict(model, self.val, draws, self.compute, size, self._stop, training=True)
        scores = score(logits, self.val.labels[:images])
        return {f"{name}/val_batch_statistics": value for name, value in scores.items()}

    def _measured_steps(self, epoch: int) -> list[int]:
        due = self.probe.due(epoch, self.plan.epochs)
        return self.probe.measured_steps(self.steps) if due else []

    def _rotating(self) -> contextlib.AbstractContextManager[None]:
        return gradient_flow.rotating(self.state.model, self.state.rotations)

    def finish_epoch(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Record first, then move the state to the next epoch and save it when due."""
        state, plan = self.state, self.plan
        self.recorder.epoch(metrics)
        if plan.histogram_epochs and epoch % plan.histogram_epochs == 0:
            self.recorder.histograms(state.model, epoch)
        state.epoch, state.step = epoch, 0
        state.totals.zero_()
        state.rotations.zero_()
        improved = state.best is None or metrics[OBJECTIVE] > state.best[OBJECTIVE]
        if improved:
            state.best = {"epoch": epoch, **{k: metrics[k] for k in (OBJECTIVE, "loss/val")}}
            state.best = finite(state.best)
        overdue = time.monotonic() - self._saved_at > plan.checkpoint_seconds
        # Always when it improved, before best.pt: so best.pt never comes from an epoch that a
        # resume would train again.
        if improved or overdue or epoch % plan.checkpoint_epochs == 0 or epoch == plan.epochs:
            self.save()
        if improved:
            checkpoint.save(self.directory / checkpoint.BEST, state.dump_weights())
        self.recorder.progress(epoch, state.best)
        self.display.epoch(epoch_line(metrics, plan.epochs))

    def save(self) -> None:
        """Write last.pt, keeping the one before."""
        state = {**self.state.dump(), "digests": self.recorder.digests()}
        checkpoint.save_last(self.directory, state)
        self._saved_at = time.monotonic()

    def _stop(self) -> None:
        if self.interrupt.signal is not None:
            self.save()
            raise Interrupted(self.interrupt.signal)

    def _stop_or_save(self) -> None:
        self._stop()
        if time.monotonic() - self._saved_at > self.plan.checkpoint_seconds:
            self.save()

    def _show(self, epoch: int, first: int, start: float) -> None:
        steps = self.state.step - first
        rate = steps / (time.perf_counter() - start)
        left = (self.plan.epochs - epoch + 1) * self.steps - self.state.step
        self.display.step(epoch, self.state.step, rate * self.plan.batch_size, left / rate)


def update(
    x: Tensor,
    y: Tensor,
    forward: Callable[[Tensor], Tensor],
    loss_function: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    compute: Compute,
) -> tuple[Tensor, Tensor]:
    """Forward, backward, optimizer step on images [n, 3, 32, 32] and labels [n].

    Returns:
        The batch's loss [] and logits [n, classes], without a graph, still on their way.
    """
    with compute.autocast():
        logits = forward(x)
        loss = loss_function(logits, y)
    torch.autograd.backward(loss)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach(), logits.detach()


@torch.inference_mode()
def predict(
    model: nn.Module,
    images: DeviceImages,
    draws: Draws,
    compute: Compute,
    batch_size: int,
    between: Callable[[], None] = lambda: None,
    training: bool = False,
) -> Tensor:
    """Logits float32 [n, classes] of a view, in evaluation mode.

    Args:
        between: called after every batch; it may raise to stop.
        training: in training mode instead, which changes the model's running statistics.
    """
    model.train(training)
    draws = draws.to(compute.device)
    parts = []
    for start in range(0, len(draws.order), batch_size):
        x, _ = images.batch(draws, start, start + batch_size)
        with compute.autocast():
            parts.append(model(x).float())
        between()
    return torch.cat(parts)


def score(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy (a fraction) and mean cross-entropy (nats) of logits [n, classes]."""
    loss = F.cross_entropy(logits.double(), labels)
    accuracy = (logits.argmax(1) == labels).double().mean()
    return {"accuracy": accuracy.item(), "loss": loss.item()}


def epoch_line(metrics: dict[str, Any], epochs: int) -> str:
    """An epoch for people: per cent."""
    width = len(str(epochs))
    parts = [
        f"epoch {metrics['epoch']:>{width}}/{epochs}",
        f"train {100 * metrics['accuracy/train']:6.2f} % {metrics['loss/train']:7.4f}",
        f"val {100 * metrics['accuracy/val']:6.2f} % {metrics['loss/val']:7.4f}",
    ]
    if "accuracy/val_augmented" in metrics:
        augmented = metrics["accuracy/val_augmented"], metrics["loss/val_augmented"]
        parts.append(f"augmented {100 * augmented[0]:6.2f} % {augmented[1]:7.4f}")
    parts.append(f"lr {metrics['lr']:.4g}")
    parts.append(f"{metrics['speed/images_per_second']:,.0f} images/s")
    return "  ".join(parts)
