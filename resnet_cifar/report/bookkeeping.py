"""The end of a report: what the runs cost, all runs, and what is in no mean."""

from __future__ import annotations

from typing import Any

import pandas as pd

from resnet_cifar.report import numbers
from resnet_cifar.report.document import Column, Part, Row, Table, heading
from resnet_cifar.report.groups import name_key
from resnet_cifar.report.study import AUGMENTED, VAL
from resnet_cifar.report.tables import cost_table, run_table


def bookkeeping_part(runs: pd.DataFrame, skipped: dict[str, str]) -> list[Part]:
    """Cost, all runs, runs that did not complete, and files that can't be read."""
    parts: list[Part] = []
    cost = cost_table(runs)
    if len(cost):
        parts += [heading("Cost"), _cost_table(cost)]
    if len(runs):
        parts += [heading("All runs"), runs_table(runs)]
    rest = runs[runs["status"] != "completed"] if len(runs) else runs
    if len(rest) or skipped:
        parts.append(heading("Left out of every mean"))
    if len(rest):
        parts.append(_left_out_table(rest))
    if skipped:
        frame = pd.DataFrame(sorted(skipped.items()), columns=["path", "why"])
        columns: dict[str, Column] = {"path": "path", "why": "why"}
        caption = (
            "Runs that can't be read or are there twice, and files of runs that can't be read."
        )
        parts.append(Table("skipped", frame, columns, caption, words=("path", "why")))
    return parts


def runs_table(runs: pd.DataFrame) -> Table:
    """Every run with its outcome and whatever of the configuration differs between runs."""
    frame, keys = run_table(runs)
    columns: dict[str, Column] = {name_key(key): numbers.value_column(key) for key in keys}
    columns |= {"seed": "seed", "status": "status", "epochs": _epochs}
    accuracies = {"val %": VAL, "val augmented %": AUGMENTED, "train %": "accuracy/train"}
    for name, metric in accuracies.items():
        if metric in frame:
            columns[name] = numbers.percent_column(metric)
    if "loss/val" in frame:
        columns["val loss"] = lambda row: numbers.decimals(row["loss/val"], 4)
    columns["minutes"] = lambda row: numbers.decimals(row["seconds"] / 60, 1)
    columns["run"] = lambda row: f"{row['cell']}/seed={row['seed']}"
    caption = (
        "The best last epoch first. Of the configuration the columns that differ between these "
        "runs; the CSV has more."
    )
    words = ("status", "run", *(name_key(key) for key in keys if not _is_number(frame[key])))
    return Table("runs", frame, columns, caption, words=words, detail=True)


def _is_number(values: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _epochs(row: Row) -> str:
    return f"{row['epochs_done']}/{row['epochs']}"


def _cost_table(frame: pd.DataFrame) -> Table:
    columns: dict[str, Column] = {
        "device": "device",
        "data": "data",
        "width": numbers.value_column("model.width"),
        "precision": "precision",
        "threads": "threads",
        "runs": "runs",
        "epochs": "epochs_done",
        "hours": lambda row: f"{row['hours']:.2f}",
        "images/s": lambda row: f"{row['images_per_second']:,.0f}",
        "share of matmul rate %": numbers.percent_column("share_of_matmul_rate", 0),
    }
    caption = "Hours of all sessions, one device each; images/s in training, median over runs."
    return Table("cost", frame, columns, caption, words=("device", "data", "precision"))


def _left_out_table(rest: pd.DataFrame) -> Table:
    columns: dict[str, Column] = {
        "cell": "cell",
        "seed": "seed",
        "status": "status",
        "epochs": _epochs,
        "cause": "error",
    }
    kept = ["cell", "seed", "status", "epochs_done", "epochs", "error", "directory"]
    return Table("left-out", rest[kept], columns, words=("cell", "status", "cause"))
