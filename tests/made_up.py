"""Run directories that were never trained, with results that are known."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from resnet_cifar.config.compose import compose
from resnet_cifar.config.schema import Config
from resnet_cifar.identity import cell_name, flatten
from resnet_cifar.record.integrity import sums
from resnet_cifar.record.layout import SUMMED
from resnet_cifar.record.schema import RunRecord, Session, finite, seal, write_record

FULL = [f"cell={name}" for name in (
    "lr_0.001", "lr_0.01", "lr_0.1", "baseline", "cosine", "cosine_wd_5e-4", "cosine_wd_1e-2",
    "detached_bn",
)]  # fmt: skip


@functools.cache
def composed(overrides: tuple[str, ...]) -> Config:
    """A configuration, made once."""
    return compose(list(overrides))


def make_run(
    root: Path,
    overrides: Sequence[str],
    seed: int = 0,
    accuracy: float = 0.5,
    *,
    augmented: float | None = None,
    averaged: float | None = None,
    loss: float = 1.0,
    curve: Sequence[float] | None = None,
    status: str = "completed",
    commit: str = "0123456789abcdef",
    sessions: Sequence[Session] = (),
    started: str = "2026-12-01T00:00:00+00:00",
    precision: str = "fp32",
    logits: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> Path:
    """A run directory as `train.py <overrides> seed=<seed>` would leave it.

    Args:
        accuracy: of the last epoch's clean view; `augmented` is the same unless given, and
            `averaged`, of averaged weights, is there if given.
        loss: of both views and of training.
        curve: clean accuracy by epoch; flat unless given, and before what is given.
        sessions: one of an hour, unless given, which started after every claim was declared.
        logits, labels: predictions of both views.
    """
    config = composed(tuple(overrides))
    cell = cell_name(config)
    directory = root / cell / f"seed={seed}"
    directory.mkdir(parents=True)
    lines = []
    curve = [accuracy] if curve is None else list(curve)
    if status == "completed":
        curve = [curve[0]] * (config.trainer.epochs - len(curve)) + curve
    for epoch, value in enumerate(curve, 1):
        lines.append({
            "epoch": epoch, "step": 10 * epoch, "accuracy/train": value, "loss/train": loss,
            "lr": config.optimizer.lr, "accuracy/val": value, "loss/val": loss,
            "speed/images_per_second": 100.0, "speed/epoch_seconds": 4.0,
        })  # fmt: skip
    clean = lines[-1]["accuracy/val"]
    lines[-1]["accuracy/val_augmented"] = clean if augmented is None else augmented
    lines[-1]["loss/val_augmented"] = loss
    if averaged is not None:
        lines[-1] |= {"accuracy/val_ema": averaged, "loss/val_ema": loss}
    lines = [finite(line) for line in lines]
    write_lines(directory / "metrics.jsonl", lines)
    if logits is not None:
        half = logits.astype(np.float16)
        np.savez(directory / "predictions.npz", logits_val=half, logits_val_augmented=half,
                 labels=labels, index=np.arange(len(half)))  # fmt: skip
    session = Session(
        started, "a CPU", "cpu", end=started.replace("T00", "T01"),
        seconds=3600.0, precision=precision, threads=1, versions={"torch": "2.14.1"},
        git={"commit": commit, "uncommitted": None}, images_trained=40_000,
        images_per_second=100.0, share_of_matmul_rate=0.5,
    )  # fmt: skip
    record = RunRecord(
        status, cell, seed, config.trainer.epochs, flatten(config) | {"seed": seed}, "a CPU",
        error="OSError: no space" if status == "failed" else None,
        epochs_done=len(lines), parameters=1000 * config.model.width,
        multiply_accumulates=1_000_000, final=lines[-1],
        best=finite({"epoch": len(lines), "accuracy/val": accuracy, "loss/val": loss}),
        sessions=list(sessions) or [session], files=sums(directory, SUMMED),
    )  # fmt: skip
    write_record(directory, record)
    return directory


def make_small_run(root: Path, cell: str, seed: int, status: str, days: float = 0.0) -> Path:
    """A run of three epochs in a cell of any name, `days` old, with weights of 1,000 bytes."""
    directory = root / cell / f"seed={seed}"
    directory.mkdir(parents=True)
    then = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    done = 3 if status == "completed" else 2
    lines = [{"epoch": epoch, "accuracy/val": 0.5} for epoch in range(1, done + 1)]
    write_lines(directory / "metrics.jsonl", lines)
    record = RunRecord(
        status, cell, seed, 3, {}, "a CPU", epochs_done=done, final=lines[-1],
        error="OSError: no space" if status == "failed" else None,
        sessions=[Session(start=then, device="a CPU", device_type="cpu", end=then)],
    )  # fmt: skip
    write_record(directory, record)
    (directory / "last.pt").write_bytes(b"0" * 1000)
    return directory


def change_record(directory: Path, **values: Any) -> None:
    """Give run.json other values, and the checksum that fits them."""
    path = directory / "run.json"
    path.write_text(json.dumps(seal(json.loads(path.read_text()) | values)))


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def float16_ties(logits: np.ndarray) -> float:
    """The share of images whose two largest logits float16 may not tell apart, or swaps.

    Each of the two is rounded by half a unit of its last place, at most 2**-11 of its value.
    """
    second, first = np.sort(logits.astype(np.float64), axis=1).T[-2:]
    return float((first - second <= 2**-10 * np.maximum(abs(first), abs(second))).mean())


def add_probe(directory: Path, broken: Sequence[str] = (), ratio: float = 1.0) -> None:
    """A probe.jsonl of two epochs: the cosines named in `broken` are 0.05, the others 1e-7."""
    lines = []
    for epoch, drift in ((1, 1.0), (2, 3.0)):
        for layer in ("a", "b"):
            cosines = {
                name: 0.05 if name in broken else 1e-7 for name in ("sum_cosine", "xhat_cosine")
            }
            radial = 0.05 if "radial_rms" in broken else 1e-7
            lines.append({
                "epoch": epoch, "step": epoch, "layer": f"{layer}.norm", "kind": "norm", **cosines,
                "mean_over_std": drift, "running_mean_gap": 0.1,
            })  # fmt: skip
            lines.append({
                "epoch": epoch, "step": epoch, "layer": f"{layer}.conv", "kind": "conv",
                "weight_norm": 2.0, "radial_rms": radial, "angular_update": 0.01 * ratio,
                "angular_update_predicted": 0.01,
            })  # fmt: skip
    write_lines(directory / "probe.jsonl", lines)
