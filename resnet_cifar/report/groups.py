"""Groups of runs that are compared: questions and settings, and labels that tell cells apart.

Runs are compared within one setting only: data, model, epochs and the precision that was used.
Whatever else varies there is what was asked, by a question of experiments/questions.yaml or without
one. Only completed runs enter a mean.
"""

import dataclasses
import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
import pandas as pd

from resnet_cifar.config import schema
from resnet_cifar.config.saved import usual_values
from resnet_cifar.identity import COORDINATES, UNNAMED, USUAL, number, varying_keys
from resnet_cifar.report.study import VAL, WORDS, Question, Selector, matches
from resnet_cifar.runs import statistics
from resnet_cifar.runs.table import identity_keys, records
from resnet_cifar.text import printable

TITLES: dict[str, str] = WORDS["keys"]
OTHER = Question("Other runs", {}, (), name="other")
BEST = Question("Which is best?", {}, (), name="best")
Weights = Mapping[tuple[str, str], int]  # of a cell's metric in a sum
_ORDER = ("none", "constant", "sgd", "crop_flip", "mean", "var", "both", "step", "cosine")
_MISSING = "–"  # stands for a key a cell doesn't have, in comparisons and in labels


class Spreads:
    """The variance between seeds that the cells of each setting share, metric by metric."""

    def __init__(self, runs: pd.DataFrame) -> None:
        keys = [key for key in [*identity_keys(runs), "precision"] if statistics.is_of_setting(key)]
        setting = runs.groupby(keys, dropna=False, sort=False).ngroup()
        self._of_run = dict(zip(runs["directory"], setting, strict=True))
        # A cell that collapses, or diverges at some seeds, has a spread of its own.
        lost = (runs["status"] == "diverged").groupby([setting, runs["cell"]]).transform("any")
        apart = lost | np.array([*map(statistics.collapses, records(runs))], bool)
        sharing = runs[~apart & (runs["status"] == "completed")]
        sharing = sharing.assign(training=_number_trainings(sharing))
        self._sharing = dict(list(sharing.groupby(setting)))
        self._pool = cache(self._estimate)

    def pool(self, run: dict[str, Any], metric: str, logs: bool = False) -> statistics.Pool:
        """The pool of the setting of a cell, of which `run` is one; empty for a cell apart."""
        of = self._of_run[run["directory"]]
        shares = of in self._sharing and (self._sharing[of]["cell"] == run["cell"]).any()
        return self._pool(of, metric, logs) if shares else statistics.EMPTY

    def _estimate(self, of: int, metric: str, logs: bool) -> statistics.Pool:
        runs = self._sharing[of].reindex(columns=["training", "cell", "seed", metric]).dropna()
        parts = sorted(runs.groupby(["training", "cell"]), key=lambda part: len(part[1]))
        cells = {training: part for (training, _), part in parts}.values()  # the fullest of each
        return statistics.pool([list(last_values(part, metric, logs)) for part in cells])


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """The runs that answer one question in one setting."""

    question: Question
    setting: str  # for people
    everything: pd.DataFrame  # its runs of every status
    vary: tuple[str, ...]  # columns that tell its cells apart, the question's first
    spreads: Spreads

    @property
    def name(self) -> str:
        """For file names: question and setting."""
        name = "-".join([self.question.name, *re.findall(r"[a-z0-9.]+", self.setting.lower())])
        if len(name) <= 150 and self.setting.isascii():
            return name
        return f"{name[:140]}-{hashlib.sha256(self.setting.encode()).hexdigest()[:8]}"

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The completed runs."""
        return self.everything[self.everything["status"] == "completed"]

    @cached_property
    def configurations(self) -> dict[str, dict[str, Any]]:
        """One run's row for each cell, in the order of the varied values."""
        rows = records(self.everything.drop_duplicates("cell"))
        usual = usual_values()
        rows.sort(key=lambda row: [_order_value(row[key], usual.get(key)) for key in self.vary])
        return {str(row["cell"]): row for row in rows}

    @cached_property
    def labels(self) -> dict[str, str]:
        """The label of each cell, in the same order: `lr 0.01`, `cosine, weight decay 0.01`."""
        # Of many keys most have their usual value; two or three are all named.
        plain = usual_values() if self.question is BEST and len(self.vary) > 3 else {}
        labels = {}
        for cell, row in self.configurations.items():
            words = {key: describe_value(key, row.get(key)) for key in self.vary}
            odd = [key for key in words if words[key] != describe_value(key, plain.get(key))]
            told = [key for key in self.vary if key in COORDINATES or key in odd] or self.vary
            labels[cell] = ", ".join(words[key] for key in told) or printable(cell)
        return labels

    @cached_property
    def diverged(self) -> Counter[str]:
        """The number of each cell's seeds that diverged."""
        return Counter(self.everything["cell"][self.everything["status"] == "diverged"])

    @cached_property
    def values(self) -> "Callable[..., pd.Series[float]]":
        """The last epoch's metric of a cell's completed runs: `last_values`, by the cell's name."""
        runs = dict(list(self.runs.groupby("cell")))

        @cache  # asked for again by every pair
        def values(cell: str, metric: str, logs: bool = False) -> "pd.Series[float]":
            return last_values(runs.get(cell, pd.DataFrame()), metric, logs)

        return values

    @property
    def chance(self) -> float:
        """Accuracy of a network that has learnt nothing; its loss is −ln of it. NaN: not known."""
        classes = {k.NAME: len(getattr(k, "CLASSES", ())) for k in schema.groups()["data"]}
        return 1 / (classes.get(self.everything["data"].iloc[0]) or math.nan)

    def pool(self, cell: str, metric: str = VAL, logs: bool = False) -> statistics.Pool:
        """The variance that moderates a cell's own, of a metric or of its logarithm."""
        return self.spreads.pool(self.configurations[cell], metric, logs)

    def compare(self, first: str, second: str, metric: str = VAL) -> statistics.Estimate | None:
        """The two-sample comparison of two cells; None where one has no completed run."""
        return self.combine({(first, metric): 1, (second, metric): -1})

    def combine(
        self, weights: Weights, logs: bool = False, lost: float | None = None
    ) -> statistics.Estimate | None:
        """Add cells' means, or those of logarithms, weighted; None where one has no value.

        With `lost`, a diverged run counts with that value.
        """
        terms = []
        for (cell, metric), weight in weights.items():
            values = list(self.values(cell, metric, logs))
            if not values:
                return None
            values += [lost] * self.diverged[cell] if lost is not None else []
            terms.append((weight, values, self.pool(cell, metric, logs)))
        return statistics.compare(terms) if terms else None

    def find(self, selector: Selector) -> list[str]:
        """The cells `selector` means."""
        return list(self.everything[matches(self.everything, selector)]["cell"].unique())


def last_values(runs: pd.DataFrame, metric: str, logs: bool = False) -> "pd.Series[float]":
    """The last epoch's metric of one cell's runs, or its logarithm, by seed, where there is one."""
    if metric not in runs:
        return pd.Series(dtype=float)
    values = runs[metric].set_axis(runs["seed"]).dropna().sort_index()
    return values[values > 0].map(math.log) if logs else values


def group_by_question(runs: pd.DataFrame, questions: Sequence[Question]) -> list[Group]:
    """Every (question, setting) with at least two cells, fullest settings first.

    What no question of the file asks about is asked by itself: which keys were varied.
    """
    spreads = Spreads(runs)
    groups: list[Group] = []
    for question in questions:
        groups += _split(runs[matches(runs, question.where)], question, spreads)
    asked = {run for group in groups for run in group.everything["directory"]}
    for whole in _split(runs, BEST, spreads):
        groups += _ask(whole, asked)
    return _number_repeated(groups)


def _ask(whole: Group, asked: Collection[str]) -> list[Group]:
    """Group the runs of a setting that are not `asked` about by the one or two keys they vary.

    Two keys, where the cells fill more of a grid than its two axes; the rest are left together.
    """
    rows = whole.everything
    several = [key for key in identity_keys(rows) if rows[key].nunique(dropna=False) > 1]
    following = [key for key in several if key not in whole.vary]
    seen = set(asked)
    groups: list[Group] = []
    for count in (2, 1):
        for keys in itertools.combinations(whole.vary, count):
            names = " and ".join(map(name_key, keys))
            words = f"What {'do' if count > 1 else 'does'} {names} change?"
            question = Question(words, {}, keys, name="-".join(["by", *keys]))
            for group in _split(rows, question, whole.spreads, following):
                pairs = group.everything[[*keys]].drop_duplicates()
                cells = set(group.everything["cell"])
                grid = count == 1 or len(pairs) > pairs.nunique(dropna=False).sum() - 1
                known = any(cells <= set(other.everything["cell"]) for other in groups)
                if grid and not known and not set(group.everything["directory"]) <= seen:
                    groups.append(group)
    seen = seen.union(*(group.everything["directory"] for group in groups))
    rest = rows[~rows["directory"].isin(seen)]
    return groups + [group for group in _split(rest, OTHER, whole.spreads) if len(group.runs)]


def group_by_setting(runs: pd.DataFrame) -> list[Group]:
    """The runs by setting alone, one of each training: all its cells can be ranked."""
    once = _number_trainings(runs, "seed").drop_duplicates().index
    return _number_repeated(_split(runs[runs.index.isin(once)], BEST, Spreads(runs)))


def _number_trainings(runs: pd.DataFrame, *more: str) -> "pd.Series[int]":
    """Number the trainings, also by the columns `more`, the runs that average least first."""
    # Averaging changes no update: runs that differ in it alone are one training.
    averaging = [key for key in runs if key == "regularization.ema_decay"]
    keys = [*identity_keys(runs.drop(columns=averaging)), "precision", *more]
    return runs.sort_values(averaging).groupby(keys, dropna=False, sort=False).ngroup()


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


def _split(
    runs: pd.DataFrame, question: Question, spreads: Spreads, following: Collection[str] = ()
) -> list[Group]:
    """The groups of a question's runs that vary all its keys, most parameters and epochs first.

    Keys `following` from others, as an optimizer's usual rate from the optimizer, separate nothing.
    """
    keys = [*identity_keys(runs), "precision"]
    if not set(question.vary) <= set(keys):
        return []
    plain = runs[keys].astype(object).where(runs[keys].notna(), _MISSING)
    # A varied kind (scheduler=…) brings fields of its own, which vary with it. A field that every
    # kind has, as every model its width, does not come with the kind.
    free = tuple(f"{key}." for key in question.vary if "." not in key)
    brought = [key for key in keys if key.startswith(free) and runs[key].isna().any()]
    others = [key for key in keys if key not in (*question.vary, *following, *brought)]
    may_vary = question.where if question.vary else keys
    fixed = [key for key in others if statistics.is_of_setting(key) or key not in may_vary]
    groups: list[Group] = []
    parts = list(runs.groupby([plain[key] for key in fixed], sort=False))
    settings = Counter(values[:-1] for values, _ in parts)  # without the precision, the last
    for values, part in parts:
        mine = plain.loc[part.index]
        if any(mine[key].nunique() < 2 for key in question.vary):
            continue
        several = [key for key in keys if mine[key].nunique() > 1]
        if vary := list(question.vary):
            # `scheduler.eta_min` is there for cosine alone: it follows from the schedule.
            within = mine.groupby(vary, sort=False)
            vary += [k for k in several if k not in vary and np.max(within[k].nunique()) > 1]
        else:
            vary = list(varying_keys(records(mine[several])))
            vary.sort(key=lambda key: COORDINATES.index(key) if key in COORDINATES else 9)
        known = dict(zip(fixed, values, strict=True))
        # Named where the runs at hand have several in the same setting.
        alone = [] if settings[values[:-1]] > 1 else ["precision"]
        setting = describe_setting(known, (*question.vary, *alone))
        groups.append(Group(question, setting, part, tuple(vary), spreads))
    largest = ("parameters", "epochs")
    groups.sort(key=lambda g: [float(g.everything[x].max()) for x in largest], reverse=True)
    return groups


# In words ----------------------------------------------------------------------------------------


def describe_setting(values: dict[str, Any], varied: Sequence[str] = ()) -> str:
    """`CIFAR-10, width 64, 300 epochs`, then the study's coordinates and what is unusual."""
    data = values["data"]
    first = ("model.width", "trainer.epochs")
    parts = [printable(str(WORDS["data"].get(data, data)))]
    parts += [describe_value(key, values[key]) for key in first if key in values.keys() - varied]
    usual = usual_values() | {"norm": "batchnorm", "norm.detach": "none"}
    for key, value in values.items():
        if key in ("data", *first, *varied) or value == _MISSING:
            continue
        if key.startswith("data.") and f"{data}.{key[5:]}" in UNNAMED:
            continue  # the synthetic data's own constants
        words, validated = describe_value(key, value), key == "data.val_size"
        if words != describe_value(key, usual.get(key)) or (validated and data != USUAL["data"]):
            parts.append(words)
    return ", ".join(parts)


def name_difference(first: Selector, second: Selector) -> str:
    """`lr 0.01 − 0.1`, `detach none − var, weight decay 0.01`: what differs, then what is equal."""
    differing, equal = [], []
    for key in first | second:
        sides = [side.get(key, [None]) for side in (first, second)]
        a, b = (" or ".join(describe_value(key, one) for one in values) for values in sides)
        if a == b:
            equal.append(a)
        else:
            differing.append(f"{a} − {b.removeprefix(f'{name_key(key)} ')}")
    return ", ".join(differing + equal)


def is_missing(value: object) -> bool:
    """True if a cell has no such key."""
    return value in (None, _MISSING) or (isinstance(value, float) and math.isnan(value))


def describe_value(key: str, value: object) -> str:
    """A configuration key and its value: `lr 0.01`, `300 epochs`, `cosine`."""
    if is_missing(value):
        return f"no {name_key(key)}"
    if key == "trainer.epochs":
        return f"{value} epoch" + "s" * (value != 1)
    if key in ("scheduler", "norm", "optimizer", "model", "data"):
        return printable(str(value))
    return printable(f"{name_key(key)} {number(value)}")


def name_key(key: str) -> str:
    """The name of a configuration key in tables and labels."""
    return TITLES.get(key, printable(key.rpartition(".")[2].replace("_", " ")))


def _order_value(value: object, usual: object) -> tuple[int, float, str]:
    """Sort key: numbers by size, words in the study's order; first none, and the usual word."""
    if is_missing(value) or (isinstance(usual, (str, list)) and value == number(usual)):
        return 0, -math.inf, ""
    if isinstance(value, (int, float)) and not math.isnan(float(value)):
        return 0, float(value), ""
    return 1, float(_ORDER.index(str(value)) if str(value) in _ORDER else len(_ORDER)), str(value)
