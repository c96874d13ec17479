"""The one writer of a run's record: run.json, lines, predictions, evaluations, TensorBoard."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnet_cifar.errors import describe
from resnet_cifar.files import Watched, write_atomically, write_json
from resnet_cifar.model.options import training_flop
from resnet_cifar.probe import views
from resnet_cifar.record import pictures
from resnet_cifar.record.fail_safe import Guarded, TrackedOnce
from resnet_cifar.record.integrity import sums
from resnet_cifar.record.layout import LOCK, METRICS, PREDICTIONS, PROBE, RUN, SUMMED, leftovers
from resnet_cifar.record.lines import LinesFile, read_metrics
from resnet_cifar.record.logger import Logger
from resnet_cifar.record.schema import (
    FINAL,
    START_AGAIN,
    VERSION,
    Evaluation,
    Metrics,
    RecordError,
    RunRecord,
    Session,
    Tracked,
    read_record,
    write_record,
)
from resnet_cifar.record.tensorboard import Board
from resnet_cifar.record.tracker import TrackedRun, Tracker


def now() -> str:
    """UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Recorder:
    """Opens a session in the run's record; `epoch()` after each epoch, `end()` once.

    Args:
        directory: the run directory, locked by this process.
        record: what run.json says of the run whatever happens: cell, seed, config, epochs, ….
            Earlier sessions and evaluations are added to it.
        session: what it says of this session: device, versions, ….
        hparams: columns of TensorBoard's HPARAMS tab.
        logger: what the run is tracked by beside TensorBoard.
        digests: what `digests()` was when the checkpoint was written, where it says.
        say: tells the user a line.

    Raises:
        RecordError: the files of the run are damaged, another run's, or lack epochs that
            `record.epochs_done` says are done.
    """

    def __init__(
        self,
        directory: Path,
        record: RunRecord,
        session: Session,
        hparams: dict[str, Any],
        logger: Logger,
        digests: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.directory, self.record, self.session, self._say = directory, record, session, say
        done = record.epochs_done
        for path in leftovers(directory):  # of killed writers: the lock is held
            path.unlink()
        before = read_record(directory)
        if before is not None:
            if before.epochs_done and not (done or session.step):
                raise RecordError(
                    f"{directory} has no checkpoint, although {before.epochs_done} of its epochs "
                    f"are done; {START_AGAIN}"
                )
            record.sessions, record.evaluations = before.sessions, before.evaluations
            record.files = {k: v for k, v in before.files.items() if k not in SUMMED}
        record.sessions.append(session)
        record.version = VERSION
        self._lock = Watched(directory / LOCK)
        self._start = time.perf_counter()
        self._trained_seconds = 0.0
        metrics, probe = directory / METRICS, directory / PROBE
        epochs = {line["epoch"] for line in read_metrics(metrics)}
        if lost := set(range(1, done + 1)) - epochs:
            raise RecordError(
                f"{metrics} has no line of epochs {sorted(lost)}, which the checkpoint has behind "
                f"it; {START_AGAIN}"
            )
        known = digests or {}
        self._metrics = LinesFile(metrics, done, sha256=known.get(metrics.name))
        key = ("epoch", "layer")
        self._probe = LinesFile(probe, done, key, sha256=known.get(probe.name))
        self._update()  # first, or a kill leaves a record that has more epochs than lines
        self._metrics.append()  # there from the start, for whoever follows it
        self._probe.trim()
        # Taken up at its very end, a run shows the last epoch again, and its pictures once.
        again = self._metrics.lines[-1:] if done == record.epochs else []
        board = Guarded("TensorBoard", lambda: Board(directory, done - len(again), hparams), say)
        for line in again:
            board.scalars(self._with_curves(line))
        self._trackers: list[Tracker] = [board, self._tracked(logger)]

    def trained(self, images: int, seconds: float) -> None:
        """Count training work of this session, for its throughput."""
        session = self.session
        session.images_trained += images
        self._trained_seconds += seconds
        if self._trained_seconds > 0 and session.images_trained:
            rate = session.images_trained / self._trained_seconds
            session.images_per_second = round(rate, 1)
            if self.record.multiply_accumulates:
                flops = training_flop(self.record.multiply_accumulates) * rate
                session.model_flops_per_second = round(flops)
                if session.matmul_flops_per_second:
                    share = flops / session.matmul_flops_per_second
                    session.share_of_matmul_rate = round(share, 3)

    def epoch(self, metrics: Metrics) -> None:
        """One epoch's metrics, after what the probe found: to the file first, then to trackers."""
        self._append(self._metrics, metrics)
        line = self._with_curves(metrics)
        for tracker in self._trackers:
            tracker.scalars(line)

    def probe(self, rows: list[dict[str, Any]]) -> None:
        """What the probe found after an epoch, a row per layer."""
        self._append(self._probe, *rows)

    def histograms(self, model: torch.nn.Module, epoch: int) -> None:
        """Every parameter and its last gradient, for trackers."""
        for tracker in self._trackers:
            tracker.histograms(model, epoch)

    def predictions(
        self,
        logits: Mapping[str, torch.Tensor],
        labels: torch.Tensor,
        index: np.ndarray,
        pixels: torch.Tensor,
        classes: Sequence[str],
    ) -> None:
        """The last epoch's predictions: predictions.npz, and for trackers what is wrong in them.

        Args:
            logits: [n, classes] by view, "val", "val_augmented" and, averaged, "val_ema".
            labels: int64 [n].
            index: int64 [n], the images' positions in the data set.
            pixels: uint8 [n, height, width, 3].
            classes: their names.
        """
        truth = labels.cpu().numpy()
        half = {f"logits_{view}": each.half().cpu().numpy() for view, each in logits.items()}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, labels=truth, index=index, **half)
        self._lock.check()
        write_atomically(self.directory / PREDICTIONS, buffer.getvalue())

        def draw() -> None:
            found, epoch = logits["val"].cpu().numpy(), self.record.epochs
            matrix = pictures.confusion(found, truth, classes)
            self._show("confusion/val", matrix, epoch)
            wrong = pictures.mistakes(pixels.cpu().numpy(), found, truth, classes)
            self._show("mistakes/val", wrong, epoch)

        self._decorate(draw)

    def digests(self) -> dict[str, str]:
        """What a checkpoint knows the lines by that belong to it."""
        return {file.path.name: file.sum().sha256 for file in (self._metrics, self._probe)}

    def progress(self, epochs_done: int, best: Metrics | None) -> None:
        """Bring run.json up to date."""
        self.record.epochs_done = epochs_done
        self.record.best = best
        self._update()

    def end(self, status: str, error: str | None = None) -> None:
        """Close the session with the run's status and the files with it.

        What decorates comes first: a run that says it has ended has everything.
        """
        try:
            if status in FINAL and self._probe.lines:
                self._decorate(
                    lambda: self._show(
                        "probe/layers_by_epochs",
                        views.heat_map(self._probe.lines),
                        self.record.epochs_done,
                    )
                )
            for tracker in self._trackers:
                tracker.end(status)
            self._lock.check()
            for file in (self._metrics, self._probe):
                if not file.intact():
                    self._restore(file)
            if status in FINAL:
                self.record.files |= sums(self.directory, SUMMED)
            self.record.status = status
            self.record.error = error
            self._update()
        finally:
            self._metrics.close()
            self._probe.close()
            for tracker in self._trackers:
                tracker.close()

    def _decorate(self, draw: Callable[[], None]) -> None:
        """What only decorates never ends a run."""
        try:
            draw()
        except Exception as error:
            self._say(f"a picture for TensorBoard is missing: {describe(error)}")

    def _show(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        for tracker in self._trackers:
            tracker.image(name, pixels, epoch)

    def _with_curves(self, metrics: Metrics) -> Metrics:
        """An epoch's metrics, with the probe's of the epoch where it has looked."""
        rows = [row for row in self._probe.lines if row["epoch"] == metrics["epoch"]]
        return {**metrics, **(views.curves(rows) if rows else {})}

    def _tracked(self, logger: Logger) -> Tracker:
        """The tracker that was chosen, given the epochs it lacks."""
        record = self.record
        earlier = [s.tracked for s in record.sessions if s.tracked]
        before = next((t for t in reversed(earlier) if t.tracker == logger.NAME), None)

        def mark(tracked: Tracked) -> None:
            self.session.tracked = tracked
            self._update()

        run = TrackedRun(
            name=f"{record.cell}/seed={record.seed}",
            cell=record.cell,
            root=self.directory.parents[1],
            config=record.config,
            id=before.id if before else "",
        )
        lines = [self._with_curves(line) for line in self._metrics.lines]
        return TrackedOnce(logger, run, before, lines, mark, self._say)

    def _append(self, file: LinesFile, *lines: Metrics) -> None:
        self._lock.check()
        if not file.in_place():
            self._restore(file)
        file.append(*lines)

    def _restore(self, file: LinesFile) -> None:
        self._say(f"{file.path} was changed or removed while the run was trained: written again")
        file.restore()

    def _update(self) -> None:
        self._lock.check()
        session = self.session
        session.end = now()
        session.seconds = round(time.perf_counter() - self._start, 3)
        if torch.cuda.is_available() and session.device_type == "cuda":
            session.peak_memory_bytes = torch.cuda.max_memory_allocated()
        self.record.final = self._metrics.lines[-1] if self._metrics.lines else None
        for file in (self._metrics, self._probe):
            if file.lines:
                self.record.files[file.path.name] = file.sum()
        write_record(self.directory, self.record)


def record_evaluation(directory: Path, found: Mapping[str, Any]) -> None:
    """Write evaluation-<split>.json (-best.json) and count it in run.json; the run is locked.

    Args:
        found: what `evaluate` returns.
    """
    record = read_record(directory)
    if record is None:
        raise RecordError(f"{directory} has no {RUN}")
    suffix = "" if found["weights"] == "last" else f"-{found['weights']}"
    name = f"evaluation-{found['split']}{suffix}.json"
    write_json(directory / name, dict(found))
    record.files |= sums(directory, [name])
    scores = {
        f"{quantity}/{view}": value[quantity]
        for quantity in ("accuracy", "loss")
        for view, value in found["views"].items()
    }
    entry = Evaluation(found["split"], found["weights"], found["epoch"], found["made"], scores)
    record.evaluations.append(entry)
    write_record(directory, record)
