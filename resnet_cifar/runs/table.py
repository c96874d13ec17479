"""Runs as tables: one row a run, or a run and epoch (`resnet_cifar.results`). No torch here."""

import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from resnet_cifar.config.keys import execution_keys, known_identity_keys
from resnet_cifar.errors import UserError, describe
from resnet_cifar.identity import COORDINATES, cell_hash
from resnet_cifar.record.integrity import check_archive, read_run_lines, read_summed
from resnet_cifar.record.layout import METRICS, PREDICTIONS, PROBE
from resnet_cifar.record.schema import expect, read_record
from resnet_cifar.runs.find import count_runs, find_runs, flat_row

# Columns of `flat_row` that say nothing about a run that its other columns don't.
_LEFT_OUT = ["output_root", "rerun", "when_busy", "last/lr"]
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

    `.attrs["skipped"]` maps every other directory that `runs` lists to the reason: not readable
    as a run, the same run as another, set aside. `.attrs["closed"]` has the reasons of those
    that can't be looked at, so that nobody knows which runs are there. Raises UserError: a root
    is not a directory.
    """
    if not all(map(str, roots)):
        raise UserError("'' is not a directory: give the one that holds the runs")
    found = [run for root in roots for run in find_runs(Path(root))]
    counted = count_runs(found)
    skipped = {str(run.path): run.left_out for run in found if run.left_out}
    cells = {cell_hash(run.record.cell): run.record.cell for run in counted if run.record}
    rows = [  # a cell may be there under two labels
        {"directory": str(run.path), **flat_row(run.record), "error": run.record.error or ""}
        | {"cell": cells[run.record.key[0]]}
        for run in counted
        if run.record
    ]
    runs = pd.DataFrame(rows)
    if rows:
        runs = runs.drop(columns=_LEFT_OUT, errors="ignore")
        for key in [key for key in runs.columns if "/" in key or key in _NUMBERS]:
            runs[key] = pd.to_numeric(runs[key])  # NaN for None, where there is nothing else, too
        runs = runs.sort_values(["cell", "seed"], ignore_index=True)
    runs.attrs |= {"skipped": skipped, "closed": [run.problem for run in found if run.closed]}
    return runs


def load_metrics(runs: pd.DataFrame | str | Path) -> pd.DataFrame:
    """The metrics of every epoch of `runs` (as from `load_runs`, or a directory of runs).

    One row a run and epoch, in order: directory, cell, seed, epoch, step and every metric under its
    name; NaN where an epoch has no such metric (the augmented view is not measured every epoch) or
    it was not finite. `.attrs["skipped"]` maps files that can't be read to the reason; their runs
    have no rows. Raises UserError where the directory does not exist.
    """
    return _load_lines(runs, METRICS)


def load_probe(runs: pd.DataFrame | str | Path) -> pd.DataFrame:
    """The probe's measurements in `runs`, as `load_metrics`; empty without a probe.

    One row a run, probed epoch and layer: directory, cell, seed, epoch, step, layer, kind and the
    numbers `gradient_flow` defines, NaN where they don't apply.
    """
    return _load_lines(runs, PROBE)


@any_text
def _load_lines(runs: pd.DataFrame | str | Path, name: str) -> pd.DataFrame:
    """A row a line of the files called `name`, after the run's directory, cell and seed."""
    if not isinstance(runs, pd.DataFrame):
        runs = load_runs(runs)
    columns: dict[str, list[Any]] = {"epoch": []}  # a third of the memory that dictionaries take
    lengths = []
    skipped: dict[str, str] = {}
    for directory in runs["directory"] if len(runs) else ():
        lines = []
        try:
            lines = read_run_lines(Path(directory), name)
        except UserError as error:
            skipped[str(Path(directory) / name)] = str(error)
        for line in lines:
            for key in [key for key in line if key not in columns]:
                columns[key] = [math.nan] * len(columns["epoch"])
            for key, values in columns.items():
                value = line.get(key)
                values.append(math.nan if value is None else value)
        lengths.append(len(lines))
    table = pd.DataFrame(columns)
    for position, key in enumerate(("directory", "cell", "seed")):
        table.insert(position, key, np.repeat(runs[key].to_numpy(), lengths) if len(runs) else [])
    table.attrs["skipped"] = skipped
    return table


class Predictions(NamedTuple):
    """A run's last-epoch logits on the validation images."""

    logits: dict[str, np.ndarray]  # by view, "val" and "val_augmented": float16 [n, classes]
    labels: np.ndarray  # int64 [n]
    positions: np.ndarray  # int64 [n]: in the data set


def load_predictions(directory: str | Path) -> Predictions | None:
    """The predictions of a completed run for each validation image; None where it left none.

    Raises UserError where the file is damaged, or not the one that the run wrote.
    """
    path = Path(directory) / PREDICTIONS
    content = read_summed(path.parent, PREDICTIONS, read_record(path.parent))
    if content is None:
        return None
    try:
        check_archive(content).close()
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            logits = {view: stored[f"logits_{view}"] for view in ("val", "val_augmented")}
            labels, positions = stored["labels"], stored["index"]
        n, classes = logits["val"].shape
        arrays = [(each.dtype.kind, *each.shape) for each in (*logits.values(), labels, positions)]
        fit = arrays == [("f", n, classes), ("f", n, classes), ("i", n), ("i", n)]
        expect(fit, f"the arrays {arrays} don't belong together")
        finite = all(np.isfinite(values).all() for values in logits.values())
        expect(finite and 0 <= labels.min() <= labels.max() < classes, "a logit or label can't be")
        return Predictions(logits, labels, positions)
    except Exception as error:  # numpy's reader raises many kinds on a damaged file
        raise UserError(f"{path} can't be read: {describe(error)}") from error


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def identity_keys(runs: pd.DataFrame) -> list[str]:
    """The columns of `runs` that belong to a cell's identity, also of another version's."""
    groups, execution = {key.partition(".")[0] for key in known_identity_keys()}, execution_keys()
    return [c for c in runs.columns if c.partition(".")[0] in groups and c not in execution]


def varying(runs: pd.DataFrame) -> list[str]:
    """The configuration's columns in which `runs` differ; UserError where there are no runs."""
    if runs.empty:
        raise UserError("there are no runs: train some, or name the directory that holds them")
    keys = identity_keys(runs)
    texts = runs[keys].astype(object).where(runs[keys].notna(), None).map(repr)
    keys = [key for key in keys if texts[key].nunique() > 1]
    first = (*COORDINATES, "model.width", "trainer.epochs")
    return sorted(keys, key=lambda key: first.index(key) if key in first else len(first))
