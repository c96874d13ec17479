"""Groups of runs that are compared: questions and settings, and labels that tell cells apart.

A *setting* is everything of the configuration that a question does not vary: data, width, epochs, …
Runs are compared within one setting only. Only completed runs enter a mean.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from resnet_cifar.identity import COORDINATES, USUAL, number
from resnet_cifar.report.study import Question, Selector, matches
from resnet_cifar.runs.table import identity_keys, records
from resnet_cifar.text import printable

TITLES = {
    "optimizer.lr": "lr",
    "scheduler": "schedule",
    "regularization.weight_decay": "weight decay",
    "norm.detach": "detach",
    "model.width": "width",
    "trainer.epochs": "epochs",
}
OTHER = Question("Runs no question asks about", {}, COORDINATES, name="other")
BEST = Question("Which is best?", {}, COORDINATES, name="best")
_MISSING = "–"  # stands for a key a cell doesn't have, in comparisons and in labels


@dataclass(frozen=True, eq=False)
class Group:
    """The runs that answer one question in one setting."""

    question: Question
    setting: str  # for people
    runs: pd.DataFrame  # completed
    left_out: pd.DataFrame  # every other run of the group
    vary: tuple[str, ...]  # columns that tell its cells apart, the question's first

    @property
    def name(self) -> str:
        """For file names: question and setting."""
        name = "-".join([self.question.name, *re.findall(r"[a-z0-9.]+", self.setting.lower())])
        if len(name) <= 150 and self.setting.isascii():
            return name
        return f"{name[:140]}-{hashlib.sha256(self.setting.encode()).hexdigest()[:8]}"

    @property
    def asked(self) -> bool:
        """True if a question asks about these runs, and one of them is completed."""
        return self.question not in (OTHER, BEST) and len(self.runs) > 0

    @cached_property
    def everything(self) -> pd.DataFrame:
        """The runs of every status."""
        return pd.concat([self.runs, self.left_out]) if len(self.left_out) else self.runs

    @cached_property
    def configurations(self) -> dict[str, dict[str, Any]]:
        """One run's row for each cell, in the order of the varied values."""
        rows = records(self.everything.drop_duplicates("cell"))
        rows.sort(key=lambda row: [_order_value(row[key]) for key in self.vary])
        return {str(row["cell"]): row for row in rows}

    @cached_property
    def labels(self) -> dict[str, str]:
        """The label of each cell, in the same order: `lr 0.01`, `cosine, weight decay 0.01`."""
        return {
            cell: ", ".join(describe_value(key, row.get(key)) for key in self.vary)
            or printable(cell)
            for cell, row in self.configurations.items()
        }

    @cached_property
    def _runs_by_cell(self) -> dict[str, pd.DataFrame]:
        return {str(cell): part for cell, part in self.runs.groupby("cell")}

    def values(self, cell: str, metric: str) -> pd.Series[float]:
        """The last epoch's metric of a cell's completed runs, by seed; without what is missing."""
        return last_values(self._runs_by_cell.get(cell, pd.DataFrame()), metric)

    def find(self, selector: Selector) -> list[str]:
        """The cells `selector` means."""
        return list(self.everything[matches(self.everything, selector)]["cell"].unique())


def last_values(runs: pd.DataFrame, metric: str) -> pd.Series[float]:
    """The last epoch's metric of one cell's runs, by seed; without what is missing."""
    if metric not in runs:
        return pd.Series(dtype=float)
    return runs[metric].set_axis(runs["seed"]).dropna().sort_index()


def group_by_question(runs: pd.DataFrame, questions: Sequence[Question]) -> list[Group]:
    """Every (question, setting) with at least two cells, fullest settings first.

    Runs that no question asks about are grouped by the study's coordinates.
    """
    if runs.empty:
        return []
    groups: list[Group] = []
    asked: set[str] = set()
    for question in questions:
        for group in _split_by_setting(runs[matches(runs, question.where)], question):
            rows = group.everything
            if all(key in rows and rows[key].nunique() > 1 for key in question.vary):
                groups.append(group)
                asked |= set(rows["directory"])
    rest = runs[~runs["directory"].isin(asked)]
    groups += [group for group in _split_by_setting(rest, OTHER) if len(group.runs)]
    return _number_repeated(groups)


def group_by_setting(runs: pd.DataFrame) -> list[Group]:
    """The runs by everything but the study's coordinates: cells in a group can be ranked."""
    return _number_repeated(_split_by_setting(runs, BEST)) if len(runs) else []


def _number_repeated(groups: list[Group]) -> list[Group]:
    """The groups, numbered where two of a question are described in the same words."""
    names: Counter[str] = Counter()
    result = []
    for group in groups:
        names[group.name] += 1
        count = names[group.name]
        setting = f"{group.setting} ({count})" if count > 1 else group.setting
        result.append(dataclasses.replace(group, setting=setting))
    return result


def _split_by_setting(runs: pd.DataFrame, question: Question) -> list[Group]:
    """The groups of a question's runs, those with most parameters and epochs first."""
    keys = identity_keys(runs)
    plain = runs[keys].astype(object).where(runs[keys].notna(), _MISSING)
    # A varied kind (scheduler=…) brings fields of its own, which vary with it. A field that every
    # kind has, as every model its width, does not come with the kind.
    free = tuple(f"{key}." for key in question.vary if "." not in key)
    fixed = [
        key
        for key in keys
        if key not in question.vary
        and key not in question.where
        and not (key.startswith(free) and runs[key].isna().any())
    ]
    groups: list[Group] = []
    for values, part in runs.groupby([plain[key] for key in fixed], sort=False):
        mine = plain.loc[part.index]
        given = [key for key in question.vary if key in keys]
        vary = [key for key in given if mine[key].nunique() > 1]
        # `scheduler.eta_min` is there for cosine alone: it follows from the schedule.
        within = mine.groupby(given, sort=False) if given else mine
        vary += [k for k in keys if k not in given and np.max(within[k].nunique()) > 1]
        setting = describe_setting(dict(zip(fixed, values, strict=True)), question.vary)
        done = part["status"] == "completed"
        groups.append(Group(question, setting, part[done], part[~done], tuple(vary)))
    largest = ("parameters", "epochs")
    groups.sort(key=lambda g: [float(g.everything[x].max()) for x in largest], reverse=True)
    return groups


# In words ----------------------------------------------------------------------------------------


def describe_setting(values: dict[str, Any], varied: Sequence[str] = ()) -> str:
    """`CIFAR-10, width 64, 300 epochs`, then the study's coordinates and what is unusual."""
    data = values["data"]
    names = {"cifar10": "CIFAR-10", "synthetic": "synthetic data"}
    first = ("model.width", "trainer.epochs")
    parts = [printable(str(names.get(data, data)))]
    parts += [describe_value(key, values[key]) for key in first if key in values.keys() - varied]
    usual = USUAL | {"norm": "batchnorm", "norm.detach": "none"}
    for key, value in values.items():
        if key in ("data", *first, *varied) or value == _MISSING:
            continue
        if key.startswith("data.") and key not in USUAL:
            continue  # the synthetic data's own constants
        if value != usual.get(key) or (key == "data.val_size" and data != USUAL["data"]):
            parts.append(describe_value(key, value))
    return ", ".join(parts)


def is_missing(value: object) -> bool:
    """True if a cell has no such key."""
    return value in (None, _MISSING) or (isinstance(value, float) and math.isnan(value))


def describe_value(key: str, value: object) -> str:
    """A configuration key and its value: `lr 0.01`, `300 epochs`, `cosine`."""
    if is_missing(value):
        return f"no {name_key(key)}"
    if key == "trainer.epochs":
        return f"{value} epochs"
    if key in ("scheduler", "norm", "optimizer", "model", "data"):
        return printable(str(value))
    return printable(f"{name_key(key)} {number(value)}")


def name_key(key: str) -> str:
    """The name of a configuration key in tables and labels."""
    return TITLES.get(key, printable(key.rpartition(".")[2].replace("_", " ")))


def _order_value(value: object) -> tuple[int, float, str]:
    """Sort key: numbers by size, words in the study's order."""
    order = ["none", "constant", "batchnorm", "mean", "var", "both", "step", "cosine"]
    if isinstance(value, (int, float)) and not math.isnan(float(value)):
        return 0, float(value), ""
    return 1, float(order.index(str(value)) if str(value) in order else len(order)), str(value)
