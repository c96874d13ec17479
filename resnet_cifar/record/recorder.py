"""The one writer of a run's record: run.json, metrics.jsonl, probe.jsonl, TensorBoard."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnet_cifar.data.images import DeviceImages
from resnet_cifar.files import write_atomically, write_json
from resnet_cifar.model.options import training_flop
from resnet_cifar.probe import views
from resnet_cifar.record import pictures, run_files
from resnet_cifar.record.tensorboard import Board


def now() -> str:
    """UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Recorder:
    """Opens a session in the run's record; `epoch()` after each epoch, `end()` once.

    Args:
        directory: the run directory, locked by this process.
        identity: what run.json says of the run whatever happens: cell, seed, config, epochs, …
        session: what it says of this session: device, versions, …
        epochs_done: epochs the loaded checkpoint has behind it.
        classes: their names, for the pictures.
        hparams: columns of TensorBoard's HPARAMS tab.
    """

    def __init__(
        self,
        directory: Path,
        identity: dict[str, Any],
        session: dict[str, Any],
        epochs_done: int,
        hparams: dict[str, Any],
        classes: Sequence[str],
    ) -> None:
        self.directory, self._classes = directory, classes
        before = run_files.read_record(directory) or {}
        self.record: dict[str, Any] = {
            "status": "running",
            "error": None,
            **identity,
            "epochs_done": epochs_done,
            "final": None,
            "best": None,
            "sessions": [*before.get("sessions", []), {"start": now(), **session}],
            "evaluations": before.get("evaluations", []),
        }
        self._start = time.perf_counter()
        self._trained_seconds = 0.0
        self._trained_images = 0
        (directory / run_files.METRICS).touch()  # there from the start, for whoever follows it
        self._metrics = run_files.LinesFile(directory / run_files.METRICS, epochs_done)
        self._probe = run_files.LinesFile(
            directory / run_files.PROBE, epochs_done, key=("epoch", "layer")
        )
        if self._metrics.lines:
            self.record["final"] = self._metrics.lines[-1]
        self.board = Board(directory, epochs_done, hparams)
        self._write()

    def trained(self, images: int, seconds: float) -> None:
        """Count training work of this session, for its throughput."""
        self._trained_images += images
        self._trained_seconds += seconds
        session = self.record["sessions"][-1]
        session["images_trained"] = self._trained_images
        if self._trained_seconds > 0:
            rate = self._trained_images / self._trained_seconds
            flops = training_flop(self.record["multiply_accumulates"]) * rate
            session["images_per_second"] = round(rate, 1)
            session["model_flops_per_second"] = round(flops)
            session["share_of_matmul_rate"] = round(flops / session["matmul_flops_per_second"], 3)

    def epoch(self, metrics: dict[str, Any]) -> None:
        """One epoch's metrics, to the file first and to TensorBoard second."""
        self._metrics.append(metrics)
        self.board.scalars(metrics)

    def probe(self, rows: list[dict[str, Any]]) -> None:
        """What the probe found after an epoch, a row per layer."""
        self._probe.append(*rows)
        epoch = rows[0]["epoch"]
        found = self._probe.lines[-len(rows) :]
        self.board.scalars({"epoch": epoch, **views.curves(found)})

    def predictions(self, epoch: int, logits: dict[str, Tensor], val: DeviceImages) -> None:
        """The last epoch's logits [n, classes] by view: predictions.npz, and pictures of them."""
        labels = val.labels.cpu().numpy()
        buffer = io.BytesIO()
        np.savez(
            buffer,
            logits_val=logits["val"].half().cpu().numpy(),
            logits_val_augmented=logits["val_augmented"].half().cpu().numpy(),
            labels=labels,
            index=val.positions,
        )
        write_atomically(self.directory / run_files.PREDICTIONS, buffer.getvalue())
        clean, pixels = logits["val"].cpu().numpy(), val.pixels().cpu().numpy()
        confusion = pictures.confusion(clean, labels, self._classes)
        self.board.image("confusion/val", confusion, epoch)
        mistakes = pictures.mistakes(pixels, clean, labels, self._classes)
        self.board.image("mistakes/val", mistakes, epoch)

    def histograms(self, model: torch.nn.Module, epoch: int) -> None:
        """Every parameter and its last gradient, for TensorBoard."""
        self.board.histograms(model, epoch)

    def progress(self, epochs_done: int, best: dict[str, Any] | None) -> None:
        """Bring run.json up to date."""
        self.record["epochs_done"] = epochs_done
        self.record["final"] = self._metrics.lines[-1] if self._metrics.lines else None
        self.record["best"] = best
        self._write()

    def end(self, status: str, error: str | None = None) -> None:
        """Close the session with the run's status and the files with it."""
        self.record["status"] = status
        self.record["error"] = error
        try:
            self._write()
            if status in run_files.FINAL and self._probe.lines:
                image = views.heat_map(self._probe.lines)
                self.board.image("probe/layers_by_epochs", image, self.record["epochs_done"])
            if status != "interrupted":
                self.board.end(status)
        finally:
            self._metrics.close()
            self._probe.close()
            self.board.close()

    def _write(self) -> None:
        session = self.record["sessions"][-1]
        session["end"] = now()
        session["seconds"] = round(time.perf_counter() - self._start, 3)
        if torch.cuda.is_available() and session["device_type"] == "cuda":
            session["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        write_json(self.directory / run_files.RUN, self.record)
