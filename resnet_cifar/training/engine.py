"""The training loop: epochs of steps, validation, records, checkpoints.

Read `Engine.fit`, then `train_epoch`, `step` and `validate`. It knows no YAML.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from resnet_cifar.compute.captured import Captured, CapturedStep
from resnet_cifar.compute.device import Compute, tf32
from resnet_cifar.compute.options import Trainer
from resnet_cifar.compute.step import correctness, eval_batch, infer, predict, score_views, update
from resnet_cifar.data.augmentation import PROBE, TRAINING, VALIDATION
from resnet_cifar.data.images import DeviceImages, View
from resnet_cifar.optim.scheduler import Schedule
from resnet_cifar.probe import gradient_flow
from resnet_cifar.probe.options import Probe
from resnet_cifar.record import checkpoint
from resnet_cifar.record.layout import BEST, LAST, PREVIOUS
from resnet_cifar.record.recorder import Recorder
from resnet_cifar.record.schema import OBJECTIVE, finite
from resnet_cifar.training.interrupt import Interrupt
from resnet_cifar.training.live import Display
from resnet_cifar.training.notes import epoch_parts
from resnet_cifar.training.state import State

# Training images that measure the averaged network's BatchNorm statistics.
STATISTICS_IMAGES = 4096


@dataclass
class Engine:
    """A run in memory: `fit` trains it to its end. Code counts steps; people count epochs."""

    options: Trainer
    seed: int
    state: State  # all that training changes
    forward: Callable[[Tensor], Tensor]  # the model, or the compiled model
    loss: Callable[[Tensor, Tensor], Tensor]
    schedules: Sequence[Schedule]  # of each parameter group
    steps: int  # updates in an epoch; the last batch may be smaller
    train: DeviceImages
    val: DeviceImages
    probe: Probe
    compute: Compute
    recorder: Recorder
    display: Display
    interrupt: Interrupt
    uncaptured: str | None = ""  # the obstacle to running steps as CUDA graphs; None: there is none
    _saved_at: float = field(default_factory=time.monotonic)
    _best_saved: int = 0  # the epoch whose weights this session put into best.pt
    _views: dict[int, View] = field(default_factory=dict)  # of training, by epoch
    _validation: dict[str, Captured] = field(default_factory=dict)  # by view, where captured

    def __post_init__(self) -> None:
        self._clean_view = self.val.clean_view()
        if self.uncaptured is None:
            optimizer, size = self.state.optimizer_step.optimizer, self.options.batch_size
            captured = (self.train_on, size, self.compute.device, self.display.say)
            self._captured_step = CapturedStep(optimizer, self.schedules, self.steps, *captured)

    @property
    def model(self) -> nn.Module:
        """The network, not compiled; it shares its weights with `forward`."""
        return self.state.model

    def fit(self) -> str:
        """Train to the last epoch: "completed", or "diverged" when a loss is no longer finite.

        Raises Interrupted: a signal came; the state is in last.pt.
        """
        state, epochs = self.state, self.options.epochs
        self.display.start(epochs, self.steps)
        # A kill may have left best.pt behind last.pt, or of an epoch that is trained again.
        self._save_best(state.best_weights)
        logits: dict[str, Tensor] | None = None
        while state.epoch < epochs:
            start, epoch = time.perf_counter(), state.epoch + 1
            metrics = {"epoch": epoch, **self.train_epoch(epoch)}
            # Each part only of a network that is still one: NaN would be measured at length.
            if losses_are_finite(metrics):
                logits = self.validate(epoch)
                metrics |= score_views(logits, self.val.labels)
            if losses_are_finite(metrics):
                metrics |= self.examine(epoch)
            if not losses_are_finite(metrics):
                # last.pt stays as it is: of a network that is still one.
                self.recorder.wait()
                self.recorder.epoch(metrics)
                self._save_best(state.best_weights)
                # With the status at once: nothing goes on from here, perhaps without a checkpoint.
                self.recorder.record.epochs_done, self.recorder.record.best = epoch, state.best
                return "diverged"
            metrics["speed/epoch_seconds"] = time.perf_counter() - start
            self.finish_epoch(epoch, metrics)
        self.finish(logits)
        return "completed"

    def train_epoch(self, epoch: int) -> dict[str, Any]:
        """Train the remaining steps of an epoch and return its metrics."""
        state = self.state
        start, first = time.perf_counter(), state.step  # above 0 in an epoch that was interrupted
        # An epoch's randomness is drawn at once, also when it is resumed: so a checkpoint needs no
        # generator, and the steps do nothing but index.
        view = self._training_view(epoch)
        probed = self.probe.due(epoch, self.options.epochs)
        measured = self.probe.measured_steps(self.steps) if probed else []
        add_rotation = partial(gradient_flow.add_rotation, self.model, state.rotations)
        self.model.train()
        try:
            for step in range(first, self.steps):
                with add_rotation() if step in measured else nullcontext():
                    self.step(view, step, (epoch - 1) * self.steps + step)
                # Counted before anything can stop the run: a resume trains no update twice.
                state.step = step + 1
                self._show_progress(epoch, first, start)
                self.stop_if_interrupted()
                # By time as well as by epoch: an epoch of the full study takes minutes on a CPU.
                if time.monotonic() - self._saved_at > self.options.checkpoint_seconds:
                    self.recorder.wait()
                    self.save()
            # The next epoch's now, while the device still works.
            if epoch < self.options.epochs:
                self._training_view(epoch + 1)
            # The only read from the device in an epoch. One after each step would make the host
            # wait for the device, and then the device for the host.
            loss, correct = (total / len(self.train) for total in state.epoch_sums.read(self.steps))
        finally:
            # Also of an interrupted epoch: the images are trained, and the seconds spent.
            seconds = time.perf_counter() - start
            size = self.options.batch_size  # of all batches but the last
            images = max(0, min(state.step * size, len(self.train)) - first * size)
            self.recorder.later(self.recorder.trained, images, seconds)
        return {
            "step": epoch * self.steps,
            "accuracy/train": correct,
            "loss/train": loss,
            **state.optimizer_step.metrics(),
            "lr": self.schedules[0](epoch * self.steps - 1),  # of the epoch's last update
            # None where only the validation of the epoch was left to do.
            "speed/images_per_second": images / seconds if images else None,
        }

    def step(self, view: View, step: int, step_of_run: int) -> None:
        """Make update `step` of an epoch. Nothing in it waits for the device."""
        # The rate is a function of the update's number, set before each one: warm-up and one-cycle
        # change it within an epoch, and a resumed run needs no scheduler's state.
        groups = self.state.optimizer_step.optimizer.param_groups
        for group, schedule in zip(groups, self.schedules, strict=True):
            group["lr"] = schedule(step_of_run)
        if self.uncaptured is None:  # the same as below, from the fourth on as one CUDA graph
            self._captured_step.step(view, step, step_of_run)
        else:
            size = self.options.batch_size
            self.train_on(view, slice(step * size, (step + 1) * size), step)
        self.state.optimizer_step.follow()

    def train_on(self, view: View, at: slice | Tensor, step: int | Tensor) -> None:
        """Train on positions `at` of a view; keep what update `step` was worth on the device."""
        x, y = self.train.batch(view, at)
        # A smaller last batch is not worth its compilation.
        whole = len(x) == self.options.batch_size
        network, optimizer_step = self.forward if whole else self.model, self.state.optimizer_step
        loss, logits = update(x, y, network, self.loss, optimizer_step, self.compute)
        self.state.epoch_sums.keep(step, loss, correctness(logits, y))

    def validate(self, epoch: int) -> dict[str, Tensor]:
        """Predict the validation images, after an epoch.

        Returns logits float32 [n, classes] by view: "val", clean; "val_augmented", when due;
        "val_ema", the averaged network's of the clean view, where weights are averaged.
        """
        views = {"val": self._clean_view}
        # Not every epoch: a pass over a view is 8 % of an epoch's arithmetic.
        if epoch == self.options.epochs or epoch % self.options.augmented_val_every == 0:
            views["val_augmented"] = self.val.draw_view(self.seed, VALIDATION, epoch)
        logits = {name: self._predict(name, self.model, view) for name, view in views.items()}
        if (average := self.state.optimizer_step.average) is not None:
            batches = self._training_batches(epoch)
            average.update_batchnorm_statistics(batches, self.compute.autocast(), epoch)
            logits["val_ema"] = self._predict("val_ema", average.network, views["val"])
        return logits

    def _predict(self, name: str, network: nn.Module, view: View) -> Tensor:
        size = self.options.eval_batch_size or eval_batch(network, self.compute)
        if self.uncaptured is None and name not in self._validation:
            place = (self.compute.device, self.display.say)
            body = partial(infer, network, self.val, self.compute)
            self._validation[name] = Captured(lambda view, at, _: body(view, at), size, *place)
        captured = self._validation.get(name)
        of_batch = (self.compute, size, self.stop_if_interrupted)
        return predict(network, self.val, view, *of_batch, captured=captured)

    def _training_view(self, epoch: int) -> View:
        """The view that an epoch trains on. It is kept until the next but one is drawn."""
        if epoch not in self._views:
            self._views.pop(epoch - 2, None)
            self._views[epoch] = self.train.draw_view(self.seed, TRAINING, epoch)
        return self._views[epoch]

    def _training_batches(self, epoch: int) -> Iterator[Tensor]:
        """Gather the first images of the epoch's training view, in training's batches."""
        view, size = self._training_view(epoch), self.options.batch_size
        for start in range(0, min(len(view), STATISTICS_IMAGES), size):
            self.stop_if_interrupted()
            yield self.train.batch(view, slice(start, start + size))[0]

    def examine(self, epoch: int) -> dict[str, float]:
        """Probe the network after `epoch`, where due: record rows, return the epoch's metrics."""
        probe = self.probe
        if not probe.due(epoch, self.options.epochs):
            return {}
        start = time.perf_counter()
        # Drawn for epoch 0 at every epoch: the same images each time, so that curves compare.
        drawn = self.train.draw_view(self.seed, PROBE, 0)
        x, y = self.train.batch(drawn, slice(0, probe.images))
        with tf32(False):
            rows = gradient_flow.inspect(self.model, x, y, self.loss)
        updates = [(epoch - 1) * self.steps + step for step in probe.measured_steps(self.steps)]
        lr = sum(map(self.schedules[0], updates)) / len(updates)
        optimizer, rotations = self.state.optimizer_step.optimizer, self.state.rotations
        turned = gradient_flow.angular_updates(self.model, optimizer, rotations, lr)
        position = {"epoch": epoch, "step": epoch * self.steps}
        metrics = {}
        if any(row["kind"] == "norm" for row in rows):
            metrics = self._validate_by_batch_statistics(probe.val_images)
        metrics["speed/probe_seconds"] = time.perf_counter() - start
        rows = [position | row | turned.get(row["layer"], {}) for row in rows]
        self.recorder.later(self.recorder.probe, rows)
        return metrics

    def _validate_by_batch_statistics(self, images: int) -> dict[str, float]:
        # Where `loss/val` is large and this is not, it is the running statistics that lag.
        images = min(images, len(self.val))
        # Equal batches: the statistics of a small last one would be noisier than training's.
        size = math.ceil(images / math.ceil(images / self.options.batch_size))
        seen, logits = self.val.view(self.val.augmentation.clean(images)), {}
        for view, buffer in gradient_flow.BATCH_STATISTICS.items():
            model = copy.deepcopy(self.model)  # its running statistics will not be the run's
            if buffer is not None:
                gradient_flow.normalise_by_batch(model, buffer)
            between, training = self.stop_if_interrupted, buffer is None
            logits[view] = predict(model, self.val, seen, self.compute, size, between, training)
        return score_views(logits, self.val.labels[:images])

    def finish_epoch(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Move the state to the next epoch, and have the writer record the one that has ended."""
        state, options, recorder = self.state, self.options, self.recorder
        # Until the epoch before is written: what went wrong there ends the run here.
        recorder.wait()
        state.end_epoch()
        # Among equals the first: it was reached with less training.
        if state.best is None or metrics[OBJECTIVE] > state.best[OBJECTIVE]:
            state.keep_best(finite({key: metrics[key] for key in ("epoch", OBJECTIVE, "loss/val")}))
        # Before the checkpoint: a kill between the two leaves a line too many, which a resume cuts
        # off; the other way round, it would leave an epoch without its line.
        recorder.later(recorder.epoch, metrics)
        if options.histogram_epochs and epoch % options.histogram_epochs == 0:
            network = copy.deepcopy(self.model).cpu()
            recorder.later(recorder.tell, lambda tracker: tracker.histograms(network, epoch))
        overdue = time.monotonic() - self._saved_at > options.checkpoint_seconds
        due = epoch < options.epochs and (overdue or epoch % options.checkpoint_epochs == 0)
        # After the first one, too: a record never has epochs behind it and no checkpoint.
        if due or epoch == 1:
            self.save()
        recorder.later(recorder.progress, epoch, state.best)
        self.display.epoch(epoch_parts(metrics, options.epochs), metrics[OBJECTIVE])

    def finish(self, logits: dict[str, Tensor] | None) -> None:
        """Write what a finished run must have, also where a kill kept an earlier process from it.

        `logits` are of the last epoch's `validate`; None where an earlier process trained it.
        """
        state, val = self.state, self.val
        logits = logits or self.validate(state.epoch)
        self.recorder.wait()
        self.recorder.predictions(logits, val.labels, val.positions)
        # First, as last.pt will no longer have them.
        self._save_best(state.best_weights)
        # Weights alone: nothing is left to resume, and the optimizer's state is as large again.
        checkpoint.save(self.recorder.directory / LAST, state.dump_weights())
        (self.recorder.directory / PREVIOUS).unlink(missing_ok=True)
        self.recorder.progress(state.epoch, state.best)

    def save(self) -> None:
        """Have the writer save training as it stands now: a copy, since training goes on."""
        self._saved_at = time.monotonic()
        self.recorder.later(self._write, checkpoint.on_host(self.state.dump(), {}))

    def _write(self, saved: dict[str, Any]) -> None:
        digests = self.recorder.digests()  # of the lines that are in the files by now
        checkpoint.save_last(self.recorder.directory, {**saved, "digests": digests})
        # After last.pt, which has these weights too: so best.pt is never of an epoch that a resume
        # trains again, perhaps otherwise, and what a kill in between keeps back is made up for.
        self._save_best(saved["best_weights"])

    def _save_best(self, weights: dict[str, Any]) -> None:
        if weights and weights["epoch"] != self._best_saved:
            checkpoint.save(self.recorder.directory / BEST, weights)
            self._best_saved = weights["epoch"]

    def stop_if_interrupted(self) -> None:
        """Save and raise Interrupted where a signal has come. Called after each batch."""
        self.display.alive()
        if self.interrupt.signal is not None:
            self.save()
            self.recorder.wait()
            self.interrupt.check()

    def _show_progress(self, epoch: int, first: int, start: float) -> None:
        done = self.state.step
        rate = (done - first) / (time.perf_counter() - start)  # updates a second
        left = (self.options.epochs - epoch + 1) * self.steps - done  # updates of the run
        self.display.step(epoch, done, rate * self.options.batch_size, left / rate)


def losses_are_finite(metrics: dict[str, Any]) -> bool:
    """True if every loss measured in an epoch is a number.

    One logit that is not finite makes its loss NaN or infinite. So a network of NaN is noticed in
    whatever view it shows, and its accuracy (10 %, a constant class) is never taken for a result.
    """
    return all(math.isfinite(v) for name, v in metrics.items() if name.startswith("loss/"))
