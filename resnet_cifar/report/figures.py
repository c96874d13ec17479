"""Pictures of the tables of a group. Each function returns a matplotlib Figure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from resnet_cifar import scores
from resnet_cifar.report.canvas import (
    COLORS,
    FAINT,
    INK,
    STYLES,
    Axes,
    Figure,
    epochs,
    log_scale,
    panels,
)
from resnet_cifar.report.groups import AUGMENTED, VAL, Group, title
from resnet_cifar.report.statistics import paired_differences
from resnet_cifar.report.tables import Tables
from resnet_cifar.results import Predictions, records


def appearance(group: Group) -> dict[str, tuple[str, str, str]]:
    """(label, colour, line style) of a cell: colour by the first varied key, style by the rest."""
    first = group.vary[0] if group.vary else "cell"
    runs = group.configurations.values()
    values = [str(run[first]) for run in runs]
    rest = [str([run[key] for key in group.vary[1:]]) for run in runs]
    hues, kinds = list(dict.fromkeys(values)), list(dict.fromkeys(rest))
    if len(kinds) > len(STYLES) or len(hues) > len(COLORS):
        hues = kinds = []  # too many to tell apart by two codes: colours in turn
    look = {}
    for i, (cell, label) in enumerate(group.labels.items()):
        color = COLORS[(hues.index(values[i]) if hues else i) % len(COLORS)]
        style = STYLES[(kinds.index(rest[i]) if kinds else i // len(COLORS)) % len(STYLES)]
        look[cell] = label, color, style
    return look


def overview(answers: Sequence[Tables]) -> Figure:
    """Every cell's last-epoch validation accuracy: a dot a run, the mean with its interval.

    At the full setting also the published value (diamond) and the replications' range (bar), which
    are in the augmented view, and ours in that view beside the clean one.
    """
    heights = [len(tables.cells) + 1.2 for tables in answers]
    count = len(answers)
    with panels(
        7.2, 0.26 * sum(heights) + 0.7 * count, nrows=count, squeeze=False, height_ratios=heights
    ) as (figure, axes):
        for tables, axis in zip(answers, axes[:, 0], strict=True):
            group = tables.group
            _dots(axis, group, tables.cells.iloc[::-1])
            axis.set_title(f"{textwrap.fill(group.question.question, 48)}\n{group.setting}")
        axes[-1, 0].set_xlabel("validation accuracy, last epoch (%)")
        figure.align_ylabels()
    return figure


def _dots(axis: Axes, group: Group, table: pd.DataFrame) -> None:
    known = bool(table["published"].notna().any())
    for y, row in enumerate(records(table)):
        values = 100 * group.values(row["cell"], VAL).to_numpy()
        axis.plot(values, np.full(len(values), float(y)), "o", ms=4, color=COLORS[0], alpha=0.8)
        if row["n"] > 1:
            low, high = 100 * row[f"{VAL}/low"], 100 * row[f"{VAL}/high"]
            axis.plot([low, high], [y, y], color=COLORS[0], lw=1.6)
            axis.plot(100 * row[VAL], y, "|", ms=11, color=COLORS[0])
        if known:
            augmented = 100 * group.values(row["cell"], AUGMENTED).to_numpy()
            axis.plot(augmented, np.full(len(augmented), y - 0.22), "o", ms=3, color=COLORS[1])
            low, high = 100 * row["replications/low"], 100 * row["replications/high"]
            axis.plot([low, high], [y - 0.22] * 2, color=FAINT, lw=5, alpha=0.45)
            axis.plot(100 * row["published"], y - 0.22, "D", ms=4, color=INK)
    axis.set_yticks(range(len(table)), [_with_n(row) for row in records(table)])
    axis.set_ylim(-0.7, len(table) - 0.3)
    low, high = axis.get_xlim()  # with two runs an interval may reach beyond what there is
    axis.set_xlim(max(0, low), min(100, high))
    axis.grid(axis="y", visible=False)
    if known:
        axis.plot([], [], "o", color=COLORS[0], label="ours, clean")
        axis.plot([], [], "o", color=COLORS[1], label="ours, augmented view")
        axis.plot([], [], "D", color=INK, label="published (augmented)")
        axis.plot([], [], color=FAINT, lw=5, alpha=0.45, label="replications")
        axis.legend(loc="best", fontsize=7)


def _with_n(row: dict[str, Any]) -> str:
    return f"{row['label']}  (n = {row['n']})"


def learning_curves(tables: Tables) -> Figure:
    """Accuracy and loss by epoch: validation with seed bands, training faint, augmented marks."""
    with panels(9.2, 3.5, ncols=2) as (figure, axes):
        for axis, quantity, scale in zip(axes, ("accuracy", "loss"), (100, 1), strict=True):
            val, train, view = (
                tables.curves[f"{quantity}/{name}"] for name in ("val", "train", "val_augmented")
            )
            for cell, (label, color, style) in appearance(tables.group).items():
                line = val[val["cell"] == cell]
                x = line["epoch"]
                axis.plot(x, scale * line["mean"], color=color, ls=style, lw=1.5, label=label)
                if line["low"].notna().any():
                    low, high = scale * line["low"], scale * line["high"]
                    axis.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
                line = train[train["cell"] == cell]
                y = scale * line["mean"]
                axis.plot(line["epoch"], y, color=color, ls=style, lw=1.0, alpha=0.35)
                line = view[view["cell"] == cell]
                axis.plot(line["epoch"], scale * line["mean"], "x", ms=4, color=color)
            epochs(axis)
        axes[0].set_title("accuracy (%)")
        axes[1].set_title("loss (nats)")
        low, high = axes[1].dataLim.intervaly
        if low > 0 and high / low > 20:
            log_scale(axes[1])
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
        )
    return figure


def pick_by_epoch(tables: Tables) -> Figure:
    """The cells' ranks by epoch: what deciding early would have picked."""
    picks = tables.picks
    look = {
        cell: view for cell, view in appearance(tables.group).items() if f"rank/{cell}" in picks
    }
    with panels(7.2, 0.8 + 0.26 * len(look)) as (figure, axis):
        for cell, (_, color, style) in look.items():
            axis.plot(picks["epoch"], picks[f"rank/{cell}"], color=color, ls=style, lw=1.6)
        last = picks.iloc[-1]
        order = sorted(look, key=lambda cell: last[f"rank/{cell}"])
        axis.set_yticks(range(1, len(look) + 1))
        axis.set_ylim(len(look) + 0.5, 0.5)
        epochs(axis)
        axis.set_ylabel("rank (1 is best)")
        right = axis.secondary_yaxis("right")
        right.set_yticks(range(1, len(look) + 1), [look[cell][0] for cell in order])
        right.spines["right"].set_visible(False)
        right.tick_params(length=0)
    return figure


def differences(tables: Tables) -> Figure:
    """Every cell minus the best, paired by seed: a dot a seed, the mean with its interval."""
    group, table = tables.group, tables.differences.iloc[::-1]
    against = table["against"].iloc[0]
    best = next(cell for cell, label in group.labels.items() if label == against)
    with panels(7.2, 0.7 + 0.28 * len(table)) as (figure, axis):
        for y, row in enumerate(records(table)):
            pairs = paired_differences(group.values(row["cell"], VAL), group.values(best, VAL))
            height = np.full(len(pairs), float(y))
            axis.plot(100 * pairs, height, "o", ms=4, color=COLORS[0], alpha=0.8)
            if row["n"] > 1:
                axis.plot([100 * row["low"], 100 * row["high"]], [y, y], color=COLORS[0], lw=1.6)
                axis.plot(100 * row["difference"], y, "|", ms=11, color=COLORS[0])
        axis.axvline(0, color=FAINT, lw=1)
        axis.set_yticks(range(len(table)), [_with_n(row) for row in records(table)])
        axis.set_ylim(-0.6, len(table) - 0.4)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(f"points of validation accuracy against {against}")
    return figure


def product_map(table: pd.DataFrame) -> Figure:
    """A `grid_table` of two numeric keys, with lines of equal product."""
    values = 100 * table.to_numpy()
    logs = [[_log10(value) for value in axis] for axis in (table.columns, table.index)]
    with panels(5.4, 3.8) as (figure, axis):
        image = axis.pcolormesh(
            np.arange(table.shape[1] + 1), np.arange(table.shape[0] + 1), values, cmap="viridis"
        )
        for (row, column), value in np.ndenumerate(values):
            if math.isfinite(value):
                color = "#ffffff" if image.norm(value) < 0.6 else "#000000"
                place = column + 0.5, row + 0.5
                axis.text(*place, f"{value:.1f}", ha="center", va="center", color=color)
        axis.set_xticks(np.arange(table.shape[1]) + 0.5, [f"{v:g}" for v in table.columns])
        axis.set_yticks(np.arange(table.shape[0]) + 0.5, [f"{v:g}" for v in table.index])
        axis.grid(visible=False)
        axis.set_xlabel(title(str(table.columns.name)))
        axis.set_ylabel(title(str(table.index.name)))
        _iso_products(axis, *logs)
        figure.colorbar(image, ax=axis, label="validation accuracy (%)")
    return figure


def _log10(value: Any) -> float:
    return math.log10(value) if value > 0 else math.nan


def _iso_products(axis: Axes, x: list[float], y: list[float]) -> None:
    """Lines along which the product of the two keys is constant, one a decade."""
    if not np.isfinite([*x, *y]).all() or len(x) < 2 or len(y) < 2:
        return
    centres = np.arange(len(x)) + 0.5
    fine = np.linspace(0.5, len(x) - 0.5, 50)
    log_x = np.interp(fine, centres, x)
    for decade in range(math.floor(min(x) + min(y)), math.ceil(max(x) + max(y)) + 1):
        at = np.interp(decade - log_x, y, np.arange(len(y)) + 0.5, left=np.nan, right=np.nan)
        if np.isfinite(at).sum() > 1:
            axis.plot(fine, at, color="#ffffff", lw=1.2, ls="--")
            k = int(np.flatnonzero(np.isfinite(at))[0])
            axis.annotate(f"1e{decade}", (fine[k], at[k]), color="#ffffff", fontsize=7)


def calibration(group: Group, predictions: dict[str, list[Predictions]], bins: int = 15) -> Figure:
    """Reliability diagram: accuracy by confidence on clean validation images, all seeds pooled."""
    look = appearance(group)
    with panels(4.6, 3.8) as (figure, axis):
        axis.plot([0, 100], [0, 100], color=FAINT, lw=1)
        for cell, found in predictions.items():
            logits = np.concatenate([p.logits["val"] for p in found])
            labels = np.concatenate([p.labels for p in found])
            table = scores.reliability(logits, labels, bins)
            full = table.images > 0
            label, color, style = look[cell]
            x, y = 100 * table.confidence[full], 100 * table.accuracy[full]
            axis.plot(x, y, ls=style, marker=".", color=color, label=label)
        axis.set_xlabel("confidence (%)")
        axis.set_ylabel("accuracy (%)")
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure
