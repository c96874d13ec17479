"""Gradient flow: the probe's measurements, cells side by side. layers.py has the identities."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from resnet_cifar.report import figures
from resnet_cifar.report.document import COLUMNS, WORDS, Part, Picture, Table, escape, heading
from resnet_cifar.report.figures import FAINT, Axes, Figure
from resnet_cifar.report.groups import Group
from resnet_cifar.runs.table import records

PANELS: dict[str, tuple[str, str]] = WORDS["panels"]  # kind of layer and title, by quantity
IDENTITIES, LOSSES = WORDS["identities"], WORDS["loss panels"]
# An identity that holds leaves float32 rounding and eps, 1e-7 to 1e-4; one that is broken 1e-2.
HOLDS_BELOW = 1e-3
STYLES = ("-", "--", ":", "-.")
Styles = dict[str, tuple[str, str, str]]  # of a cell: label, colour, line style


def flow_part(group: Group, curves: pd.DataFrame, probe: pd.DataFrame) -> list[Part]:
    """Rotation, and all else of the probe where cells differ in how statistics are detached."""
    if probe.empty:
        return []
    probe = probe[probe["directory"].isin(group.runs["directory"])]
    name = group.name
    rotations: list[Part] = []
    if rotation := draw_rotation(group, probe):
        rotations = [Picture(f"rotation-{name}", rotation, WORDS["rotation"])]
    if "norm.detach" not in group.vary or probe.empty:
        return rotations
    probed = medians(probe)
    curves = curves[curves["directory"].isin(group.runs["directory"])]
    table = flow_table(group, probed, curves)
    titles = {quantity: title for quantity, (_, title) in PANELS.items()}
    measured = {key: title for key, title in LOSSES.items() if key in table}
    columns = COLUMNS["flow"] | {title: ("measured", key) for key, title in measured.items()}
    columns["largest val loss"] = ("pattern", "{loss/val/largest:.2f}")
    losses = {key: f"{title} (nats)" for key, title in measured.items()}
    drawn = _draw_panels(group, probed, titles), _draw_panels(group, curves, losses, sharey=True)
    return [
        heading("Gradient flow", 4),
        escape(_describe_identities(table)),
        Table(f"flow-{name}", table, columns, WORDS["flow table"]),
        Picture(f"flow-{name}", drawn[0], WORDS["flow"]),
        Picture(f"losses-{name}", drawn[1], WORDS["losses"]),
        *rotations,
    ]


def _describe_identities(table: pd.DataFrame) -> str:
    """The identities that the probe found broken, cell by cell."""
    cells_by_broken: dict[str, list[str]] = {}
    for row in records(table.dropna(subset=["sum_cosine", "xhat_cosine"], how="all")):
        broken = [name for key, name in IDENTITIES.items() if row[key] >= HOLDS_BELOW]
        cells_by_broken.setdefault(", ".join(broken), []).append(row["label"])
    parts = [
        f"{'; '.join(cells)}: {'broken are ' + broken if broken else 'every identity holds'}."
        for broken, cells in cells_by_broken.items()
    ]
    return "BatchNorm's identities, median layer, last probed epoch. " + " ".join(parts)


def medians(probe: pd.DataFrame) -> pd.DataFrame:
    """The quantities of `PANELS`, medians over the layers of their kind, NaN where there is none.

    One row a run and probed epoch, after its directory, cell, seed and epoch.
    """
    keys = ["directory", "cell", "seed", "epoch"]
    table = probe[keys].drop_duplicates().set_index(keys)
    for kind, layers in probe.groupby("kind"):
        wanted = [q for q, (of, _) in PANELS.items() if of == kind and q in layers]
        table = table.join(layers.groupby(keys)[wanted].median())
    return table.reindex(columns=[*PANELS]).reset_index()


def flow_table(group: Group, probed: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """One row a probed cell: `medians`, means over its completed seeds.

    Columns: cell, label, n; of every quantity of `PANELS` its value at the last probed epoch, and
    `<quantity>/first` at the first; `loss/val/largest`; those of `LOSSES` that were
    measured, at the last epoch, and `<loss>/n`, the seeds that have it.
    """
    rows = []
    # Records from before a loss was measured lack it.
    measured = curves.reindex(columns=[*LOSSES]).dropna(axis="columns", how="all").columns
    for cell, label in group.labels.items():
        part = probed[probed["cell"] == cell]
        if part.empty:
            continue
        row = {"cell": cell, "label": label, "n": part["seed"].nunique()}
        for quantity in PANELS:
            by_epoch = part.groupby("epoch")[quantity].mean().dropna()
            if len(by_epoch):
                row |= {quantity: by_epoch.iloc[-1], f"{quantity}/first": by_epoch.iloc[0]}
        losses = curves[curves["directory"].isin(part["directory"].unique())]
        ends = losses.groupby("directory")[[*measured]].last()
        row |= {name: ends[name].mean() for name in measured}
        row |= {f"{name}/n": ends[name].count() for name in measured}
        row["loss/val/largest"] = losses["loss/val"].max()
        rows.append(row)
    return pd.DataFrame(rows)


def style_cells(group: Group, among: Iterable[str]) -> Styles:
    """Style the cells `among` which a figure draws: colour by the first key, line by the rest."""
    drawn, key = set(among), (*group.vary, "cell")[0]
    runs = {cell: run for cell, run in group.configurations.items() if cell in drawn}
    colors = figures.color_values(run[key] for run in runs.values())
    styles: Styles = {}
    for cell, run in runs.items():
        color = colors[str(run[key])]
        used = sum(other == color for _, other, _ in styles.values())
        styles[cell] = group.labels[cell], color, STYLES[used % len(STYLES)]
    return styles


def _draw_panels(
    group: Group, lines: pd.DataFrame, titles: dict[str, str], sharey: bool = False
) -> Figure:
    """A panel a quantity by epoch, three in a row: one line a run."""
    styles = style_cells(group, lines["cell"])
    rows, setting = math.ceil(len(titles) / 3), figures.describe_figure(group, lines)
    subplots: dict[str, Any] = {"nrows": rows, "ncols": 3, "sharex": True, "sharey": sharey}
    with figures.panels(9.2, 1.2 + 2.2 * rows, setting, **subplots) as (figure, axes):
        for axis in axes.flat[len(titles) :]:
            axis.remove()
        for axis, (quantity, title) in zip(axes.flat, titles.items(), strict=False):
            _draw_runs(axis, lines if quantity in lines else lines[:0], quantity, styles)
            axis.set_title(title)
            axis.tick_params(labelbottom=True)
            if quantity in IDENTITIES:
                axis.axhline(HOLDS_BELOW, color=FAINT, lw=0.8, ls=":")
        keys = [figures.Line2D([], [], color=c, ls=x, label=name) for name, c, x in styles.values()]
        figure.legend(handles=keys, loc="outside lower left", ncols=4, fontsize=8)
    return figure


def draw_rotation(group: Group, probe: pd.DataFrame) -> Figure | None:
    """Measured over predicted rotation per update, by epoch: median and range over convolutions.

    None where nothing is predicted, without weight decay.
    """
    if "angular_update_predicted" not in probe:
        return None
    mine = probe[(probe["kind"] == "conv") & (probe["angular_update_predicted"] > 0)]
    ratio = (mine["angular_update"] / mine["angular_update_predicted"]).dropna()
    if ratio.empty:
        return None
    keys = [mine[key] for key in ("cell", "seed", "epoch")]
    table = ratio.groupby(keys).agg(["median", "min", "max"]).reset_index()
    styles = style_cells(group, table["cell"])
    parts = [(name, {cell: (name, color)}) for cell, (name, color, _) in styles.items()]
    parts, setting = parts[: figures.MOST_PANELS], figures.describe_figure(group, table)
    with figures.small_panels(setting, parts) as (figure, (block,)):
        for axis, (_, part) in zip(block, parts, strict=True):
            axis.axhline(1, color=FAINT, lw=1)
            axis.axhspan(0.9, 1.1, color=FAINT, alpha=0.12, lw=0)
            _draw_runs(axis, table[table["cell"].isin(part)], "median", styles)
            axis.set_ylim(table["min"].min() / 1.1, table["max"].max() * 1.1)
            axis.set_ylabel("measured / predicted")
    return figure


def _draw_runs(axis: Axes, lines: pd.DataFrame, quantity: str, styles: Styles) -> None:
    """Draw a line a run by epoch, where the quantity was measured, and its range `min` to `max`."""
    for (cell, seed), part in lines.groupby(["cell", "seed"]):
        label, color, style = styles[str(cell)]
        part = part.dropna(subset=[quantity])
        x, y, name = part["epoch"], part[quantity], f"{label}, seed {seed}"
        axis.plot(x, y, color=color, ls=style, marker=".", label=name)
        if "min" in part:
            axis.fill_between(x, part["min"], part["max"], color=color, alpha=0.12, lw=0)
    figures.label_epochs(axis)
    figures.set_log_scale(axis)
