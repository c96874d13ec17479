"""Runs as tables, for the report, the notebook and other people's analyses.

    from resnet_cifar.results import load_metrics, load_runs

    runs = load_runs("outputs")          # one row a run: configuration, outcome, cost
    curves = load_metrics(runs)          # one row a run and epoch

Nothing here imports torch.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from resnet_cifar.config.keys import execution_keys, known_identity_keys
from resnet_cifar.errors import UserError, describe
from resnet_cifar.record.integrity import read_run_lines, read_summed
from resnet_cifar.record.layout import METRICS, PREDICTIONS, PROBE
from resnet_cifar.record.schema import read_record
from resnet_cifar.runs.find import Run, count_runs, find_runs
from resnet_cifar.runs.row import Row, flat_row
from resnet_cifar.runs.row import code as code

# Columns of `flat_row` that say nothing about a run that its other columns don't.
_LEFT_OUT = ("output_root", "rerun", "when_busy", "last/lr")
# Numbers without a "/" that a run may lack, as any of those with one.
_NUMBERS = ("images_per_second", "share_of_matmul_rate")


# Arrow's strings, which pandas takes where pyarrow is there, can't hold a path that is not UTF-8.
any_text = pd.option_context("mode.string_storage", "python")


@any_text
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
    counted, skipped = count_runs(run for root in roots for run in find_runs(Path(root)))
    rows = [{"directory": str(run.path), **_table_columns(run)} for run in counted]
    runs = pd.DataFrame(rows)
    if rows:
        runs = runs.sort_values(["cell", "seed"], ignore_index=True)
    runs.attrs["skipped"] = skipped
    return runs


def _table_columns(run: Run) -> Row:
    """The columns of `flat_row` that a table has, NaN for numbers that are not known."""
    assert run.record is not None
    row = {key: value for key, value in flat_row(run.record).items() if key not in _LEFT_OUT}
    row["error"] = run.record.error or ""
    numbers = [key for key in row if "/" in key or key in _NUMBERS]
    return row | {key: math.nan for key in numbers if row[key] is None}


@any_text
def load_metrics(runs: pd.DataFrame | str | Path) -> pd.DataFrame:
    """The metrics of every epoch of `runs` (as from `load_runs`, or a directory of runs).

    Returns:
        One row a run and epoch, in order: directory, cell, seed, epoch, step and every metric under
        its name; NaN where an epoch has no such metric (the augmented view is not measured every
        epoch) or it was not finite. `.attrs["skipped"]` maps files that can't be read to the
        reason; their runs have no rows.

    Raises:
        UserError: the directory does not exist.
    """
    if not isinstance(runs, pd.DataFrame):
        runs = load_runs(runs)
    columns: dict[str, list[Any]] = {"epoch": []}
    lengths = []
    skipped: dict[str, str] = {}
    for directory in runs["directory"] if len(runs) else ():
        before = len(columns["epoch"])
        for line in _lines(Path(directory), METRICS, skipped):
            for key in [key for key in line if key not in columns]:
                columns[key] = [None] * len(columns["epoch"])
            for key, values in columns.items():
                values.append(line.get(key))
        lengths.append(len(columns["epoch"]) - before)
    curves = pd.DataFrame({key: pd.to_numeric(pd.Series(v)) for key, v in columns.items()})
    for position, key in enumerate(("directory", "cell", "seed")):
        curves.insert(position, key, np.repeat(runs[key].to_numpy(), lengths) if len(runs) else [])
    curves.attrs["skipped"] = skipped
    return curves


def _lines(directory: Path, name: str, skipped: dict[str, str]) -> list[dict[str, Any]]:
    """The lines of a run's file; nothing, and a line in `skipped`, where it is damaged."""
    try:
        return read_run_lines(directory, name)
    except UserError as error:
        skipped[str(directory / name)] = str(error)
        return []


@any_text
def load_probe(runs: pd.DataFrame | str | Path) -> pd.DataFrame:
    """The probe's measurements in `runs` (as from `load_runs`, or a directory of runs).

    Returns:
        One row a run, probed epoch and layer: directory, cell, seed, epoch, step, layer, kind and
        the numbers `gradient_flow` defines, NaN where they don't apply. Empty without a probe.
        `.attrs["skipped"]` as of `load_metrics`.
    """
    if not isinstance(runs, pd.DataFrame):
        runs = load_runs(runs)
    parts = []
    skipped: dict[str, str] = {}
    for run in records(runs):
        lines = _lines(Path(run["directory"]), PROBE, skipped)
        if lines:
            part = pd.DataFrame(lines).drop_duplicates(["epoch", "layer"], keep="last")
            for position, key in enumerate(("directory", "cell", "seed")):
                part.insert(position, key, run[key])
            parts.append(part)
    probes = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    probes.attrs["skipped"] = skipped
    return probes


class Predictions(NamedTuple):
    """A run's last-epoch logits on the validation images."""

    logits: dict[str, np.ndarray]  # by view, "val" and "val_augmented": float16 [n, classes]
    labels: np.ndarray  # int64 [n]
    positions: np.ndarray  # int64 [n]: in the data set


def load_predictions(directory: str | Path) -> Predictions | None:
    """The predictions of a completed run for each validation image; None where it left none.

    Raises:
        UserError: the file is damaged, or not the one that the run wrote.
    """
    path = Path(directory) / PREDICTIONS
    record = read_record(path.parent)
    content = read_summed(path.parent, PREDICTIONS, record)
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content)) as stored:
            logits = {view: stored[f"logits_{view}"] for view in ("val", "val_augmented")}
            predictions = Predictions(logits, stored["labels"], stored["index"])
        _check_predictions(predictions)
        return predictions
    except Exception as error:  # numpy's reader raises many kinds on a damaged file
        raise UserError(f"{path} can't be read: {describe(error)}") from error


def _check_predictions(predictions: Predictions) -> None:
    """Raise ValueError unless the arrays have the shapes and types that belong together."""
    labels, positions = predictions.labels, predictions.positions
    n, classes = len(labels), predictions.logits["val"].shape[-1]
    for logits in predictions.logits.values():
        if logits.dtype.kind != "f" or logits.shape != (n, classes):
            raise ValueError(f"logits are {logits.dtype} {logits.shape} for {n} labels")
        if not np.isfinite(logits).all():
            raise ValueError("a logit is not finite")
    for name, integers in (("labels", labels), ("index", positions)):
        if integers.dtype.kind not in "iu" or integers.shape != (n,) or not n:
            raise ValueError(f"{name} are {integers.dtype} {integers.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"a label is none of {classes} classes")


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def identity_keys(runs: pd.DataFrame) -> list[str]:
    """The columns of `runs` that belong to a cell's identity: they change the result.

    Also those of earlier or later versions of the program, which are not known here.
    """
    known = known_identity_keys()
    groups = {key.partition(".")[0] for key in known}
    execution = execution_keys()
    return [
        column
        for column in runs.columns
        if column in known
        or ("." in column and column.partition(".")[0] in groups and column not in execution)
    ]
