"""The one writer of a run's record: run.json, lines, predictions, evaluations, TensorBoard."""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnet_cifar.errors import UserError, describe
from resnet_cifar.files import Lock, LockHeld, write_atomically, write_json
from resnet_cifar.model.options import training_flop
from resnet_cifar.probe import views
from resnet_cifar.record import schema
from resnet_cifar.record.integrity import read_run_lines, sums
from resnet_cifar.record.layout import LOCK, METRICS, PREDICTIONS, PROBE, RUN, SUMMED, leftovers
from resnet_cifar.record.lines import LinesFile, refuse_changed
from resnet_cifar.record.logger import Logger
from resnet_cifar.record.schema import Metrics, RecordError, RunRecord, Session, Tracked
from resnet_cifar.record.tensorboard import Board
from resnet_cifar.record.tracker import FailSafeTracker, TrackedRun, Tracker


def now() -> str:
    """The time: UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Recorder:
    """Opens a session in the run's record; `epoch()` after each epoch, `end()` once.

    One thread at a time uses it: its own writer, which does what `later()` is given, or, after
    `wait()`, the one that trains.

    Args:
        directory: the run directory, locked by this process.
        record: the new one; sessions and evaluations of `before`, the one on the disk, are added.
        hparams: columns of TensorBoard's HPARAMS tab.
        digests: the checkpoint's `digests()`, where it has them.
        interrupted: as of FailSafeTracker.

    Raises RecordError: the run's files are damaged, or not those that the checkpoint goes with.
    """

    def __init__(
        self,
        directory: Path,
        record: RunRecord,
        before: RunRecord | None,
        session: Session,
        hparams: dict[str, Any],
        logger: Logger,
        digests: Mapping[str, str] | None,
        say: Callable[[str], None],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.directory, self.record, self.session, self._say = directory, record, session, say
        self._interrupted = interrupted
        done = record.epochs_done
        for path in leftovers(directory):  # of killed writers: the lock is held
            path.unlink()
        if before is not None:
            if before.epochs_done and not (done or session.step):
                has = f"{directory} has {before.epochs_done} epochs and no checkpoint"
                raise RecordError(f"{has}; {schema.START_AGAIN}")
            record.sessions, record.evaluations = before.sessions, before.evaluations
            record.files = {k: v for k, v in before.files.items() if k not in SUMMED}
        record.sessions.append(session)
        self._start = time.perf_counter()
        self._trained: list[tuple[int, float]] = []
        self._writer, self._written = ThreadPoolExecutor(1), Future[None]()
        self._written.set_result(None)
        on_cuda = session.device_type == "cuda" and torch.cuda.is_available()
        self._cuda = torch.cuda.current_device() if on_cuda else None  # a thread has its own
        known = digests or {}
        self._metrics = LinesFile(directory / METRICS, done, known.get(METRICS))
        self._probe = LinesFile(directory / PROBE, done, known.get(PROBE))
        if (lines := len(self._metrics.lines)) < done:
            has = f"{self._metrics.path} has lines of {lines} of the checkpoint's {done} epochs"
            raise RecordError(f"{has}; {schema.START_AGAIN}")
        self._update()  # first, or a kill leaves a record that has more epochs than lines
        self._metrics.append()  # there from the start, for whoever follows it
        self._probe.trim()
        self._trackers = self._open_trackers(hparams, logger)

    def _open_trackers(self, hparams: dict[str, Any], logger: Logger) -> list[FailSafeTracker]:
        directory, record = self.directory, self.record
        lines = [with_curves(line, self._probe.lines) for line in self._metrics.lines]
        # Taken up at its very end, a run shows the last epoch again.
        shown = min(record.epochs_done, record.epochs - 1)

        def mark(tracked: Tracked) -> None:
            self.session.tracked = tracked
            self._update()

        board, later = partial(Board, directory, shown, hparams), lines[shown:]
        say, interrupted, new = self._say, self._interrupted, Tracked("tensorboard", "")
        return [
            FailSafeTracker("TensorBoard", board, later, say, new, interrupted=interrupted),
            open_tracker(directory, record, logger, lines, say, mark, interrupted),
        ]

    def later(self, work: Callable[..., None], *of: Any) -> None:
        """Have the writer call `work(*of)` after all that it was given before, if that went well.

        So files change in the order of the calls, and none after one that failed.
        """

        def in_order(before: Future[None] = self._written) -> None:
            before.result()
            work(*of)

        self._written = self._writer.submit(in_order)

    def wait(self) -> None:
        """Wait for the writer. Raises what the work that it was given raised."""
        self._written.result()

    def trained(self, images: int, seconds: float) -> None:
        """Count an epoch's training, or what this session has of it, for the session's throughput.

        Its first epoch compiles, captures and tunes. That counts, and the rest of an interrupted
        one before it, only until as much has been trained after them.
        """
        session, operations = self.session, self.record.multiply_accumulates
        session.images_trained += images
        self._trained.append((images, seconds))
        total = np.sum(self._trained, axis=0)
        later = total - np.sum(self._trained[: 2 if session.step else 1], axis=0)
        counted, spent = later if 2 * later[0] >= total[0] else total
        if counted and spent > 0:
            rate = float(counted / spent)
            session.images_per_second = round(rate, 1)
            if operations and session.matmul_flops_per_second:
                flops = training_flop(operations) * rate
                session.model_flops_per_second = round(flops)
                session.share_of_matmul_rate = round(flops / session.matmul_flops_per_second, 3)

    def epoch(self, metrics: Metrics) -> None:
        """Record one epoch's metrics, after its `probe` rows: the file first, then trackers."""
        self._metrics.append(metrics)
        line = with_curves(metrics, self._probe.lines)
        for tracker in self._trackers:
            tracker.scalars(line)

    def probe(self, rows: list[dict[str, Any]]) -> None:
        """Record the probe's rows of an epoch, one a layer."""
        self._probe.append(*rows)

    def predictions(self, logits: Mapping[str, Tensor], labels: Tensor, index: np.ndarray) -> None:
        """Write predictions.npz: logits [n, classes] by view, labels and places in the data set."""
        most, of = torch.finfo(torch.half).max, ("val", "val_augmented")
        half = {f"logits_{v}": logits[v].clamp(-most, most).half().numpy() for v in of}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, labels=labels.numpy(), index=index, **half)
        write_atomically(self.directory / PREDICTIONS, buffer.getvalue())

    def digests(self) -> dict[str, str]:
        """The checksums of the lines so far: a checkpoint keeps them, to be taken up with them."""
        return {file.path.name: file.sum().sha256 for file in (self._metrics, self._probe)}

    def progress(self, epochs_done: int, best: Metrics | None) -> None:
        """Bring run.json up to date."""
        self.record.epochs_done, self.record.best = epochs_done, best
        self._update()

    def end(self, status: str, error: str | None = None) -> None:
        """Close the session with the run's status; last, as a run that has ended has everything.

        Raises UserError where a file of the run was changed by somebody else.
        """
        self._writer.shutdown()  # when all is written, or has failed
        record, files = self.record, (self._metrics, self._probe)
        try:
            if status in schema.FINAL:
                if self._probe.lines:
                    self._show_probe()
                summed = sums(self.directory, SUMMED)
                for file in files:  # its lines have to be as written
                    if file.lines and summed.get(file.path.name) != file.sum():
                        refuse_changed(file.path)
                record.files |= summed
            for tracker in self._trackers:
                tracker.end(status)
            record.status, record.error = status, error
            self._update()
        finally:
            for file in files:
                file.close()
            self.tell(lambda tracker: tracker.close())

    def _show_probe(self) -> None:
        try:
            pixels, epoch = views.heat_map(self._probe.lines), self.record.epochs_done
            self.tell(lambda tracker: tracker.image("probe/layers_by_epochs", pixels, epoch))
        except Exception as error:  # of what only decorates: the run goes on
            self._say(f"a picture for TensorBoard is missing: {describe(error)}")

    def tell(self, call: Callable[[Tracker], None]) -> None:
        """Call a method of every tracker."""
        for tracker in self._trackers:
            tracker.tell(call)

    def _update(self) -> None:
        """Write run.json as the run stands now."""
        session = self.session
        session.end = now()
        session.seconds = round(time.perf_counter() - self._start, 3)
        if self._cuda is not None:
            session.peak_memory_bytes = torch.cuda.max_memory_allocated(self._cuda)
        self.record.final = self._metrics.lines[-1] if self._metrics.lines else None
        for file in (self._metrics, self._probe):
            if file.lines:
                self.record.files[file.path.name] = file.sum()
        schema.write_record(self.directory, self.record)


def with_curves(metrics: Metrics, probed: Sequence[dict[str, Any]]) -> Metrics:
    """Return an epoch's metrics, with the curves of its rows among the `probed` ones."""
    rows = [row for row in probed if row["epoch"] == metrics["epoch"]]
    return {**metrics, **views.curves(rows)}


def open_tracker(
    directory: Path,
    record: RunRecord,
    logger: Logger,
    lines: list[Metrics],
    say: Callable[[str], None],
    mark: Callable[[Tracked], None],
    interrupted: Callable[[], bool],
) -> FailSafeTracker:
    """Open the chosen tracker where earlier sessions have left it, and give it what it lacks."""
    before = record.tracked.get(logger.NAME, Tracked(logger.NAME, ""))
    name = f"{record.cell}/seed={record.seed}"
    root = directory.parents[1]  # where trackers keep what they share
    begin = partial(logger.open, TrackedRun(name, record.cell, root, record.config, before.id))
    return FailSafeTracker(f"logger={logger.NAME}", begin, lines, say, before, mark, interrupted)


def hand_in(
    directory: Path, logger: Logger, say: Callable[[str], None], interrupted: Callable[[], bool]
) -> None:
    """Give the tracker the numbers and the outcome of a finished run that it lacks.

    Pictures are not drawn again. Where it can't be done, that is said and the run left as it is.
    """
    try:
        with Lock(directory / LOCK, wait=False):
            record = schema.read_record(directory)
            if record is None or not (record.finished and logger.lacks(record)):
                return
            metrics, probed = (read_run_lines(directory, name, record) for name in (METRICS, PROBE))
            lines = [with_curves(line, probed) for line in metrics]
            others = [given for given in record.handed_in if given.tracker != logger.NAME]

            def mark(tracked: Tracked) -> None:
                record.handed_in = [*others, tracked]
                schema.write_record(directory, record)

            tracker = open_tracker(directory, record, logger, lines, say, mark, interrupted)
            tracker.end(record.status)
            tracker.tell(lambda opened: opened.close())
            if (after := record.tracked.get(logger.NAME)) is not None and after.ended:
                mark(after)
                say(f"logger={logger.NAME}: handed in what it had missed of {after.epoch} epochs")
    except (LockHeld, OSError, UserError) as error:
        say(f"nothing is handed in to logger={logger.NAME}: {describe(error)}")


def record_evaluation(directory: Path, evaluation: Mapping[str, Any]) -> None:
    """Write `evaluation` to evaluation-<split>.json and run.json; the run is locked."""
    record = schema.read_record(directory)
    if record is None:
        raise RecordError(f"{directory} has no {RUN}")
    suffix = "" if evaluation["weights"] == "last" else f"-{evaluation['weights']}"
    name = f"evaluation-{evaluation['split']}{suffix}.json"
    scores = {
        f"{quantity}/{view}": value[quantity]
        for quantity in ("accuracy", "loss")
        for view, value in evaluation["views"].items()
    }
    about = {key: evaluation[key] for key in ("split", "weights", "epoch", "made")}
    record.evaluations.append(schema.Evaluation(**about, scores=scores))
    # Counted first. And a kill between two files leaves none with the checksum of another.
    record.files.pop(name, None)
    schema.write_record(directory, record)
    write_json(directory / name, dict(evaluation))
    record.files |= sums(directory, [name])
    schema.write_record(directory, record)
