"""From runs to answers: settings, tables, paired differences, verdicts. pandas in, pandas out.

A *setting* is everything of the configuration that a question does not vary: data, width, epochs, …
Runs are compared within one setting only. Only completed runs enter a mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from resnet_cifar.identity import COORDINATES, SHORT, USUAL, number
from resnet_cifar.report.statistics import (
    Estimate,
    estimate,
    paired_differences,
    r_squared,
    seeds_to_resolve,
    t_half_width,
)
from resnet_cifar.report.study import Claim, Published, Question, Selector, agrees, matches
from resnet_cifar.results import identity_keys, records

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
VAL, AUGMENTED = "accuracy/val", "accuracy/val_augmented"
# What a table of cells shows of each run's last epoch.
METRICS = (VAL, AUGMENTED, "accuracy/train", "loss/val", "loss/val_augmented", "loss/train")
TITLES = {
    "optimizer.lr": "lr",
    "scheduler": "schedule",
    "regularization.weight_decay": "weight decay",
    "norm.detach": "detach",
    "model.width": "width",
    "trainer.epochs": "epochs",
}
_MISSING = "–"  # stands for a key a cell doesn't have, in comparisons and in labels


@dataclass(frozen=True)
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
        words = "".join(c if c.isalnum() or c == "." else " " for c in self.setting.lower())
        return "-".join([self.question.name, *words.split()])

    @property
    def everything(self) -> pd.DataFrame:
        """The runs of every status."""
        return pd.concat([self.runs, self.left_out]) if len(self.left_out) else self.runs

    def cells(self) -> list[tuple[str, str]]:
        """(cell, label) in the order of the varied values."""
        rows = self.everything
        rows = rows.drop_duplicates("cell")
        order = sorted(records(rows), key=lambda row: [_rank(row[k]) for k in self.vary])
        return [(str(row["cell"]), self.label(row)) for row in order]

    def label(self, row: dict[str, Any]) -> str:
        """`lr 0.01`, `cosine, weight decay 0.01`."""
        return ", ".join(_say(key, row.get(key)) for key in self.vary) or str(row["cell"])

    def values(self, cell: str, metric: str) -> pd.Series[float]:
        """The last epoch's metric of a cell's completed runs, by seed; without what is missing."""
        rows = self.runs[self.runs["cell"] == cell]
        if metric not in rows:
            return pd.Series(dtype=float)
        return rows.set_index("seed")[metric].dropna().sort_index()

    def find(self, selector: Selector) -> list[str]:
        """The cells `selector` means."""
        rows = self.everything
        return list(rows[matches(rows, selector)]["cell"].unique())


def groups(runs: pd.DataFrame, questions: Sequence[Question]) -> list[Group]:
    """Every (question, setting) with at least two cells, fullest settings first.

    Runs that no question asks about are grouped by the study's coordinates.
    """
    if runs.empty:
        return []
    keys = identity_keys(runs)
    found: list[Group] = []
    asked: set[str] = set()
    for question in questions:
        for group in _settings(runs[matches(runs, question.where)], question, keys):
            if _spans(group):
                found.append(group)
                asked |= set(group.runs["directory"]) | set(group.left_out["directory"])
    rest = runs[~runs["directory"].isin(asked)]
    other = Question("other", "Runs no question asks about", {}, COORDINATES)
    return found + [group for group in _settings(rest, other, keys) if len(group.runs)]


def _settings(runs: pd.DataFrame, question: Question, keys: list[str]) -> list[Group]:
    # A varied kind (scheduler=…) brings fields of its own, which vary with it.
    free = tuple(f"{key}." for key in question.vary if "." not in key)
    fixed = [
        key
        for key in keys
        if key not in question.vary and key not in question.where and not key.startswith(free)
    ]
    found: list[Group] = []
    if runs.empty:
        return found
    stand_in = runs[fixed].astype(object).where(runs[fixed].notna(), _MISSING)
    for values, part in runs.groupby([stand_in[key] for key in fixed], sort=False):
        done = part["status"] == "completed"
        differing = [key for key in keys if part[key].astype(object).fillna(_MISSING).nunique() > 1]
        vary = tuple(key for key in (*question.vary, *differing) if key in differing)
        vary = tuple(dict.fromkeys(vary))
        # `scheduler.eta_min` is there for cosine alone: it follows from the schedule.
        vary = tuple(k for k in vary if k in question.vary or not _follows(part, k, question.vary))
        setting = describe_setting(dict(zip(fixed, values, strict=True)), question.vary)
        found.append(Group(question, setting, part[done], part[~done], vary))
    return sorted(found, key=_size, reverse=True)


def _follows(runs: pd.DataFrame, key: str, given: Sequence[str]) -> bool:
    known = [k for k in given if k in runs]
    text = runs[[*known, key]].astype(object).fillna(_MISSING)
    return bool((text.groupby(known)[key].nunique() <= 1).all()) if known else False


def _size(group: Group) -> tuple[float, ...]:
    runs = group.everything
    return tuple(float(runs[k].max()) for k in ("parameters", "epochs"))


def _spans(group: Group) -> bool:
    """Whether the group compares something: every varied key takes two values or more."""
    runs = group.everything
    return all(key in runs and runs[key].nunique() > 1 for key in group.question.vary)


def describe_setting(values: dict[str, Any], varied: Sequence[str] = ()) -> str:
    """`CIFAR-10, width 64, 300 epochs`, then the study's coordinates and what is unusual."""
    data = {"cifar10": "CIFAR-10", "synthetic": "drawn images"}.get(values["data"], values["data"])
    parts = [str(data)]
    for key in ("model.width", "trainer.epochs"):
        if key in values and key not in varied:
            parts.append(_say(key, values[key]))
    for key, value in values.items():
        if key in ("data", "model.width", "trainer.epochs") or key in varied or value == _MISSING:
            continue
        size = key.startswith("data.") and key.endswith("_size") and values["data"] != USUAL["data"]
        if size or (key in COORDINATES and not key.startswith("norm")) or value != USUAL.get(key):
            if (key == "norm.detach" and value == "none") or (
                key == "norm" and value == "batchnorm"
            ):
                continue
            if key.startswith("data.") and USUAL.get(key) is None:
                continue  # the drawn images' own constants
            parts.append(_say(key, value))
    return ", ".join(parts)


def _say(key: str, value: object) -> str:
    if value is None or value == _MISSING or (isinstance(value, float) and math.isnan(value)):
        return f"no {title(key)}"
    if key == "trainer.epochs":
        return f"{value} epochs"
    if key in ("scheduler", "norm", "optimizer", "model", "data"):
        return str(value)
    return f"{title(key)} {number(value)}"


def title(key: str) -> str:
    """What a table calls a configuration key."""
    return TITLES.get(key, key.rpartition(".")[2].replace("_", " "))


def _rank(value: object) -> tuple[int, float, str]:
    """Sort key: numbers by size, words in the study's order."""
    order = ["none", "constant", "batchnorm", "mean", "var", "both", "step", "cosine"]
    if isinstance(value, (int, float)) and not math.isnan(float(value)):
        return 0, float(value), ""
    return 1, float(order.index(str(value)) if str(value) in order else len(order)), str(value)


# Tables ------------------------------------------------------------------------------------------


def cell_table(group: Group, published: Sequence[Published] = ()) -> pd.DataFrame:
    """One row a cell of the group, in order.

    Columns: the varied keys; label, cell; n, the number of completed runs; for every metric m of
    `METRICS`: m (mean), m/low, m/high (95 % t-interval, NaN with one run), m/sd; published,
    replications/low, replications/high (augmented view), and verdict, where the cell is one of the
    published study at its full setting.
    """
    rows = []
    for cell, label in group.cells():
        runs = group.everything
        run = records(runs[runs["cell"] == cell])[0]
        values = group.values(cell, VAL)
        row: dict[str, Any] = {key: run[key] for key in group.vary}
        row |= {"label": label, "cell": cell, "n": len(values)}
        for metric in METRICS:
            row |= _spread(metric, group.values(cell, metric))
        known = next((p for p in published if agrees(run, p.selector)), None)
        row |= _beside(known, group.values(cell, AUGMENTED))
        rows.append(row)
    return pd.DataFrame(rows)


def _spread(name: str, values: pd.Series[float]) -> dict[str, float]:
    e = estimate(values) if len(values) else Estimate(0, *[math.nan] * 4)
    return {name: e.mean, f"{name}/low": e.low, f"{name}/high": e.high, f"{name}/sd": e.sd}


def _beside(known: Published | None, ours: pd.Series[float]) -> dict[str, Any]:
    """The published values of a cell and the verdict on ours, all in the augmented view."""
    if known is None:
        return {"published": math.nan, "replications/low": math.nan, "replications/high": math.nan,
                "verdict": ""}  # fmt: skip
    others = known.replications[AUGMENTED]
    low, high = min(others), max(others)
    return {
        "published": known.published[AUGMENTED],
        "replications/low": low,
        "replications/high": high,
        "verdict": reproduction(float(ours.mean()), low, high) if len(ours) else "not run",
    }


def reproduction(mean: float, low: float, high: float) -> str:
    """Where a mean accuracy lies to the range of the published run and its replications.

    The files give per cent with two decimals, so half a unit of the last one is within.
    """
    rounding = 5e-5
    if low - rounding <= mean <= high + rounding:
        return "within the replications' range"
    distance = mean - high if mean > high else low - mean
    return f"{100 * distance:.2f} points {'above' if mean > high else 'below'} the range"


def study_table(runs: pd.DataFrame, published: Sequence[Published]) -> pd.DataFrame:
    """The published cells, one row each: n, ours in the augmented view and on test, verdict.

    A cell that was not run is there too, with n = 0.
    """
    rows = []
    for known in published:
        mine = runs[matches(runs, known.selector)] if len(runs) else runs
        mine = mine[mine["status"] == "completed"].set_index("seed") if len(mine) else mine
        ours = mine[AUGMENTED].dropna() if AUGMENTED in mine else pd.Series(dtype=float)
        clean = mine[VAL].dropna() if VAL in mine else pd.Series(dtype=float)
        row: dict[str, Any] = {"cell": known.name, "n": len(ours)}
        row |= _beside(known, ours)
        row["replications/n"] = len(known.replications[AUGMENTED])
        row |= _spread(AUGMENTED, ours) | _spread(VAL, clean)
        test = mine["accuracy/test"].dropna() if "accuracy/test" in mine else clean[:0]
        row["accuracy/test"] = float(test.mean()) if len(test) else math.nan
        row["published/test"] = known.published.get("accuracy/test", math.nan)
        rows.append(row)
    return pd.DataFrame(rows)


def difference_table(group: Group, metric: str = VAL) -> pd.DataFrame:
    """Every cell against the best one, paired by seed.

    Columns: cell, label, against, n (pairs), difference (cell − best), low, high, sd, and seeds:
    how many pairs would resolve a difference of this size and spread (power 0.8).
    """
    sign = -1 if metric.startswith("loss/") else 1
    means = {cell: group.values(cell, metric).mean() for cell, _ in group.cells()}
    means = {cell: value for cell, value in means.items() if not math.isnan(value)}
    if len(means) < 2:
        return pd.DataFrame()
    labels = dict(group.cells())
    best = max(means, key=lambda cell: sign * means[cell])
    rows = []
    for cell, label in group.cells():
        if cell == best or cell not in means:
            continue
        differences = paired_differences(group.values(cell, metric), group.values(best, metric))
        if not len(differences):
            continue
        e = estimate(differences)
        rows.append({
            "cell": cell, "label": label, "against": labels[best], "n": e.n,
            "difference": e.mean, "low": e.low, "high": e.high, "sd": e.sd,
            "seeds": seeds_to_resolve(e.mean, e.sd),
        })  # fmt: skip
    return pd.DataFrame(rows)


# Claims ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """What the runs of one setting say about one claim."""

    claim: Claim
    group: Group
    verdict: str  # HOLDS, FAILS or UNDECIDED
    n: int  # pairs of the comparison that has fewest
    seen: tuple[tuple[str, Estimate], ...]  # (which comparison, its differences)
    seeds: int | None  # pairs that would resolve the smallest difference seen
    published: tuple[float, ...]  # the published differences, in the same order
    why: str = ""


def judge(claim: Claim, group: Group, published: Sequence[Published] = ()) -> Judgement | None:
    """Judge a claim in a setting; None where the cells it is about are not there."""
    if claim.predictor:
        return _judge_predictor(claim, group)
    seen, verdicts, seeds, why, values = [], [], [], [], []
    for first, second in claim.pairs:
        a, b = group.find(first), group.find(second)
        if not a or not b:
            continue  # a setting may hold some of a claim's pairs: those are judged
        name = _comparison(first, second)
        if len(a) > 1 or len(b) > 1:
            why.append(f"{name}: several cells match")
            verdicts.append(UNDECIDED)
            continue
        x, y = group.values(a[0], claim.metric), group.values(b[0], claim.metric)
        differences = paired_differences(x, y)
        if not len(differences):
            why.append(f"{name}: no seed completed in both")
            verdicts.append(UNDECIDED)
            continue
        if claim.relative:
            differences = differences / y.loc[differences.index]
        e = estimate(differences)
        seen.append((name, e))
        verdicts.append(_verdict(claim, e))
        seeds.append(seeds_to_resolve(_distance(claim, e.mean), e.sd))
        values.append(_published_difference(claim, group, a[0], b[0], published))
    if not verdicts:
        return None
    partial = len(verdicts) < len(claim.pairs)
    verdict = _all(verdicts)
    if partial:
        why.append(f"{len(verdicts)} of its {len(claim.pairs)} comparisons are there")
        verdict = UNDECIDED if verdict == HOLDS else verdict
    n = min((e.n for _, e in seen), default=0)
    known = [s for s in seeds if s is not None]
    return Judgement(
        claim, group, verdict, n, tuple(seen),
        max(known) if known and len(known) == len(seen) else None,
        tuple(values), "; ".join(why),
    )  # fmt: skip


def _comparison(first: Selector, second: Selector) -> str:
    """`lr 0.01 − 0.1`, `detach none − var, weight decay 0.01`."""
    parts = []
    for key in first | second:
        a, b = _say(key, first.get(key)), _say(key, second.get(key))
        shared = f"{title(key)} "
        parts.append(a if a == b else f"{a} − {b.removeprefix(shared)}")
    return ", ".join(sorted(parts, key=lambda part: "−" not in part))


def _verdict(claim: Claim, e: Estimate) -> str:
    if e.n < 2:
        return UNDECIDED
    if claim.within is not None:
        if max(abs(e.low), abs(e.high)) < claim.within:
            return HOLDS
        return FAILS if e.low > claim.within or e.high < -claim.within else UNDECIDED
    low, high = sorted((claim.sign * e.low, claim.sign * e.high))
    return HOLDS if low > claim.margin else FAILS if high < claim.margin else UNDECIDED


def _distance(claim: Claim, mean: float) -> float:
    """How far a mean difference lies from where the verdict changes."""
    if claim.within is not None:
        return claim.within - abs(mean)
    return claim.sign * mean - claim.margin


def _all(verdicts: Sequence[str]) -> str:
    if FAILS in verdicts:
        return FAILS
    return UNDECIDED if UNDECIDED in verdicts else HOLDS


def _published_difference(
    claim: Claim, group: Group, a: str, b: str, published: Sequence[Published]
) -> float:
    """The same difference between the published values; NaN outside the published cells.

    Published validation is in the augmented view.
    """
    metric = {"accuracy/val": AUGMENTED, "loss/val": "loss/val_augmented"}[claim.metric]
    runs = group.everything
    pair = []
    for cell in (a, b):
        run = records(runs[runs["cell"] == cell])[0]
        known = next((p for p in published if agrees(run, p.selector)), None)
        pair.append(known.published[metric] if known else math.nan)
    difference = pair[0] - pair[1]
    return difference / pair[1] if claim.relative else difference


def _judge_predictor(claim: Claim, group: Group) -> Judgement | None:
    """Per seed: R² of a quadratic in log10 of the product, minus the best single key's."""
    keys = list(claim.predictor)
    runs = group.runs.dropna(subset=[claim.metric])
    runs = runs[(runs[keys] > 0).all(axis=1)]
    if any(runs[key].nunique() < 3 for key in keys):
        return None  # a quadratic goes through any two points
    advantage = []
    for _, part in runs.groupby("seed"):
        if any(part[key].nunique() < 3 for key in keys):
            continue
        logs = {key: np.log10(part[key].to_numpy(dtype=np.float64)) for key in keys}
        y = part[claim.metric].to_numpy(dtype=np.float64)
        single = max(r_squared(y, x) for x in logs.values())
        advantage.append(r_squared(y, np.sum(list(logs.values()), axis=0)) - single)
    if not advantage:
        return None
    e = estimate(advantage)
    names = "·".join(SHORT.get(key, title(key)) for key in keys)
    seen = ((f"R² of {names} minus the best single one's", e),)
    seeds = seeds_to_resolve(e.mean, e.sd)
    return Judgement(claim, group, _verdict(claim, e), e.n, seen, seeds, (math.nan,))


# Curves and maps ---------------------------------------------------------------------------------


def curve_table(group: Group, curves: pd.DataFrame, metric: str = VAL) -> pd.DataFrame:
    """Mean, low and high over a cell's completed seeds at every epoch they all have.

    Columns: cell, epoch, n, mean, low, high (95 % t-interval; NaN with one run).
    """
    columns = ["cell", "epoch", "n", "mean", "low", "high"]
    if metric not in curves or group.runs.empty:
        return pd.DataFrame(columns=columns)
    mine = curves[curves["directory"].isin(group.runs["directory"])].dropna(subset=[metric])
    table = mine.groupby(["cell", "epoch"])[metric].agg(["count", "mean", "std"]).reset_index()
    table["n"] = table["cell"].map(group.runs["cell"].value_counts())
    table = table[table["count"] == table["n"]]
    half = t_half_width(table["n"].to_numpy(), table["std"].to_numpy())
    return table.assign(low=table["mean"] - half, high=table["mean"] + half)[columns]


def picks(group: Group, curves: pd.DataFrame) -> pd.DataFrame:
    """What deciding at epoch k would have picked: the cell with the best mean `accuracy/val`.

    Means are over the seeds every cell has. Columns: epoch, cell, label, right (is the last
    epoch's pick), behind (how far the pick's last epoch lies below the best's, a fraction), and
    rank/<cell> (1 is best).
    """
    counts = group.runs.groupby("seed")["cell"].nunique()
    common = counts[counts == group.runs["cell"].nunique()].index
    mine = curves[curves["directory"].isin(group.runs["directory"])]
    mine = mine[mine["seed"].isin(common)]
    if mine.empty or VAL not in mine:
        return pd.DataFrame()
    table = mine.pivot_table(index="epoch", columns="cell", values=VAL, aggfunc="mean").dropna()
    if table.empty or table.shape[1] < 2:
        return pd.DataFrame()
    last = table.iloc[-1]
    chosen = table.idxmax(axis=1)
    result = pd.DataFrame({
        "epoch": table.index,
        "cell": chosen.to_numpy(),
        "label": chosen.map(dict(group.cells())).to_numpy(),
        "right": (chosen == last.idxmax()).to_numpy(),
        "behind": (last.max() - chosen.map(last)).to_numpy(),
    })  # fmt: skip
    ranks = table.rank(axis=1, ascending=False, method="min").astype(int)
    return result.join(ranks.add_prefix("rank/").reset_index(drop=True))


def settled(table: pd.DataFrame) -> int | None:
    """The first epoch of `picks` from which the pick stays the last epoch's."""
    if table.empty:
        return None
    wrong = table.loc[~table["right"], "epoch"]
    after = table["epoch"] if wrong.empty else table.loc[table["epoch"] > wrong.max(), "epoch"]
    return int(after.min())


def grid(group: Group, metric: str = VAL) -> pd.DataFrame | None:
    """The mean of `metric` as a map: rows the second varied key, columns the first.

    None unless the group's cells differ in two numeric keys and fill at least 2 × 2 of a grid.
    """
    keys = list(group.vary)
    numeric = [key for key in keys if pd.api.types.is_numeric_dtype(group.runs[key])]
    if len(keys) != 2 or len(numeric) != 2 or group.runs.empty:
        return None
    table = group.runs.pivot_table(index=keys[1], columns=keys[0], values=metric, aggfunc="mean")
    return table if min(table.shape) >= 2 else None


def on_edge(table: pd.DataFrame) -> list[str]:
    """The keys of a `grid` whose best value is the smallest or the largest tried."""
    place = np.unravel_index(np.nanargmax(table.to_numpy()), table.shape)
    names = (table.index.name, table.columns.name)
    return [
        str(name)
        for name, at, length in zip(names, place, table.shape, strict=True)
        if at in (0, length - 1)
    ]


def edge_of_line(group: Group) -> bool:
    """Whether the best cell of a single numeric key is the smallest or the largest value tried."""
    if len(group.vary) != 1 or not pd.api.types.is_numeric_dtype(group.runs[group.vary[0]]):
        return False
    means = group.runs.groupby(group.vary[0])[VAL].mean().dropna()
    return len(means) > 2 and means.idxmax() in (means.index.min(), means.index.max())


# Bookkeeping -------------------------------------------------------------------------------------


def cost_table(runs: pd.DataFrame) -> pd.DataFrame:
    """What the runs took, by device, width and epochs.

    Columns: device, setting, runs, epochs_done, hours (all sessions, waiting included),
    images_per_second (median over runs), share_of_matmul_rate (median).
    """
    if runs.empty:
        return pd.DataFrame()
    keys = ["device", "data", "model.width", "precision", "threads"]
    table = runs.groupby(keys, dropna=False, as_index=False).agg(
        runs=("directory", "size"),
        epochs_done=("epochs_done", "sum"),
        hours=("seconds", lambda s: float(s.sum()) / 3600),
        images_per_second=("images_per_second", "median"),
        share_of_matmul_rate=("share_of_matmul_rate", "median"),
    )
    return table.sort_values("hours", ascending=False, ignore_index=True)


def mixed(runs: pd.DataFrame) -> list[str]:
    """Cells whose runs differ in code, versions, device or arithmetic, in words."""
    lines = []
    for cell, part in runs[runs["status"] == "completed"].groupby("cell") if len(runs) else ():
        for key in ("code", "versions", "device", "precision"):
            kinds = sorted({kind for value in part[key] for kind in str(value).split(" | ")})
            if len(kinds) > 1:
                shown = f": {', '.join(kinds)}" if key != "versions" else " of the libraries"
                lines.append(f"{cell}: its runs mix {len(kinds)} {_PLURAL[key]}{shown}")
    return lines


_PLURAL = {
    "code": "states of the code",
    "versions": "versions",
    "device": "devices",
    "precision": "precisions",
}
