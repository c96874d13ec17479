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
    Line2D,
    MaxNLocator,
    label_epochs,
    panels,
    set_log_scale,
)
from resnet_cifar.report.groups import Group, name_key
from resnet_cifar.report.study import AUGMENTED, VAL
from resnet_cifar.report.tables import FEWEST_FOR_A_BAND, Tables
from resnet_cifar.runs.statistics import paired_differences
from resnet_cifar.runs.table import Predictions, records

MOST_LINES, MOST_ROWS = 12, 16  # cells in a figure of curves, and in one of dots
MOST_RUNS = 24  # drawn one by one
MOST_POINTS = 150  # of a line

Styles = dict[str, tuple[str, str, str]]  # of a cell: label, colour, line style


def choose_drawn(tables: Tables) -> list[str]:
    """The cells that a figure of curves has room for: the best, in the group's order."""
    means = tables.cells.set_index("cell")[VAL].dropna()
    best = set(means.sort_values(ascending=False, kind="stable").index[:MOST_LINES])
    return [cell for cell in tables.group.labels if cell in best]


def style_cells(group: Group, cells: Sequence[str]) -> Styles:
    """(label, colour, line style) of a cell: colour by the first varied key, style by the rest."""
    first = group.vary[0] if group.vary else "cell"
    runs = [group.configurations[cell] for cell in cells]
    values = [str(run[first]) for run in runs]
    rest = [str([run[key] for key in group.vary[1:]]) for run in runs]
    hues, kinds = list(dict.fromkeys(values)), list(dict.fromkeys(rest))
    if len(kinds) > len(STYLES) or len(hues) > len(COLORS):
        hues = kinds = []  # too many to tell apart by two codes: colours in turn
    styles = {}
    for i, cell in enumerate(cells):
        color = COLORS[(hues.index(values[i]) if hues else i) % len(COLORS)]
        style = STYLES[(kinds.index(rest[i]) if kinds else i // len(COLORS)) % len(STYLES)]
        styles[cell] = group.labels[cell], color, style
    return styles


def legend_lines(styles: Styles) -> list[Line2D]:
    """A legend's entries: the lines themselves are labelled with what they say when pointed at."""
    return [
        Line2D([], [], color=color, ls=style, label=label)
        for label, color, style in styles.values()
    ]


def draw_overview(rankings: Sequence[Tables]) -> Figure:
    """The cells of every setting, best first: a dot a run, from three runs the mean's interval.

    At the full setting also the published value (diamond) and the replications' range (bar), which
    are in the augmented view, and ours in that view beside the clean one.
    """
    ranked = [tables.ranks.iloc[:MOST_ROWS].iloc[::-1] for tables in rankings]
    heights = [len(table) + 1.6 for table in ranked]
    with panels(
        5.6, 0.19 * sum(heights) + 0.3, nrows=len(ranked), squeeze=False, height_ratios=heights
    ) as (figure, axes):
        for tables, table, axis in zip(rankings, ranked, axes[:, 0], strict=True):
            _draw_dots(axis, tables.group, table)
            axis.set_title(textwrap.shorten(tables.group.setting, 70, placeholder=" …"))
            axis.set_xlabel("validation accuracy, last epoch (%)", fontsize=8)
    return figure


def _draw_dots(axis: Axes, group: Group, table: pd.DataFrame) -> None:
    known = bool(table["published"].notna().any())
    for y, row in enumerate(records(table)):
        values = 100 * group.values(row["cell"], VAL).to_numpy()
        axis.plot(values, np.full(len(values), float(y)), "o", ms=4, color=COLORS[0], alpha=0.8)
        _draw_interval(axis, y, row[VAL], row[f"{VAL}/low"], row[f"{VAL}/high"], row["n"])
        if known:
            augmented = 100 * group.values(row["cell"], AUGMENTED).to_numpy()
            axis.plot(augmented, np.full(len(augmented), y - 0.22), "o", ms=3, color=COLORS[1])
            low, high = 100 * row["replications/low"], 100 * row["replications/high"]
            axis.plot([low, high], [y - 0.22] * 2, color=FAINT, lw=5, alpha=0.45)
            axis.plot(100 * row["published"], y - 0.22, "D", ms=4, color=INK)
    axis.set_yticks(range(len(table)), [_label_with_n(row) for row in records(table)], fontsize=8)
    axis.set_ylim(-0.7, len(table) - 0.3)
    low, high = axis.get_xlim()
    axis.set_xlim(max(0, low), min(100, high))
    axis.grid(axis="y", visible=False)
    if known:
        axis.plot([], [], "o", color=COLORS[0], label="ours, clean")
        axis.plot([], [], "o", color=COLORS[1], label="ours, augmented view")
        axis.plot([], [], "D", color=INK, label="published (augmented)")
        axis.plot([], [], color=FAINT, lw=5, alpha=0.45, label="replications")
        axis.legend(loc="best", fontsize=7)


def _draw_interval(axis: Axes, y: float, mean: float, low: float, high: float, n: int) -> None:
    """A mean of fractions with its interval, in per cent, where there are enough runs for one."""
    if n >= FEWEST_FOR_A_BAND:
        axis.plot([100 * low, 100 * high], [y, y], color=COLORS[0], lw=1.6)
        axis.plot(100 * mean, y, "|", ms=11, color=COLORS[0])


def _label_with_n(row: dict[str, Any]) -> str:
    return f"{textwrap.shorten(row['label'], 60, placeholder=' …')}  (n = {row['n']})"


def draw_curves(tables: Tables) -> Figure:
    """Accuracy and loss by epoch: validation with seed bands, training faint, augmented marks.

    A line's label says what it is where one points at it: the cell, and the seed or the mean.
    """
    styles = style_cells(tables.group, choose_drawn(tables))
    with panels(8.4, 3.6, ncols=2, sharex=True) as (figure, axes):
        for axis, quantity, scale in zip(axes, ("accuracy", "loss"), (100, 1), strict=True):
            for cell, view in styles.items():
                _draw_cell(axis, tables, cell, quantity, scale, view)
            label_epochs(axis)
        axes[0].set_title("accuracy (%)")
        axes[1].set_title("loss (nats)")
        _fit_limits(axes[0], most=100)
        _fit_limits(axes[1])
        axes[0].legend(handles=legend_lines(styles), loc="best", fontsize=7)
    return figure


def _draw_cell(
    axis: Axes, tables: Tables, cell: str, quantity: str, scale: float, view: tuple[str, str, str]
) -> None:
    label, color, style = view
    val, train, augmented = (
        _thin(table[table["cell"] == cell])
        for table in (tables.curves[f"{quantity}/{of}"] for of in ("val", "train", "val_augmented"))
    )
    n = int(val["n"].max()) if len(val) else 0
    if n > 1:
        if tables.group.runs["cell"].isin(choose_drawn(tables)).sum() <= MOST_RUNS:
            for run in _split_runs(tables.runs, cell, f"{quantity}/val"):
                name = f"{label}, seed {run['seed'].iloc[0]}"
                y = scale * run[f"{quantity}/val"]
                axis.plot(run["epoch"], y, color=color, ls=style, lw=0.7, alpha=0.6, label=name)
        low, high = scale * val["low"], scale * val["high"]
        axis.fill_between(val["epoch"], low, high, color=color, alpha=0.15, lw=0)
    seeds = tables.group.runs.loc[tables.group.runs["cell"] == cell, "seed"]
    of = f"mean of {n}" if n > 1 else f"seed {seeds.iloc[0]}" if len(seeds) else ""
    lines = ((val, of, 1.6, 1.0), (train, f"{of}, training", 1.0, 0.35))
    for table, name, width, alpha in lines:
        x, y = table["epoch"], scale * table["mean"]
        axis.plot(x, y, color=color, ls=style, lw=width, alpha=alpha, label=f"{label}, {name}")
    x, y = augmented["epoch"], scale * augmented["mean"]
    axis.plot(x, y, "x", ms=4, color=color, label=f"{label}, {of}, augmented view")


def _split_runs(curves: pd.DataFrame, cell: str, metric: str) -> list[pd.DataFrame]:
    """The curve of each of a cell's runs."""
    if metric not in curves:
        return []
    mine = curves[curves["cell"] == cell].dropna(subset=[metric])
    return [_thin(run) for _, run in mine.groupby("directory")]


def _thin(table: pd.DataFrame) -> pd.DataFrame:
    """At most about `MOST_POINTS` rows, the first and the last among them."""
    step = -(-len(table) // MOST_POINTS)
    if step < 2:
        return table
    kept = np.unique(np.append(np.arange(0, len(table), step), len(table) - 1))
    return table.iloc[kept]


def _fit_limits(axis: Axes, most: float = math.inf) -> None:
    """Limits by what was measured, not by how far a band reaches; logarithmic over 1 : 20."""
    drawn = [np.asarray(line.get_ydata(), dtype=np.float64) for line in axis.lines]
    values = np.concatenate([y[np.isfinite(y)] for y in drawn] or [np.empty(0)])
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    if most == math.inf and low > 0 and high / low > 20:
        set_log_scale(axis)
        axis.set_ylim(low / 1.3, high * 1.3)
    else:
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axis.set_ylim(max(0.0, low - room), min(most, high + room))


def draw_ranks(tables: Tables) -> Figure:
    """The cells' ranks by epoch: what deciding early would have picked."""
    picks = _thin(tables.picks)
    cells = [cell for cell in choose_drawn(tables) if f"rank/{cell}" in picks]
    styles = style_cells(tables.group, cells)
    last = picks.iloc[-1]
    with panels(7.2, 0.8 + 0.26 * len(styles)) as (figure, axis):
        for cell, (label, color, style) in styles.items():
            y = picks[f"rank/{cell}"]
            axis.plot(picks["epoch"], y, color=color, ls=style, lw=1.6, label=label)
        most = max(int(picks[f"rank/{cell}"].max()) for cell in styles)
        axis.set_ylim(most + 0.5, 0.5)
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        label_epochs(axis)
        axis.set_ylabel("rank (1 is best)")
        right = axis.secondary_yaxis("right")
        names: dict[int, str] = {}  # cells may share a rank
        for cell, (label, _, _) in styles.items():
            rank = int(last[f"rank/{cell}"])
            names[rank] = f"{names[rank]} = {label}" if rank in names else label
        right.set_yticks(list(names), list(names.values()))
        right.spines["right"].set_visible(False)
        right.tick_params(length=0)
    return figure


def draw_differences(tables: Tables) -> Figure:
    """Every cell minus the best, paired by seed: a dot a seed, from three the mean's interval."""
    group = tables.group
    table = tables.differences.iloc[: 2 * MOST_ROWS].iloc[::-1]
    against = table["against"].iloc[0]
    best = next(cell for cell, label in group.labels.items() if label == against)
    with panels(7.2, 0.7 + 0.28 * len(table)) as (figure, axis):
        for y, row in enumerate(records(table)):
            pairs = paired_differences(group.values(row["cell"], VAL), group.values(best, VAL))
            height = np.full(len(pairs), float(y))
            axis.plot(100 * pairs, height, "o", ms=4, color=COLORS[0], alpha=0.8)
            _draw_interval(axis, y, row["difference"], row["low"], row["high"], row["n"])
        axis.axvline(0, color=FAINT, lw=1)
        axis.set_yticks(range(len(table)), [_label_with_n(row) for row in records(table)])
        axis.set_ylim(-0.6, len(table) - 0.4)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(f"points of validation accuracy against {against}")
    return figure


def draw_map(table: pd.DataFrame) -> Figure:
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
        axis.set_xlabel(name_key(str(table.columns.name)))
        axis.set_ylabel(name_key(str(table.index.name)))
        _draw_products(axis, *logs)
        figure.colorbar(image, ax=axis, label="validation accuracy (%)")
    return figure


def _log10(value: Any) -> float:
    return math.log10(value) if value > 0 else math.nan


def _draw_products(axis: Axes, x: list[float], y: list[float]) -> None:
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


def draw_calibration(
    group: Group, predictions: dict[str, list[Predictions]], bins: int = 15
) -> Figure:
    """Reliability diagram: accuracy by confidence on clean validation images, all seeds pooled."""
    styles = style_cells(group, list(predictions))
    with panels(4.6, 3.8) as (figure, axis):
        axis.plot([0, 100], [0, 100], color=FAINT, lw=1)
        for cell, nets in predictions.items():
            logits = np.concatenate([p.logits["val"] for p in nets])
            labels = np.concatenate([p.labels for p in nets])
            table = scores.reliability(logits, labels, bins)
            full = table.images > 0
            label, color, style = styles[cell]
            x, y = 100 * table.confidence[full], 100 * table.accuracy[full]
            axis.plot(x, y, ls=style, marker=".", color=color, label=label)
        axis.set_xlabel("confidence (%)")
        axis.set_ylabel("accuracy (%)")
        axis.legend(handles=legend_lines(styles), loc="upper left", fontsize=7)
    return figure
