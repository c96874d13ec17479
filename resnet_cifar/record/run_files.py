"""run.json, metrics.jsonl, probe.jsonl: the files of a run that programs read. No torch here."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, TextIO

from resnet_cifar.files import is_held, write_atomically

RUN, METRICS, PROBE, LOCK = "run.json", "metrics.jsonl", "probe.jsonl", ".lock"
PREDICTIONS = "predictions.npz"
FINAL = ("completed", "diverged")  # outcomes: never trained again
OBJECTIVE = "accuracy/val"


def read_record(directory: Path) -> dict[str, Any] | None:
    """run.json of a run directory, or None where there is none that can be read.

    A run that says "running" while no process holds its lock was killed: it is "interrupted". That
    is asked of the file system, not of this machine's processes: the run may be on another host.
    """
    try:
        record: dict[str, Any] = json.loads((directory / RUN).read_text())
        status = record["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if status == "running" and not is_held(directory / LOCK):
        record["status"] = "interrupted"
    return record


def finished(directory: Path) -> dict[str, Any] | None:
    """The record of a run that has its outcome, else None."""
    record = read_record(directory)
    return record if record and record["status"] in FINAL else None


def result(record: dict[str, Any]) -> str:
    """The last epoch's validation accuracies, for the end of a line."""
    final = record.get("final") or {}
    views = [
        f"{name} {100 * final[key]:.2f} %"
        for name, key in (("val", "accuracy/val"), ("augmented", "accuracy/val_augmented"))
        if final.get(key) is not None
    ]
    return f" ({', '.join(views)})" if views else ""


def objective(record: dict[str, Any]) -> float:
    """What a search maximises: the last epoch's clean validation accuracy; 0 if diverged."""
    if record["status"] == "diverged" or not record.get("final"):
        return 0.0
    return float(record["final"][OBJECTIVE])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl, one flat dict an epoch; [] where there is no file.

    A last line torn by a kill is left out.
    """
    return _read_lines(path)


def read_probe(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a probe.jsonl, one flat dict for each epoch and layer; [] without a file.

    `pandas.DataFrame(read_probe(path))` is the table. gradient_flow.py says what the numbers are.
    """
    return _read_lines(path)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("epoch"), int):
            lines.append(value)
    return lines


def finite(metrics: dict[str, Any]) -> dict[str, Any]:
    """`metrics` with null for what is not a finite number: JSON has no NaN."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in metrics.items()
    }


class LinesFile:
    """Appends lines that belong to epochs; opening it for a resume drops those to be trained again.

    Args:
        path: there is no file before the first line.
        epochs_done: lines of later epochs are dropped.
        key: what tells the lines of the file apart; the last one of a key stays.
    """

    def __init__(self, path: Path, epochs_done: int, key: tuple[str, ...] = ("epoch",)) -> None:
        kept = [line for line in _read_lines(path) if line["epoch"] <= epochs_done]
        self.lines = list({tuple(line.get(k) for k in key): line for line in kept}.values())
        if path.exists():
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in self.lines))
        self._path = path
        self._file: TextIO | None = None

    def append(self, *lines: dict[str, Any]) -> None:
        """Write and flush one epoch's lines. Raises OSError when the disk is full."""
        if self._file is None:
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close())
        lines = tuple(finite(line) for line in lines)
        self._file.write("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.lines += lines

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
