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
from resnet_cifar.files import LockGuard, write_atomically, write_json
from resnet_cifar.model.options import training_flop
from resnet_cifar.probe import views
from resnet_cifar.record import pictures
from resnet_cifar.record.integrity import sums
from resnet_cifar.record.layout import LOCK, METRICS, PREDICTIONS, PROBE, RUN, SUMMED, leftovers
from resnet_cifar.record.lines import LinesFile, refuse_changed
from resnet_cifar.record.logger import Logger
from resnet_cifar.record.schema import (
    FINAL,
    START_AGAIN,
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
from resnet_cifar.record.tracker import FailSafeTracker, ResumableTracker, TrackedRun, Tracker


def now() -> str:
    """The time: UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Recorder:
    """Opens a session in the run's record; `epoch()` after each epoch, `end()` once.

    Args:
        directory: the run directory, locked by this process.
        root: output_root, where trackers keep what they share.
        record: what run.json says of the run whatever happens: cell, seed, config, epochs, ….
            Earlier sessions and evaluations are added to it.
        before: what run.json said when the lock was taken.
        session: what it says of this session: device, versions, ….
        hparams: columns of TensorBoard's HPARAMS tab.
        logger: what the run is tracked by beside TensorBoard.
        digests: the checkpoint's `digests()`, where it has them.
        say: tells the user a line.

    Raises:
        RecordError: the files of the run are damaged, or lack epochs that `record.epochs_done` says
            are done.
    """

    def __init__(
        self,
        directory: Path,
        root: Path,
        record: RunRecord,
        before: RunRecord | None,
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
        if before is not None:
            if before.epochs_done and not (done or session.step):
                raise RecordError(
                    f"{directory} has no checkpoint, although {before.epochs_done} of its epochs "
                    f"are done; {START_AGAIN}"
                )
            record.sessions, record.evaluations = before.sessions, before.evaluations
            record.files = {k: v for k, v in before.files.items() if k not in SUMMED}
        record.sessions.append(session)
        self._lock = LockGuard(directory / LOCK)
        self._start = time.perf_counter()
        self._trained_seconds = 0.0
        known = digests or {}
        self._metrics = LinesFile(directory / METRICS, done)
        if lost := set(range(1, done + 1)) - {line["epoch"] for line in self._metrics.lines}:
            raise RecordError(
                f"{self._metrics.path} has no line of epochs {sorted(lost)}, which the checkpoint "
                f"has behind it; {START_AGAIN}"
            )
        self._metrics.expect(known.get(METRICS))
        self._probe = LinesFile(directory / PROBE, done)
        self._probe.expect(known.get(PROBE))
        self._update()  # first, or a kill leaves a record that has more epochs than lines
        self._metrics.append()  # there from the start, for whoever follows it
        self._probe.trim()
        # Taken up at its very end, a run shows the last epoch again, and its pictures once.
        again = self._metrics.lines[-1:] if done == record.epochs else []
        board = FailSafeTracker(
            "TensorBoard", lambda: Board(directory, done - len(again), hparams), say
        )
        for line in again:
            board.scalars(self._with_curves(line))
        self._trackers: list[Tracker] = [board, self._open_tracker(logger, root)]

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
        """Record one epoch's metrics, after its `probe` rows: the file first, then trackers."""
        self._append(self._metrics, metrics)
        line = self._with_curves(metrics)
        for tracker in self._trackers:
            tracker.scalars(line)

    def probe(self, rows: list[dict[str, Any]]) -> None:
        """Record the probe's rows of an epoch, one a layer."""
        self._append(self._probe, *rows)

    def histograms(self, model: torch.nn.Module, epoch: int) -> None:
        """Hand every parameter to the trackers."""
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
        """Write the last epoch's predictions.npz, and draw for trackers what is wrong in them.

        Args:
            logits: [n, classes] by view; "val" and "val_augmented" are kept.
            labels: int64 [n].
            index: int64 [n], the images' positions in the data set.
            pixels: uint8 [n, height, width, 3].
            classes: their names.
        """
        truth = labels.cpu().numpy()
        kept = ("val", "val_augmented")
        half = {f"logits_{view}": logits[view].half().cpu().numpy() for view in kept}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, labels=truth, index=index, **half)
        self._lock.check()
        write_atomically(self.directory / PREDICTIONS, buffer.getvalue())

        def draw() -> None:
            clean, epoch = logits["val"].cpu().numpy(), self.record.epochs
            matrix = pictures.confusion(clean, truth, classes)
            self._show("confusion/val", matrix, epoch)
            wrong = pictures.mistakes(pixels.cpu().numpy(), clean, truth, classes)
            self._show("mistakes/val", wrong, epoch)

        self._decorate(draw)

    def digests(self) -> dict[str, str]:
        """The checksums of the lines so far: a checkpoint keeps them, to be taken up with them."""
        return {file.path.name: file.sum().sha256 for file in (self._metrics, self._probe)}

    def progress(self, epochs_done: int, best: Metrics | None) -> None:
        """Bring run.json up to date."""
        self.record.epochs_done = epochs_done
        self.record.best = best
        self._update()

    def end(self, status: str, error: str | None = None) -> None:
        """Close the session with the run's status and the files with it.

        What decorates comes first: a run that says it has ended has everything.

        Raises:
            UserError: the lock or a file of the run was changed by somebody else.
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
            if status in FINAL:
                self._sum_files()
            for tracker in self._trackers:
                tracker.end(status)
            self.record.status = status
            self.record.error = error
            self._update()
        finally:
            self._metrics.close()
            self._probe.close()
            for tracker in self._trackers:
                tracker.close()

    def _decorate(self, draw: Callable[[], None]) -> None:
        """Draw what only decorates: a failure is said and never ends the run."""
        try:
            draw()
        except Exception as error:
            self._say(f"a picture for TensorBoard is missing: {describe(error)}")

    def _show(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        for tracker in self._trackers:
            tracker.image(name, pixels, epoch)

    def _with_curves(self, metrics: Metrics) -> Metrics:
        """Return an epoch's metrics, with the curves of its probe rows where there are any."""
        rows = [row for row in self._probe.lines if row["epoch"] == metrics["epoch"]]
        return {**metrics, **(views.curves(rows) if rows else {})}

    def _open_tracker(self, logger: Logger, root: Path) -> Tracker:
        """Open the tracker that was chosen; it is given the epochs it lacks."""
        record = self.record
        earlier = [s.tracked for s in record.sessions if s.tracked]
        before = next((t for t in reversed(earlier) if t.tracker == logger.NAME), None)

        def mark(tracked: Tracked) -> None:
            self.session.tracked = tracked
            self._update()

        run = TrackedRun(
            name=f"{record.cell}/seed={record.seed}",
            cell=record.cell,
            root=root,
            config=record.config,
            id=before.id if before else "",
        )
        lines = [self._with_curves(line) for line in self._metrics.lines]
        return ResumableTracker(
            logger.NAME, lambda: logger.open(run), before, lines, mark, self._say
        )

    def _append(self, file: LinesFile, *lines: Metrics) -> None:
        self._lock.check()
        file.append(*lines)

    def _sum_files(self) -> None:
        """Put the checksums of the run's files into the record; its lines have to be as written."""
        summed = sums(self.directory, SUMMED)
        for file in (self._metrics, self._probe):
            if file.lines and summed.get(file.path.name) != file.sum():
                refuse_changed(file.path)
        self.record.files |= summed

    def _update(self) -> None:
        """Write run.json as the run stands now."""
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


def record_evaluation(directory: Path, evaluation: Mapping[str, Any]) -> None:
    """Write evaluation-<split>.json (-best.json) and count it in run.json; the run is locked.

    Args:
        evaluation: what `evaluate` returns.
    """
    record = read_record(directory)
    if record is None:
        raise RecordError(f"{directory} has no {RUN}")
    suffix = "" if evaluation["weights"] == "last" else f"-{evaluation['weights']}"
    name = f"evaluation-{evaluation['split']}{suffix}.json"
    write_json(directory / name, dict(evaluation))
    record.files |= sums(directory, [name])
    scores = {
        f"{quantity}/{view}": value[quantity]
        for quantity in ("accuracy", "loss")
        for view, value in evaluation["views"].items()
    }
    about = {key: evaluation[key] for key in ("split", "weights", "epoch", "made")}
    record.evaluations.append(Evaluation(**about, scores=scores))
    write_record(directory, record)
