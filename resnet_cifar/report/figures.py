"""Pictures of the tables of a group, their style, and the files made of them.

Text and lines are drawn in INK and on PAPER, which the HTML page replaces by its own colours, so
that a figure is at home in light and dark. Nothing global of matplotlib is touched.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from resnet_cifar.report.groups import Group, name_key
from resnet_cifar.report.study import AUGMENTED, VAL
from resnet_cifar.report.tables import FEWEST_FOR_A_BAND, Tables
from resnet_cifar.runs.table import records
from resnet_cifar.text import no_backend

with no_backend():
    import matplotlib
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
    from matplotlib.lines import Line2D as Line2D
    from matplotlib.ticker import LogFormatter, MaxNLocator
    from matplotlib.transforms import Affine2D as Affine2D

_STYLE = matplotlib.rc_params_from_file(
    str(Path(__file__).with_name("figures.mplstyle")), use_default_template=False
)
INK, FAINT, PAPER = (_STYLE[key] for key in ("text.color", "axes.edgecolor", "axes.facecolor"))
# After Okabe and Ito's palette (distinguishable with any colour vision), in shades that stand out
# on light and on dark.
COLORS = ("#2b8cce", "#dd6426", "#149c78", "#c470a6", "#7d83d6", "#cc9515")
STYLES = ("-", "--", ":", "-.")
MOST_LINES, MOST_ROWS = 12, 16  # cells in a figure of curves, and in one of dots
MOST_RUNS = 24  # drawn one by one

Styles = dict[str, tuple[str, str, str]]  # of a cell: label, colour, line style


@contextmanager
def panels(width: float, height: float, **subplots: Any) -> Iterator[tuple[Figure, Any]]:
    """Draw into a new figure of so many inches, in the style of the report."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(**subplots)


def draw_svg(figure: Figure) -> str:
    """The figure as an SVG document."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A label may be in any script; an SVG's text is drawn by the reader's fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # Places to a hundredth of a point; the text that people read stands between the tags.
    tags = re.compile(r"<[^>]+>")
    return tags.sub(lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group()), buffer.getvalue())


def label_epochs(axis: Axes) -> None:
    """The x axis counts epochs: whole ones."""
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def set_log_scale(axis: Axes) -> None:
    """A logarithmic y axis, labelled 0.1 and 1e-07: without powers, which are formulas."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(LogFormatter())
    axis.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))


def choose_drawn(tables: Tables) -> list[str]:
    """The cells that a figure of curves has room for, best first."""
    means = tables.cells.set_index("cell")[VAL].dropna()
    return list(means.sort_values(ascending=False, kind="stable").index[:MOST_LINES])


def style_cells(group: Group, among: Collection[str]) -> Styles:
    """(label, colour, line style) of the cells `among` which a figure draws, in the group's order.

    Colour is by the first varied key, line style by the rest.
    """
    drawn = set(among)
    cells = [cell for cell in group.labels if cell in drawn]
    runs = [group.configurations[cell] for cell in cells]
    values = [str(run[group.vary[0] if group.vary else "cell"]) for run in runs]
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


def draw_legend(on: Axes | Figure, styles: Styles, **options: Any) -> None:
    """A legend of cells: the lines themselves are labelled with what they say when pointed at."""
    lines = [Line2D([], [], color=c, ls=style, label=name) for name, c, style in styles.values()]
    on.legend(handles=lines, **options)


def draw_overview(rankings: Sequence[Tables]) -> Figure:
    """The cells of every setting, best first: a dot a run, from three runs the mean's interval.

    At the full setting also the published value (diamond) and the repetitions' range (bar), which
    are in the augmented view, and ours in that view beside the clean one.
    """
    ranked = [tables.ranks.iloc[:MOST_ROWS].iloc[::-1] for tables in rankings]
    heights = [len(table) + 1.6 for table in ranked]
    with panels(
        5.6, 0.19 * sum(heights) + 0.3, nrows=len(ranked), squeeze=False, height_ratios=heights
    ) as (figure, axes):
        for tables, table, axis in zip(rankings, ranked, axes[:, 0], strict=True):
            labels = []
            for y, row in enumerate(records(table)):
                seen = 100 * tables.group.values(row["cell"], VAL)
                axis.plot(seen, np.full(len(seen), y), "o", ms=4, color=COLORS[0], alpha=0.8)
                if row["n"] >= FEWEST_FOR_A_BAND:
                    mean, low, high = (100 * row[key] for key in (VAL, f"{VAL}/low", f"{VAL}/high"))
                    axis.plot([low, high], [y, y], color=COLORS[0], lw=1.6)
                    axis.plot(mean, y, "|", ms=11, color=COLORS[0])
                label = textwrap.shorten(row["label"], 60, placeholder=" …")
                labels.append(f"{label}  (n = {row['n']})")
            axis.set_yticks(range(len(table)), labels, fontsize=8)
            axis.set_ylim(-0.7, len(table) - 0.3)
            axis.grid(axis="y", visible=False)
            if table["published"].notna().any():
                _draw_published(axis, tables.group, table)
            low, high = axis.get_xlim()
            axis.set_xlim(max(0, low), min(100, high))
            axis.set_title(
                textwrap.shorten(tables.group.setting, 70, placeholder=" …"), loc="right"
            )
            axis.set_xlabel("validation accuracy, last epoch (%)", fontsize=8)
    return figure


def _draw_published(axis: Axes, group: Group, table: pd.DataFrame) -> None:
    for y, row in enumerate(records(table)):
        augmented = 100 * group.values(row["cell"], AUGMENTED).to_numpy()
        axis.plot(augmented, np.full(len(augmented), y - 0.22), "o", ms=3, color=COLORS[1])
        low, high = 100 * row["repetitions/low"], 100 * row["repetitions/high"]
        axis.plot([low, high], [y - 0.22] * 2, color=FAINT, lw=5, alpha=0.45)
        axis.plot(100 * row["published"], y - 0.22, "D", ms=4, color=INK)
    axis.plot([], [], "o", color=COLORS[0], label="ours, clean")
    axis.plot([], [], "o", color=COLORS[1], label="ours, augmented view")
    axis.plot([], [], "D", color=INK, label="published (augmented)")
    axis.plot([], [], color=FAINT, lw=5, alpha=0.45, label="repetitions")
    axis.legend()


def draw_curves(tables: Tables) -> Figure:
    """Accuracy and loss by epoch: validation with seed bands, training faint, augmented marks.

    A line's label says what it is where one points at it: the cell, and the seed or the mean.
    """
    styles = style_cells(tables.group, choose_drawn(tables))
    with panels(8.4, 3.6, ncols=2, sharex=True) as (figure, axes):
        for axis, quantity, scale in zip(axes, ("accuracy", "loss"), (100, 1), strict=True):
            for cell in styles:
                _draw_cell(axis, tables, cell, quantity, scale, styles)
            label_epochs(axis)
        axes[0].set_title("accuracy (%)")
        axes[1].set_title("loss (nats)")
        _fit_limits(axes[0], most=100)
        _fit_limits(axes[1])
        draw_legend(axes[0], styles)
    return figure


def _draw_cell(
    axis: Axes, tables: Tables, cell: str, quantity: str, scale: float, styles: Styles
) -> None:
    label, color, style = styles[cell]
    val, train, augmented = (
        table[table["cell"] == cell]
        for table in (tables.curves[f"{quantity}/{of}"] for of in ("val", "train", "val_augmented"))
    )
    n = int(val["n"].max()) if len(val) else 0
    if n > 1:
        if tables.group.runs["cell"].isin(styles).sum() <= MOST_RUNS:
            curves = tables.runs[tables.runs["cell"] == cell].dropna(subset=[f"{quantity}/val"])
            for _, run in curves.groupby("directory"):
                name = f"{label}, seed {run['seed'].iloc[0]}"
                x, y = run["epoch"], scale * run[f"{quantity}/val"]
                axis.plot(x, y, color=color, ls=style, lw=0.7, alpha=0.6, label=name)
        low, high = scale * val["low"], scale * val["high"]
        axis.fill_between(val["epoch"], low, high, color=color, alpha=0.15, lw=0)
    seeds = tables.group.runs.loc[tables.group.runs["cell"] == cell, "seed"]
    of = f"mean of {n}" if n > 1 else f"seed {seeds.iloc[0]}" if len(seeds) else ""
    for table, name, line, marker, width, alpha in (
        (val, of, style, "", 1.6, 1.0),
        (train, f"{of}, training", style, "", 1.0, 0.35),
        (augmented, f"{of}, augmented view", "", "x", 0.0, 1.0),
    ):
        x, y, name = table["epoch"], scale * table["mean"], f"{label}, {name}"
        axis.plot(
            x, y, color=color, ls=line, marker=marker, ms=4, lw=width, alpha=alpha, label=name
        )


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
    picks = tables.picks
    cells = [cell for cell in choose_drawn(tables) if f"rank/{cell}" in picks]
    names: dict[int, str] = {}  # at the right end; cells may share a rank
    with panels(7.2, 0.8 + 0.26 * len(cells)) as (figure, axis):
        for cell, (label, color, style) in style_cells(tables.group, cells).items():
            y = picks[f"rank/{cell}"]
            axis.plot(picks["epoch"], y, color=color, ls=style, lw=1.6, label=label)
            last = int(y.iloc[-1])
            names[last] = f"{names[last]} = {label}" if last in names else label
        axis.set_ylim(picks[[f"rank/{cell}" for cell in cells]].to_numpy().max() + 0.5, 0.5)
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        label_epochs(axis)
        axis.set_ylabel("rank (1 is best)")
        right = axis.secondary_yaxis("right")
        right.set_yticks(list(names), list(names.values()))
        right.spines["right"].set_visible(False)
        right.tick_params(length=0)
    return figure


def draw_map(table: pd.DataFrame) -> Figure:
    """A `grid_table` of two numeric keys, with lines of equal product."""
    values = 100 * table.to_numpy()
    height, width = table.shape
    with panels(5.4, 3.8) as (figure, axis):
        image = axis.pcolormesh(np.arange(width + 1), np.arange(height + 1), values, cmap="viridis")
        for (row, column), value in np.ndenumerate(values):
            if math.isfinite(value):
                color = "#ffffff" if image.norm(value) < 0.6 else "#000000"
                place = column + 0.5, row + 0.5
                axis.text(*place, f"{value:.1f}", ha="center", va="center", color=color)
        axis.set_xticks(np.arange(width) + 0.5, [f"{v:g}" for v in table.columns])
        axis.set_yticks(np.arange(height) + 0.5, [f"{v:g}" for v in table.index])
        axis.grid(visible=False)
        axis.set_xlabel(name_key(str(table.columns.name)))
        axis.set_ylabel(name_key(str(table.index.name)))
        _draw_products(axis, table)
        figure.colorbar(image, ax=axis, label="validation accuracy (%)")
    return figure


def _draw_products(axis: Axes, table: pd.DataFrame) -> None:
    """Lines along which the product of the two keys is constant, one a decade."""
    if min(*table.columns, *table.index) <= 0:
        return
    x, y = np.log10(table.columns.to_numpy(float)), np.log10(table.index.to_numpy(float))
    fine = np.linspace(0.5, len(x) - 0.5, 50)
    log_x = np.interp(fine, np.arange(len(x)) + 0.5, x)
    for decade in range(math.floor(x.min() + y.min()), math.ceil(x.max() + y.max()) + 1):
        at = np.interp(decade - log_x, y, np.arange(len(y)) + 0.5, left=np.nan, right=np.nan)
        if np.isfinite(at).sum() > 1:
            axis.plot(fine, at, color="#ffffff", lw=1.2, ls="--")
            k = int(np.flatnonzero(np.isfinite(at))[0])
            axis.annotate(f"1e{decade}", (fine[k], at[k]), color="#ffffff", fontsize=7)
