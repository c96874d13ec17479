"""The training loop: epochs of steps, validation, records, checkpoints. It knows no YAML."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from resnet_cifar.compute.device import Compute
from resnet_cifar.compute.options import Trainer
from resnet_cifar.compute.step import hits, predict, score_views, update
from resnet_cifar.data.augmentation import TRAINING, VALIDATION, Draws
from resnet_cifar.data.images import DeviceImages, View
from resnet_cifar.errors import Interrupted
from resnet_cifar.optim.scheduler import Schedule
from resnet_cifar.probe.gradient_flow import GradientFlow
from resnet_cifar.record import checkpoint
from resnet_cifar.record.layout import BEST, LAST, PREVIOUS
from resnet_cifar.record.recorder import Recorder
from resnet_cifar.record.schema import OBJECTIVE, finite
from resnet_cifar.training.interrupt import Interrupt
from resnet_cifar.training.live import Display
from resnet_cifar.training.notes import epoch_line
from resnet_cifar.training.state import State


@dataclass
class Engine:
    """A run in memory. `fit()` trains it to its end."""

    options: Trainer
    seed: int
    state: State
    forward: Callable[[Tensor], Tensor]  # the model, or the compiled model
    loss: Callable[[Tensor, Tensor], Tensor]
    schedules: Sequence[Schedule]  # of each parameter group
    train: DeviceImages
    val: DeviceImages
    classes: Sequence[str]  # their names
    probe: GradientFlow
    compute: Compute
    directory: Path
    recorder: Recorder
    display: Display
    interrupt: Interrupt
    _saved_at: float = field(default_factory=time.monotonic)

    @property
    def steps(self) -> int:
        """Updates in an epoch; the last batch may be smaller."""
        return math.ceil(len(self.train) / self.options.batch_size)

    def fit(self) -> str:
        """Train from where the state is to the last epoch.

        Returns:
            "completed", or "diverged" when a loss is no longer finite.

        Raises:
            Interrupted: a signal came; the state is in last.pt.
        """
        epochs = self.options.epochs
        self.display.start(epochs, self.steps)
        if self.state.epoch and (lost := checkpoint.keep_best(self.directory, self.state.dump())):
            self.display.say(lost)
        logits: dict[str, Tensor] | None = None
        while self.state.epoch < epochs:
            start = time.perf_counter()
            epoch = self.state.epoch + 1
            metrics = {"epoch": epoch, **self.train_epoch(epoch)}
            if losses_are_finite(metrics):
                logits = self.validate(epoch)
                metrics |= score_views(logits, self.val.labels)
            if losses_are_finite(metrics) and self.probe.due(epoch):
                metrics |= self.examine(epoch)
            if not losses_are_finite(metrics):
                self.recorder.epoch(metrics)
                self.recorder.progress(epoch, self.state.best)
                return "diverged"
            metrics["speed/epoch_seconds"] = time.perf_counter() - start
            self.finish_epoch(epoch, metrics)
        self.finish(logits)
        return "completed"

    def finish(self, logits: dict[str, Tensor] | None) -> None:
        """What a finished run must have, also where a kill kept an earlier process from it."""
        state, val = self.state, self.val
        found = logits or self.validate(state.epoch)
        self.recorder.predictions(found, val.labels, val.positions, val.pixels(), self.classes)
        checkpoint.save(self.directory / LAST, state.dump_weights())
        (self.directory / PREVIOUS).unlink(missing_ok=True)
        self.recorder.progress(state.epoch, state.best)

    def train_epoch(self, epoch: int) -> dict[str, Any]:
        """The remaining steps of an epoch; its metrics. Waits for the device at the end alone."""
        state, size = self.state, self.options.batch_size
        start, first = time.perf_counter(), state.step
        draws = self.train.augmentation.draws(self.seed, TRAINING, epoch, len(self.train))
        view = self.train.view(draws)
        state.model.train()
        try:
            for step in range(first, self.steps):
                with self.probe.watch(epoch, step):
                    self.step(view, step, (epoch - 1) * self.steps + step)
                state.step = step + 1
                self._show(epoch, first, start)
                self._stop_or_save()
            loss, correct = (total / len(self.train) for total in state.tally.read(self.steps))
        finally:
            seconds = time.perf_counter() - start
            images = max(0, min(state.step * size, len(self.train)) - first * size)
            self.recorder.trained(images, seconds)
        return {
            "step": epoch * self.steps,
            "accuracy/train": correct,
            "loss/train": loss,
            **state.descent.metrics(),
            "lr": self.schedules[0](epoch * self.steps - 1),
            # None where only the validation of the epoch was left to do.
            "speed/images_per_second": images / seconds if images else None,
        }

    def step(self, view: View, step: int, of_run: int) -> None:
        """Update `step` of an epoch, `of_run` of the run. Nothing in it waits for the device."""
        state, size = self.state, self.options.batch_size
        groups = state.descent.optimizer.param_groups
        for group, schedule in zip(groups, self.schedules, strict=True):
            group["lr"] = schedule(of_run)
        x, y = self.train.batch(view, step * size, (step + 1) * size)
        loss, logits = update(x, y, self.forward, self.loss, state.descent, self.compute)
        state.tally.keep(step, loss, hits(logits, y))

    def validate(self, epoch: int) -> dict[str, Tensor]:
        """Logits float32 [n, classes] of the clean view, and of the augmented one when due.

        Where weights are averaged, those of the averaged network as well, in the clean view.
        """
        n, augmentation = len(self.val), self.val.augmentation
        views = {"val": augmentation.clean(n)}
        if epoch == self.options.epochs or epoch % self.options.augmented_val_every == 0:
            views["val_augmented"] = augmentation.draws(self.seed, VALIDATION, epoch, n)
        size = self.options.eval_batch_size

        def logits(network: nn.Module, draws: Draws) -> Tensor:
            return predict(network, self.val, draws, self.compute, size, self._stop)

        found = {view: logits(self.state.model, draws) for view, draws in views.items()}
        if (average := self.state.descent.average) is not None:
            average.settle(self._some_images(epoch), self.compute.autocast())
            found["val_ema"] = logits(average.network, views["val"])
        return found

    def _some_images(self, epoch: int) -> Iterator[Tensor]:
        """The first batches of the epoch's training view, 4,096 images or all there are."""
        n, size = len(self.train), self.options.batch_size
        view = self.train.view(self.train.augmentation.draws(self.seed, TRAINING, epoch, n))
        for start in range(0, min(n, 4096), size):
            self._stop()
            yield self.train.batch(view, start, start + size)[0]

    def examine(self, epoch: int) -> dict[str, Any]:
        """Probe the network as the epoch left it: rows to the record, metrics returned."""
        rows, metrics = self.probe.examine(epoch, self.state.descent.optimizer, self._stop)
        self.recorder.probe(rows)
        return metrics

    def finish_epoch(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Record first, then move the state to the next epoch and save it when due."""
        state, options = self.state, self.options
        self.recorder.epoch(metrics)
        if options.histogram_epochs and epoch % options.histogram_epochs == 0:
            self.recorder.histograms(state.model, epoch)
        state.end_epoch()
        improved = state.best is None or metrics[OBJECTIVE] > state.best[OBJECTIVE]
        if improved:
            state.best = {"epoch": epoch, **{k: metrics[k] for k in (OBJECTIVE, "loss/val")}}
            state.best = finite(state.best)
        overdue = time.monotonic() - self._saved_at > options.checkpoint_seconds
        due = overdue or epoch % options.checkpoint_epochs == 0 or epoch == options.epochs
        # Always when it improved, before best.pt: so best.pt never comes from an epoch that a
        # resume would train again.
        if improved or due:
            self.save()
        if improved:
            checkpoint.save(self.directory / BEST, state.dump_weights())
        self.recorder.progress(epoch, state.best)
        self.display.epoch(epoch_line(metrics, options.epochs))

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
        if time.monotonic() - self._saved_at > self.options.checkpoint_seconds:
            self.save()

    def _show(self, epoch: int, first: int, start: float) -> None:
        steps = self.state.step - first
        rate = steps / (time.perf_counter() - start)
        left = (self.options.epochs - epoch + 1) * self.steps - self.state.step
        self.display.step(epoch, self.state.step, rate * self.options.batch_size, left / rate)


def losses_are_finite(metrics: dict[str, Any]) -> bool:
    """Whether every loss measured in an epoch is a number.

    One logit that is not finite makes its loss NaN or infinite. So a network of NaN is noticed in
    whatever view it shows, and its accuracy (10 %, a constant class) is never taken for a result.
    """
    return all(math.isfinite(v) for name, v in metrics.items() if name.startswith("loss/"))
