"""Runs as tables: what the report, the notebook and other people's analyses start from.

    from resnet_cifar.results import load_metrics, load_runs

    runs = load_runs("outputs")          # one row a run: configuration, outcome, cost
    curves = load_metrics(runs)          # one row a run and epoch

Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from resnet_cifar.errors import UserError
from resnet_cifar.record import run_files
from resnet_cifar.record.run_files import RunRecord

# Of the configuration's own keys these say nothing about a run that its other columns don't.
_REDUNDANT = ("seed", "output_root", "rerun", "when_busy")


def load_runs(*roots: str | Path) -> pd.DataFrame:
    """Every run below `roots`, one row each, ordered by cell and seed.

    Columns:
        directory, cell, seed; status (completed, diverged, running, interrupted, failed), error;
        epochs (its budget) and epochs_done;
        the configuration under its dotted keys (`optimizer.lr`, `scheduler`, …);
        the last epoch's metrics under their names (`accuracy/val` a fraction, `loss/val` in nats,
        …), NaN where there are none yet, and `best/accuracy/val`, `best/epoch`;
        `accuracy/test`, `loss/test` of the latest evaluation of the last epoch's weights, and
        test_evaluations, how often the test set was looked at;
        sessions, started, seconds (all sessions), images_trained, images_per_second (training),
        share_of_matmul_rate; device, device_type, precision, threads, versions, code (commits and
        the hash of what was not committed): several values of one run are joined by " | ".

    `.attrs["skipped"]` maps the directories that are not readable as runs, or repeat one, to the
    reason.

    Raises:
        UserError: a root is not a directory.
    """
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    seen: dict[tuple[str, int], str] = {}
    for root in map(Path, roots):
        if not root.is_dir():
            raise UserError(f"{root} is not a directory: give one that holds runs")
        for directory in _run_directories(root):
            record = run_files.record_or_reason(directory)
            if isinstance(record, str):
                skipped[str(directory)] = record
                continue
            row = _row(directory, record)
            key = (row["cell"], row["seed"])
            if key in seen:
                skipped[str(directory)] = f"the same run as {seen[key]}"
                continue
            seen[key] = row["directory"]
            rows.append(row)
    runs = pd.DataFrame(rows)
    if rows:
        runs = runs.sort_values(["cell", "seed"], ignore_index=True)
    runs.attrs["skipped"] = skipped
    return runs


def load_metrics(runs: pd.DataFrame | str | Path) -> pd.DataFrame:
    """The metrics of every epoch of `runs` (as from `load_runs`, or a directory of runs).

    Returns:
        One row a run and epoch, in order: directory, cell, seed, epoch, step and every metric under
        its name; NaN where an epoch has no such metric (the augmented view is not measured every
        epoch) or it was not finite.

    Raises:
        UserError: the directory does not exist.
    """
    if not isinstance(runs, pd.DataFrame):
        runs = load_runs(runs)
    columns: dict[str, list[Any]] = {"epoch": []}
    lengths = []
    for directory in runs["directory"] if len(runs) else ():
        lines = run_files.read_metrics(Path(directory) / run_files.METRICS)
        epochs = {line["epoch"]: line for line in lines}  # a kill may leave an epoch twice
        before = len(columns["epoch"])
        for line in epochs.values():
            for key in line.keys() - columns.keys():
                columns[key] = [None] * len(columns["epoch"])
            for key, values in columns.items():
                values.append(line.get(key))
        lengths.append(len(columns["epoch"]) - before)
    curves = pd.DataFrame({key: pd.to_numeric(pd.Series(v)) for key, v in columns.items()})
    for position, key in enumerate(("directory", "cell", "seed")):
        curves.insert(position, key, np.repeat(runs[key].to_numpy(), lengths) if len(runs) else [])
    return curves


def load_probe(runs: pd.DataFrame | str | Path) -> pd.DataFrame:
    """What the probe found in `runs` (as from `load_runs`, or a directory of runs).

    Returns:
        One row a run, probed epoch and layer: directory, cell, seed, epoch, step, layer, kind and
        the numbers `gradient_flow` defines, NaN where they don't apply. Empty without a probe.
    """
    if not isinstance(runs, pd.DataFrame):
        runs = load_runs(runs)
    parts = []
    for run in records(runs):
        lines = run_files.read_probe(Path(run["directory"]) / run_files.PROBE)
        if lines:
            part = pd.DataFrame(lines).drop_duplicates(["epoch", "layer"], keep="last")
            for position, key in enumerate(("directory", "cell", "seed")):
                part.insert(position, key, run[key])
            parts.append(part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


class Predictions(NamedTuple):
    """A run's last-epoch logits on the validation images."""

    logits: dict[str, np.ndarray]  # by view, "val" and "val_augmented": float16 [n, classes]
    labels: np.ndarray  # int64 [n]
    positions: np.ndarray  # int64 [n]: in the data set


def load_predictions(directory: str | Path) -> Predictions | None:
    """What a completed run predicts for each validation image; None where it left nothing."""
    try:
        with np.load(Path(directory) / run_files.PREDICTIONS) as stored:
            views = ("val", "val_augmented")
            logits = {view: stored[f"logits_{view}"] for view in views}
            return Predictions(logits, stored["labels"], stored["index"])
    except (OSError, ValueError, KeyError, EOFError):
        return None


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def identity_keys(runs: pd.DataFrame) -> list[str]:
    """The columns of `runs` that belong to a cell's identity: they change the result."""
    from resnet_cifar.config import groups

    execution = {
        f"{group}.{field.name}"
        for group, kinds in groups().items()
        for kind in kinds
        for field in dataclasses.fields(kind)
        if field.metadata.get("execution")
    }
    parts = tuple(f"{group}." for group in groups())
    return [
        column
        for column in runs.columns
        if (column in groups() or column.startswith(parts)) and column not in execution
    ]


def _run_directories(root: Path) -> Iterable[Path]:
    """`<cell>/seed=<n>` below `root`, or `root` itself where that is what was given.

    Runs set aside (`seed=0.2026-11-24T10-00-00`) are not among them.
    """
    if root.name.removeprefix("seed=").isdigit() and (root / run_files.RUN).exists():
        return [root]
    return [
        Path(entry.path)
        for cell in sorted(path for path in root.iterdir() if path.is_dir())
        if not cell.name.startswith(".")
        for entry in sorted(os.scandir(cell), key=lambda entry: entry.name)
        if entry.name.startswith("seed=") and entry.name[5:].isdigit() and entry.is_dir()
    ]


def _row(directory: Path, record: RunRecord) -> dict[str, Any]:
    sessions = record.sessions
    row: dict[str, Any] = {
        "directory": str(directory),
        "cell": record.cell,
        "seed": record.seed,
        "status": record.status,
        "error": record.error or "",
        "epochs": record.epochs,
        "epochs_done": record.epochs_done,
        "parameters": record.parameters,
    }
    row |= {k: v for k, v in record.config.items() if k not in _REDUNDANT}
    row |= {k: np.nan if v is None else v for k, v in (record.final or {}).items()}
    row.pop("epoch", None)
    row |= {f"best/{k}": v for k, v in (record.best or {}).items()}
    tests = [entry for entry in record.evaluations if entry.split == "test"]
    row["test_evaluations"] = len(tests)
    for entry in tests:
        if entry.weights == "last":
            row |= {k: entry.scores.get(k, np.nan) for k in ("accuracy/test", "loss/test")}
    rates = [(s.images_trained, s.images_per_second) for s in sessions if s.images_per_second]
    images = sum(count for count, _ in rates)
    shares = [s.share_of_matmul_rate for s in sessions if s.share_of_matmul_rate is not None]
    row |= {
        "sessions": len(sessions),
        "started": sessions[0].start if sessions else None,
        "seconds": sum(s.seconds for s in sessions),
        "images_trained": images,
        "images_per_second": images / sum(n / rate for n, rate in rates) if images else np.nan,
        "share_of_matmul_rate": shares[-1] if shares else np.nan,
        "device": _joined(s.device for s in sessions),
        "device_type": _joined(s.device_type for s in sessions),
        "precision": _joined(s.precision for s in sessions),
        "threads": _joined(s.threads for s in sessions),
        "versions": _joined(json.dumps(s.versions or None, sort_keys=True) for s in sessions),
        "code": _joined(_code(s.git) for s in sessions),
    }
    return row


def _code(git: dict[str, str | None]) -> str:
    if not git.get("commit"):
        return "unknown"
    changed = git.get("uncommitted")
    return str(git["commit"])[:10] + (f"+{str(changed)[:8]}" if changed else "")


def _joined(values: Iterable[Any]) -> str:
    return " | ".join(dict.fromkeys(str(value) for value in values if value is not None))
