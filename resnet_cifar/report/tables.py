"""Tables of the runs, pandas in, pandas out. Nothing here is rounded or worded."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from resnet_cifar.identity import varying_keys
from resnet_cifar.record.schema import FINAL
from resnet_cifar.report.groups import Group, is_missing, last_values, name_difference
from resnet_cifar.report.study import AUGMENTED, VAL, Published, matches
from resnet_cifar.runs import statistics
from resnet_cifar.runs.table import varying

# What a table of cells shows of each run's last epoch.
METRICS = (VAL, AUGMENTED, "accuracy/train", "loss/val", "loss/val_augmented", "loss/train")
FEWEST_FOR_A_BAND = 3  # runs


@dataclass(frozen=True, eq=False)
class Tables:
    """Everything that is tabulated of a group, each table once, when it is first asked for."""

    group: Group
    runs: pd.DataFrame  # `load_metrics` of the completed runs
    published: Sequence[Published]

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row a cell of the group, in order.

        Columns: the varied keys; label, cell; n, the number of completed runs; for every metric m
        of `METRICS` and `claimed`: m (mean), m/low, m/high (95 % t-interval, NaN with one run),
        m/sd, m/n (the runs that have it); diverged, the number of seeds that did; published,
        repetitions/low, repetitions/high (their range), prediction/low, prediction/high (where the
        mean of n runs should lie with 95 %), all in the augmented view, and verdict, where the cell
        is one of the published study.
        """
        group, rows = self.group, []
        known = {cell: each for each in self.published for cell in group.find(each.selector)}
        for cell, run in group.configurations.items():
            row: dict[str, Any] = {key: run[key] for key in group.vary}
            row |= {"label": group.labels[cell], "cell": cell, "n": len(group.values(cell, VAL))}
            row["diverged"] = group.diverged[cell]
            for metric in (*METRICS, *self.claimed):
                row |= _summarize(metric, group.values(cell, metric))
            ours, lost = group.values(cell, AUGMENTED), group.diverged[cell]
            row |= _compare_with_published(known.get(cell), ours, lost)
            rows.append(row)
        return pd.DataFrame(rows)

    @cached_property
    def claimed(self) -> list[str]:
        """The metrics that claims of the group's question are about, beside `METRICS`."""
        claims = self.group.question.claims
        named = dict.fromkeys(name for c in claims for name in (c.metric, c.against) if name)
        return [name for name in named if name in self.group.runs and name not in METRICS]

    @cached_property
    def differences(self) -> pd.DataFrame:
        """Every two cells that differ in one key, in `accuracy/val`: the later minus the earlier.

        Columns: first, second (cells; first − second), name (`lr 0.1 − 0.01`), n, difference, low,
        high (NaN where it can't be judged), p, and lost, the seeds of both that diverged.
        """
        group, rows = self.group, []
        sides = {
            cell: {key: [run[key]] for key in group.vary if not is_missing(run[key])}
            for cell, run in group.configurations.items()
        }
        for second, first in itertools.combinations(sides, 2):
            a, b = sides[first], sides[second]
            keys = varying_keys([a, b])
            if len(keys) == 1 and (e := group.compare(first, second)):
                # Named without what only follows from the key.
                shown = [key for key in group.vary if key in keys or a.get(key) == b.get(key)]
                name = name_difference(*({k: x[k] for k in shown if k in x} for x in (a, b)))
                lost = group.diverged[first] + group.diverged[second]
                p = math.nan if lost else e.p()  # survivors would stand for all
                rows.append((first, second, name, e.n, e.mean, e.low, e.high, p, lost))
        names = ["first", "second", "name", "n", "difference", "low", "high", "p", "lost"]
        return pd.DataFrame(rows, columns=names)

    @cached_property
    def ranks(self) -> pd.DataFrame:
        """The cells of a group by their mean `accuracy/val`, best first.

        Cells with a diverged seed come after the others, and those without a run last. Columns:
        those of `cells`; rank; difference, low, high against the best (NaN for the best itself),
        and p, corrected for the best's having been picked among all (Tukey's range).
        """
        order = self.cells.assign(apart=2 * (self.cells["n"] == 0) + (self.cells["diverged"] > 0))
        order = order.sort_values(["apart", VAL], ascending=[True, False], ignore_index=True)
        order["rank"] = order.index + 1
        against = ["difference", "low", "high", "p"]
        order[against] = math.nan
        ran = int((order["n"] > 0).sum())
        for i, cell in enumerate(order["cell"][1:], 1):
            if e := self.group.compare(cell, order["cell"][0]):
                p = math.nan if order["apart"][i] else e.p_of_best(ran)
                order.loc[i, against] = e.mean, e.low, e.high, p
        return order.drop(columns="apart")

    def curve(self, metric: str = VAL) -> pd.DataFrame:
        """Mean, low and high over a cell's completed seeds at every epoch they all have.

        Columns: cell, epoch, n, mean, low, high (95 % t-interval clipped to what is possible; NaN
        below three runs: two say next to nothing of a spread).
        """
        columns = ["cell", "epoch", "n", "mean", "low", "high"]
        if metric not in self.runs or self.group.runs.empty:
            return pd.DataFrame(columns=columns)
        mine = self.runs.dropna(subset=[metric])
        table = mine.groupby(["cell", "epoch"])[metric].agg(["count", "mean", "std"]).reset_index()
        table["n"] = table["cell"].map(self.group.runs["cell"].value_counts())
        table = table[table["count"] == table["n"]]
        half = statistics.half_width(table["std"] / np.sqrt(table["n"]), table["n"] - 1)
        half = half.where(table["n"] >= FEWEST_FOR_A_BAND)
        most = 1 if metric.startswith("accuracy/") else None
        low, high = table["mean"] - half, table["mean"] + half
        return table.assign(low=low.clip(lower=0), high=high.clip(upper=most))[columns]

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """The `curve` of each of `METRICS`."""
        return {metric: self.curve(metric) for metric in METRICS}

    @cached_property
    def picks(self) -> pd.DataFrame:
        """The pick of a decision at epoch k: the cell with the best mean `accuracy/val` by then.

        Means are those of `curve` and `cells`, over each cell's own seeds; a cell with a diverged
        seed has none. Columns: epoch, cell, label, right (is the last epoch's pick), behind (how
        far the pick's last epoch lies below the best's, a fraction), and rank/<cell> (1 is best).
        """
        means = self.curve().pivot_table(index="epoch", columns="cell", values="mean")
        means = means.drop(columns=[*self.group.diverged], errors="ignore")
        table = means.dropna(axis="columns", how="all").dropna()
        if table.empty or table.shape[1] < 2:
            return pd.DataFrame()
        last, chosen = table.iloc[-1], table.idxmax(axis=1)
        picks = chosen.to_frame("cell")
        picks["label"] = chosen.map(self.group.labels)
        picks["right"] = chosen == last.idxmax()
        picks["behind"] = last.max() - chosen.map(last)
        ranks = table.rank(axis=1, ascending=False, method="min").astype(int)
        return picks.join(ranks.add_prefix("rank/")).reset_index()

    @cached_property
    def grid(self) -> pd.DataFrame | None:
        """The mean `accuracy/val` as a map: rows the second varied key, columns the first.

        None unless the group's cells differ in two keys and fill at least 2 × 2 of a grid.
        """
        if len(keys := self.group.vary) != 2:
            return None
        table = self.cells.pivot_table(VAL, keys[1], keys[0], sort=False)
        table = table.sort_index() if pd.api.types.is_numeric_dtype(table.index) else table
        return table if min(table.shape) >= 2 else None


def tabulate(group: Group, curves: pd.DataFrame, published: Sequence[Published] = ()) -> Tables:
    """The tables of a group; `curves` as from `load_metrics`."""
    return Tables(group, curves[curves["directory"].isin(group.runs["directory"])], published)


def correct_differences(answers: Sequence[Tables]) -> None:
    """Add p/holm to the differences of all `answers`: p corrected for their number (Holm).

    Two questions may ask for one comparison: it counts once. A cell may be there in two precisions.
    """

    def keys(answer: Tables) -> list[tuple[str, ...]]:
        precision, table = str(answer.group.everything["precision"].iloc[0]), answer.differences
        return [(*cells, precision) for cells in zip(table["first"], table["second"], strict=True)]

    tested = [pair for a in answers for pair in zip(keys(a), a.differences["p"], strict=True)]
    p_values = dict(tested)
    corrected = dict(zip(p_values, statistics.holm([*p_values.values()]), strict=True))
    for answer in answers:
        answer.differences["p/holm"] = [corrected[key] for key in keys(answer)]


def _summarize(name: str, values: "pd.Series[float]") -> dict[str, float]:
    mean = low = high = math.nan
    if len(values):
        e = statistics.estimate(values)
        mean, low, high = e.mean, e.low, e.high
    row = {name: mean, f"{name}/low": low, f"{name}/high": high, f"{name}/sd": values.std()}
    return row | {f"{name}/n": len(values)}


def _compare_with_published(
    known: Published | None, ours: "pd.Series[float]", lost: int
) -> dict[str, Any]:
    """The published values and the verdict on ours, in the augmented view; `lost` ones diverged."""
    ends = [f"{of}/{end}" for of in ("repetitions", "prediction") for end in ("low", "high")]
    row: dict[str, Any] = dict.fromkeys(("published", *ends), math.nan) | {"verdict": ""}
    if known is not None:
        others = list(known.values(AUGMENTED).values())
        row["published"] = known.published[AUGMENTED]
        low, high = (of(others, default=math.nan) for of in (min, max))
        row |= {"repetitions/low": low, "repetitions/high": high}
        row["verdict"] = "too few repetitions" if len(ours) else "not run"
        if len(ours) and known.freedom:
            low, high = statistics.prediction_interval(others, len(ours), known.sd, known.freedom)
            row |= {"prediction/low": low, "prediction/high": high}
            row["verdict"] = judge_reproduction(float(ours.mean()), low, high)
        if lost:  # survivors do not speak for a cell
            row["verdict"] = f"{lost} of {lost + len(ours)} diverged"
    return row


def judge_reproduction(mean: float, low: float, high: float) -> str:
    """Place a mean accuracy against the prediction interval from the repetitions."""
    if low <= mean <= high:
        return "inside"
    side, distance = ("above", mean - high) if mean > high else ("below", low - mean)
    return f"{100 * distance:.2f} points {side}"


def study_table(runs: pd.DataFrame, published: Sequence[Published]) -> pd.DataFrame:
    """All published cells, a row for each precision of ours: n, ours, the repetitions, verdict."""
    rows = []
    ended = runs[runs["status"].isin(FINAL)]
    for known in published:
        found = ended[matches(ended, known.selector)]
        parts = list(found.groupby("precision")) if len(found) else [("", found)]
        for precision, every in parts:
            mine = every[every["status"] == "completed"]
            ours = last_values(mine, AUGMENTED)
            name = f"{known.name}, {precision}" if len(parts) > 1 else known.name
            row: dict[str, Any] = {"cell": name, "n": len(ours)}
            row |= _compare_with_published(known, ours, len(every) - len(mine))
            row["repetitions/n"] = len(known.values(AUGMENTED))
            row |= _summarize(AUGMENTED, ours) | _summarize(VAL, last_values(mine, VAL))
            row["accuracy/test"] = float(last_values(mine, "accuracy/test").mean())
            row["published/test"] = known.published.get("accuracy/test", math.nan)
            rows.append(row)
    return pd.DataFrame(rows)


def run_table(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """All runs, best `accuracy/val` first, and the columns of the configuration that differ."""
    keys = varying(runs)
    columns = ["cell", "seed", "status", *keys, "epochs_done", "epochs"]
    others = "(?!speed/|best/(?!accuracy/val$|epoch$)).+/(?!test$).+"
    own = [key for key in map(str, runs) if re.fullmatch(others, key) and key not in METRICS]
    measured = [*(metric for metric in METRICS if metric in runs), *own]
    rest = ["seconds", "images_per_second", "device", "precision", "code", "started", "directory"]
    table = runs[[*columns, *measured, *rest]]
    if VAL in table:
        table = table.sort_values(VAL, ascending=False, na_position="last", kind="stable")
    return table.reset_index(drop=True), keys


def find_settled_epoch(picks: pd.DataFrame) -> int:
    """The first epoch of `Tables.picks` from which the pick stays the last epoch's."""
    last_wrong = max(picks.loc[~picks["right"], "epoch"], default=0)
    return int(picks.loc[picks["epoch"] > last_wrong, "epoch"].min())


def find_keys_at_edge(tables: Tables) -> list[str]:
    """The keys of three numbers or more of which the best cell has the smallest or the largest."""
    ended = tables.ranks[tables.ranks[["n", "diverged"]].any(axis="columns")]
    best = ended[ended["diverged"] == 0].head(1)
    numeric = ended[[*tables.group.vary]].select_dtypes("number")
    tried = numeric.loc[:, numeric.nunique() > 2]
    # Nothing lies beyond 0.
    return [str(k) for k, of in tried.items() if best[k].isin([of.min() or None, of.max()]).any()]


def cost_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The cost of the runs, by device, data, width, precision and threads.

    Columns: device, setting, runs, epochs_done, hours (all sessions, waiting included),
    images_per_second (median over runs), share_of_matmul_rate (median).
    """
    keys = ["device", "data", "model.width", "precision", "threads"]
    table = runs.groupby(keys, dropna=False, as_index=False).agg(
        runs=("directory", "size"),
        epochs_done=("epochs_done", "sum"),
        hours=("seconds", lambda s: float(s.sum()) / 3600),
        images_per_second=("images_per_second", "median"),
        share_of_matmul_rate=("share_of_matmul_rate", "median"),
    )
    return table.sort_values("hours", ascending=False, ignore_index=True)


def find_mixed_cells(runs: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """Find cells whose runs differ in code, versions, …: by that the cells, each with its kinds."""
    mixed: dict[str, dict[str, list[str]]] = {}
    for cell, part in runs[runs["status"] == "completed"].groupby("cell"):
        for key in ("code", "versions", "device", "precision"):
            kinds = sorted({kind for value in part[key] for kind in str(value).split(" | ")})
            if len(kinds) > 1:
                mixed.setdefault(key, {})[str(cell)] = kinds
    return mixed
