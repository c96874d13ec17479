"""Pictures of the tables of a group, their style, and the files made of them.

Text and lines are drawn in INK and on PAPER, which the HTML page replaces by its own colours, so
that a figure is at home in light and dark. Nothing global of matplotlib is touched.
"""

import io
import itertools
import math
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from resnet_cifar.errors import shorten
from resnet_cifar.identity import number
from resnet_cifar.report.groups import Group, describe_value, name_key
from resnet_cifar.report.study import VAL
from resnet_cifar.report.tables import FEWEST_FOR_A_BAND, Tables
from resnet_cifar.runs.table import records
from resnet_cifar.text import no_backend

with no_backend():
    import matplotlib
    from matplotlib.axes import Axes as Axes
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure as Figure
    from matplotlib.lines import Line2D as Line2D
    from matplotlib.text import Annotation
    from matplotlib.ticker import LogFormatter, MaxNLocator
    from matplotlib.transforms import Affine2D as Affine2D

_STYLE = matplotlib.rc_params_from_file(
    str(Path(__file__).with_name("figures.mplstyle")), use_default_template=False
)
INK, FAINT, PAPER = (_STYLE[key] for key in ("text.color", "axes.edgecolor", "axes.facecolor"))
COLORS = (*_STYLE["axes.prop_cycle"].by_key()["color"], INK)
FEW_VALUES, SEQUENTIAL = 3, (0.27, 0.67)  # of a numeric key; the part of viridis for more of them
FEWEST_PANELS, MOST_PANELS = 6, 16  # cells from which on each, or each value, has a panel
MOST_ROWS, MOST_RUNS = 16, 24  # cells in a figure of dots; runs drawn one by one

Looks = dict[str, tuple[str, str]]  # of a cell: its name at the end of its line, and its colour
Panels = list[tuple[str, Looks]]  # each with its title
Drawing = Iterator[tuple[Figure, Any]]  # the figure and its axes


@contextmanager
def panels(width: float, height: float, title: str = "", **subplots: Any) -> Drawing:
    """Draw into a new figure of so many inches, in the style of the report."""
    with _styled():
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(**subplots)
        figure.suptitle(textwrap.fill(title, round(14 * width)), x=0.01, ha="left")
        if layout := figure.get_layout_engine():
            layout.execute(figure)
        figure.set_layout_engine("none")  # the places of labels depend on it
        for axis in figure.axes:  # the layout's last digits differ from call to call
            axis.set_position(np.round(axis.get_position().bounds, 6))
            _spread_labels(axis)


@contextmanager
def _styled() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A label may be in any script; an SVG's text is drawn by the reader's fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def draw_svg(figure: Figure) -> str:
    """The figure as an SVG document."""
    buffer = io.StringIO()
    with _styled():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # Places to a hundredth of a point; the text that people read stands between the tags.
    tags = re.compile(r"<[^>]+>")
    return tags.sub(lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group()), buffer.getvalue())


def label_epochs(axis: Axes) -> None:
    """The x axis counts epochs: whole ones."""
    axis.set_xlabel("epoch")
    axis.margins(x=0.02)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


class _PlainFormatter(LogFormatter):
    """Ticks as people write them: 0.6, 1, 2; never powers, which are formulas, nor 6e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return number(float(x)) if super().__call__(x, pos) else ""


def set_log_scale(axis: Axes) -> None:
    """A logarithmic y axis, labelled 0.1 and 1e-07."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(_PlainFormatter())
    axis.yaxis.set_minor_formatter(_PlainFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))


def label_end(axis: Axes, y: float, text: str, color: str) -> None:
    """Write `text` to the right of a line that ends at `y`; `panels` moves such labels apart."""
    line = {"arrowstyle": "-", "color": color, "lw": 1.6, "relpos": (0, 0.5)}
    text, where = shorten_label(text), axis.get_yaxis_transform()
    label = axis.annotate(text, (1, y), (12, 0), where, "offset points", line)
    label.set(va="center", fontsize=8)


def _spread_labels(axis: Axes) -> None:
    """Move the labels at the ends of lines apart, as little as possible."""
    labels = [text for text in axis.texts if isinstance(text, Annotation)]
    if not labels:
        return
    ends = axis.transData.transform([(0, label.xy[1]) for label in labels])[:, 1]
    low, high = axis.bbox.intervaly
    order, point = np.argsort(ends, kind="stable"), axis.figure.dpi / 72
    gaps = 10.5 * point * np.arange(len(labels))
    places = isotonic_regression(ends[order].clip(low, high) - gaps).x
    places = places.clip(low, max(low, high - gaps[-1])) + gaps
    for i, place in zip(order, places, strict=True):
        labels[i].xyann = (12, (place - ends[i]) / point)


def describe_figure(group: Group, runs: pd.DataFrame) -> str:
    """The setting and the seeds, which a figure that travels alone has to say."""
    counts, seeds = runs.groupby("cell")["seed"].nunique(), sorted(runs["seed"].unique())
    n = " to ".join(map(str, sorted({counts.min(), counts.max()})))
    return f"{group.setting}; n = {n}, seeds {', '.join(map(str, seeds))}"


def shorten_label(label: str, longest: int = 52) -> str:
    """A cell's label; of a long one its first part and its last: no number is cut."""
    parts = label.split(", ")
    return label if len(label) <= longest else shorten(f"{parts[0]}, …, {parts[-1]}", longest)


def color_values(values: Iterable[Any]) -> dict[str, str]:
    """A colour for each value, by its text, numbers by size: of many along a map, else by kind."""
    distinct = {str(value): value for value in values}
    colors: Iterable[Any] = itertools.cycle(COLORS)
    if all(isinstance(value, (int, float)) for value in distinct.values()):
        # A cell without the key has NaN, which is in no order.
        distinct = dict(sorted(distinct.items(), key=lambda item: (math.isnan(item[1]), item[1])))
        if len(distinct) > FEW_VALUES:
            shades = matplotlib.colormaps["viridis"](np.linspace(*SEQUENTIAL, len(distinct)))
            colors = map(to_hex, shades)
    return dict(zip(distinct, colors, strict=False))


_MARKS: dict[str, dict[str, Any]] = {  # by their names in the key
    "a run": {"marker": "o", "ms": 4, "ls": "", "color": COLORS[0], "alpha": 0.8},
    "mean, 95 % interval (n ≥ 3)": {"marker": "|", "ms": 10, "color": COLORS[0], "markevery": [1]},
}


def draw_overview(rankings: Sequence[Tables]) -> Figure:
    """The cells of every setting, best first: a dot a run, from three runs the mean's interval."""
    ranked = [tables.ranks.iloc[:MOST_ROWS].iloc[::-1] for tables in rankings]
    heights = [len(table) + 0.4 for table in ranked]
    rows: dict[str, Any] = {"nrows": len(ranked), "squeeze": False, "height_ratios": heights}
    with panels(5.6, 0.2 * sum(heights) + 0.7 * len(ranked) + 0.4, **rows) as (figure, axes):
        run, mean = _MARKS.values()
        for tables, table, axis in zip(rankings, ranked, axes[:, 0], strict=True):
            for y, row in enumerate(records(table)):
                for seed, value in tables.group.values(row["cell"], VAL).items():
                    axis.plot(100 * value, y, **run, label=f"{row['label']}, seed {seed}")
                if row["n"] >= FEWEST_FOR_A_BAND:
                    ends = [100 * row[end] for end in (f"{VAL}/low", VAL, f"{VAL}/high")]
                    axis.plot(ends, [y] * 3, **mean, label=f"{row['label']}, mean and interval")
            labels = [f"{shorten_label(row['label'])}  (n = {row['n']})" for row in records(table)]
            axis.set_yticks(range(len(table)), labels, fontsize=8)
            axis.set_ylim(-0.7, len(table) - 0.3)
            axis.grid(axis="y", visible=False)
            low, high = axis.get_xlim()
            axis.set_xlim(max(0, low), min(100, high))
            axis.set_title(shorten(tables.group.setting, 70), loc="right")
            axis.set_xlabel("validation accuracy, last epoch (%)", fontsize=8)
        keys = [Line2D([0] * 3, [0] * 3, **mark, label=name) for name, mark in _MARKS.items()]
        figure.legend(handles=keys, loc="outside lower right", ncols=2)
    return figure


def arrange(tables: Tables) -> Panels:
    """Share cells out: one panel for a few, one for each value of a key, or one for each."""
    group = tables.group
    runs = {cell: run for cell, run in group.configurations.items() if len(group.values(cell, VAL))}
    many, first = len(runs) >= FEWEST_PANELS, (*group.vary, "cell")[0]
    if many and len(group.vary) == 2:
        colors = {key: color_values(run[key] for run in runs.values()) for key in group.vary}
        by = group.vary[len(colors[first]) >= len(colors[group.vary[1]])]
        key = group.vary[by == first]
        found: dict[str, Looks] = {text: {} for text in colors[by]}
        for cell, run in runs.items():
            found[str(run[by])][cell] = describe_value(key, run[key]), colors[key][str(run[key])]
        if max(map(len, found.values())) < FEWEST_PANELS and 2 * len(found) <= MOST_PANELS:
            return [(describe_value(by, runs[min(x)][by]), x) for x in found.values()]
    key = first if many or len(group.vary) == 1 else "cell"
    shades = color_values(run[key] for run in runs.values())
    looks = {cell: (group.labels[cell], shades[str(run[key])]) for cell, run in runs.items()}
    if not many:
        return [("", looks)]
    best = tables.cells.dropna(subset=[VAL]).nlargest(MOST_PANELS, VAL)["cell"]
    return [(looks[cell][0], {cell: ("", looks[cell][1])}) for cell in looks if cell in set(best)]


@contextmanager
def small_panels(title: str, parts: Panels, blocks: int = 1) -> Drawing:
    """A figure with a panel for each part, `blocks` times: (figure, the axes block by block)."""
    count = len(parts)
    columns = blocks if count == 1 else count if count <= 4 else 3 if count <= 6 else 4
    rows = 1 if count == 1 else blocks * math.ceil(count / columns)
    height = 3.2 if rows == 1 else 2.3 if rows == blocks else 1.5
    grid: dict[str, Any] = {"nrows": rows, "ncols": columns, "sharex": True, "squeeze": False}
    with panels(9.2, height * rows + 0.4, title, **grid) as (figure, axes):
        found = [list(block.flat) for block in np.split(axes, blocks, axis=int(count == 1))]
        yield figure, [block[:count] for block in found]
        for block in found:
            for axis in block[count:]:
                axis.remove()
            for i, (axis, (name, _)) in enumerate(zip(block, parts, strict=False)):
                label_epochs(axis)
                # No left title: pointing at a line says its y axis and value.
                axis.set_title(shorten_label(name, 38), loc="center", x=0, ha="left", fontsize=8)
                axis.tick_params(labelbottom=i + columns >= count, labelleft=i % columns == 0)
                axis.xaxis.label.set_visible(i // columns == (count - 1) // columns)
                axis.yaxis.label.set_visible(i % columns == 0)


def draw_curves(tables: Tables) -> Figure:
    """Accuracy and loss by epoch: validation with seed bands, training faint, augmented marks.

    From six cells on in small panels, each with the other cells faint behind its own; with more
    than eight panels accuracy alone. A line's label says what it is where one points at it.
    """
    parts, title = arrange(tables), describe_figure(tables.group, tables.group.runs)
    drawn = {cell for _, looks in parts for cell in looks}
    shown = (("accuracy", "accuracy (%)", 100), ("loss", "loss (nats)", 1))
    count = 1 if 2 * len(parts) > MOST_PANELS else 2
    with small_panels(title, parts, count) as (figure, blocks):
        for block, (quantity, name, scale) in zip(blocks, shown, strict=False):
            means = tables.curves[f"{quantity}/val"]
            for axis, (_, looks) in zip(block, parts, strict=True):
                axis.set_ylabel(name)
                for _, other in means[means["cell"].isin(drawn - looks.keys())].groupby("cell"):
                    axis.plot(other["epoch"], scale * other["mean"], color=FAINT, lw=0.6, alpha=0.6)
                for cell, look in looks.items():
                    _draw_cell(axis, tables, cell, quantity, look)
            _fit_limits(block, 100 if quantity == "accuracy" else math.inf)
    return figure


def _draw_cell(axis: Axes, tables: Tables, cell: str, quantity: str, look: tuple[str, str]) -> None:
    (end, color), scale = look, 100 if quantity == "accuracy" else 1
    label, seeds = tables.group.labels[cell], tables.group.values(cell, VAL).index
    if len(seeds) > 1 and len(tables.group.runs) <= MOST_RUNS:
        curves = tables.runs[tables.runs["cell"] == cell].dropna(subset=[f"{quantity}/val"])
        for seed, run in curves.groupby("seed"):
            x, y, name = run["epoch"], scale * run[f"{quantity}/val"], f"{label}, seed {seed}"
            axis.plot(x, y, color=color, lw=0.7, alpha=0.6, label=name)
    of = f"mean of {len(seeds)}" if len(seeds) > 1 else f"seed {seeds[0]}"
    for view, name, marker, width, alpha in (
        ("val", of, "", 1.6, 1.0),
        ("train", f"{of}, training", "", 1.0, 0.35),
        ("val_augmented", f"{of}, augmented view", "x", 0.0, 1.0),
    ):
        table = tables.curves[f"{quantity}/{view}"]
        table = table[table["cell"] == cell]
        x, y, name = table["epoch"], scale * table["mean"], f"{label}, {name}"
        axis.plot(x, y, color=color, marker=marker, ms=4, lw=width, alpha=alpha, label=name)
        if view == "val" and len(table):
            low, high = scale * table["low"], scale * table["high"]
            axis.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
            label_end(axis, last := y.iloc[-1], end or f"{last:.3g}", color)


def _fit_limits(block: Sequence[Axes], most: float) -> None:
    """One scale for all, by what was measured, not by a band's reach; logarithmic over 1 : 20."""
    drawn = [np.asarray(line.get_ydata(), np.float64) for axis in block for line in axis.lines]
    if not np.isfinite(values := np.concatenate(drawn)).any():
        return
    low, high = np.nanmin(values), np.nanmax(values)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    limits = max(0.0, low - room), min(most, high + room)
    if logarithmic := most == math.inf and 0 < 20 * low < high:
        limits = low / 1.3, high * 1.3
    for axis in block:
        if logarithmic:
            set_log_scale(axis)
        axis.set_ylim(limits)


def draw_ranks(tables: Tables) -> Figure:
    """The cells' ranks by epoch; of many in colour up to five that were first at some epoch."""
    group, picks = tables.group, tables.picks
    ranks = picks.set_index("epoch").filter(like="rank/").rename(columns=lambda x: x[5:])
    worst = picks.sort_values("behind")["cell"].iloc[-1]
    first = dict.fromkeys([picks["cell"].iloc[-1], worst, *picks["cell"].iloc[::-1]])
    cells = list(dict.fromkeys([*first, *ranks.iloc[-1].sort_values().index]))[:MOST_PANELS]
    (_, looks), *more = arrange(tables)
    if more:
        colors = dict(zip(first, COLORS, strict=False))
        looks = {c: (group.labels[c], colors.get(c, FAINT)) for c in reversed(cells)}
    size = 7.2, 1 + 0.22 * max(4, len(cells))
    with panels(*size, describe_figure(group, group.runs)) as (figure, axis):
        for cell, (name, color) in {c: looks[c] for c in looks if c in ranks}.items():
            width = 0.8 if color == FAINT else 1.8
            axis.plot(ranks[cell], color=color, lw=width, label=group.labels[cell])
            label_end(axis, ranks[cell].iloc[-1], name, color)
        last = int(ranks[cells].to_numpy().max())
        axis.set_ylim(last + 0.5, 0.5)
        axis.set_yticks(range(1, last + 1, math.ceil(last / MOST_PANELS)))
        label_epochs(axis)
        axis.set_ylabel("rank (1 is best)")
    return figure


def draw_map(tables: Tables) -> Figure:
    """The mean accuracy of every cell as a map of the two varied keys: `Tables.grid`."""
    table = tables.grid
    assert table is not None
    height, width = table.shape
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    size = 2.2 + 0.8 * width, 1.2 + 0.55 * height
    with panels(*size, describe_figure(tables.group, tables.group.runs)) as (figure, axis):
        image = axis.pcolormesh(x, y, 100 * table.to_numpy(), cmap="viridis")
        for (row, column), value in np.ndenumerate(100 * table.to_numpy()):
            if math.isfinite(value):
                # White or black, by the relative luminance at which both have the same contrast.
                shade = np.array(image.to_rgba(value)[:3]) ** 2.2 @ (0.2126, 0.7152, 0.0722)
                color = "#ffffff" if shade < 0.18 else "#000000"
                at = x[column], y[row]
                axis.text(*at, f"{value:.1f}", ha="center", va="center", color=color)
        axis.set_xticks(x, map(number, table.columns))
        axis.set_yticks(y, map(number, table.index))
        axis.grid(visible=False)
        axis.set_xlabel(name_key(str(table.columns.name)))
        axis.set_ylabel(name_key(str(table.index.name)))
        figure.colorbar(image, ax=axis, label="validation accuracy (%)")
    return figure
