"""Gradient flow: the probe's measurements, cells side by side. layers.py has the identities."""

from __future__ import annotations

import math

import pandas as pd

from resnet_cifar.report.canvas import FAINT, Axes, Figure, label_epochs, panels, set_log_scale
from resnet_cifar.report.document import Column, Part, Picture, Table, escape, heading
from resnet_cifar.report.figures import Styles, legend_lines, style_cells
from resnet_cifar.report.groups import Group
from resnet_cifar.runs.table import records

# (quantity, kind of layer, title): a panel each.
PANELS = (
    ("sum_cosine", "norm", "|cos(∂L/∂x, 1)|: shift"),
    ("xhat_cosine", "norm", "|cos(∂L/∂x, x̂)|: scale"),
    ("radial_rms", "conv", "|cos(w, ∂L/∂w)|: length of w"),
    ("mean_over_std", "norm", "|μ|/σ: where the shift went"),
    ("weight_norm", "conv", "‖w‖"),
    ("running_mean_gap", "norm", "|running mean − μ|/σ: lag"),
)
IDENTITIES = ("sum_cosine", "xhat_cosine", "radial_rms")
# An identity that holds leaves float32 rounding and eps, 1e-7 to 1e-4; one that is broken 1e-2.
HOLDS_BELOW = 1e-3
LOSSES = ("loss/train", "loss/val", "loss/val_batch_statistics")


ROTATION = (
    "Rotation of the filters per update, measured over √(2·lr·wd/(1+m)), the prediction for scale-"
    "invariant weights in equilibrium: median and range over convolutions; grey, within 10 %."
)


def flow_part(group: Group, curves: pd.DataFrame, probe: pd.DataFrame) -> list[Part]:
    """Rotation, and all else of the probe where cells differ in how statistics are detached."""
    rotation = draw_rotation(group, probe)
    name = group.name
    rotations: list[Part] = []
    if rotation is not None:
        rotations = [Picture(f"rotation-{name}", rotation, ROTATION)]
    probed = medians(group, probe)
    if "norm.detach" not in group.vary or probed.empty:
        return rotations
    table = flow_table(group, probed, curves)
    panels = (
        "Median over layers, a line a run. Dotted: below it an identity holds, up to rounding and "
        "eps."
    )
    losses = (
        "Where validation explodes but not with its own statistics, the running statistics lag; "
        "where both do, the network itself is broken."
    )
    return [
        heading("Gradient flow", 4),
        escape(_describe_identities(table)),
        _show_table(name, table),
        Picture(f"flow-{name}", draw_quantities(group, probed), panels),
        Picture(f"losses-{name}", draw_losses(group, curves), losses),
        *rotations,
    ]


def _show_table(name: str, table: pd.DataFrame) -> Table:
    columns: dict[str, Column] = {
        "cell": "label",
        "n": "n",
        "cos(∂L/∂x, 1)": _cosine_column("sum_cosine"),
        "cos(∂L/∂x, x̂)": _cosine_column("xhat_cosine"),
        "cos(w, ∂L/∂w)": _cosine_column("radial_rms"),
        "|μ|/σ": lambda row: f"{row['mean_over_std/first']:.2f} → {row['mean_over_std']:.2f}",
        "‖w‖": lambda row: f"{row['weight_norm/first']:.2f} → {row['weight_norm']:.2f}",
        "lag": lambda row: f"{row['running_mean_gap']:.2f}",
        "train loss": lambda row: f"{row['loss/train']:.3f}",
        "val loss": lambda row: f"{row['loss/val']:.3f}",
        "its own statistics": lambda row: f"{row['loss/val_batch_statistics']:.3f}",
        "largest val loss": lambda row: f"{row['loss/val/largest']:.2f}",
    }
    caption = (
        "Medians over layers at the last probed epoch (→: from the first probed one), means over "
        "seeds. Cosines are absolute, root mean square over channels or filters. Lag: |running "
        "mean − μ|/σ. Its own statistics: the validation loss normalised by each validation batch "
        "itself."
    )
    return Table(f"flow-{name}", table, columns, caption, words=("cell",))


def _cosine_column(key: str) -> Column:
    return lambda row: "" if math.isnan(row[key]) else f"{row[key]:.1e}"


def _describe_identities(table: pd.DataFrame) -> str:
    """The identities that the probe found broken, cell by cell."""
    names = dict(zip(IDENTITIES, ("Σ∂L/∂x = 0", "⟨∂L/∂x, x̂⟩ = 0", "w·∂L/∂w = 0"), strict=True))
    cells_by_broken: dict[str, list[str]] = {}
    for row in records(table):
        broken = [name for key, name in names.items() if not holds(row[key])]
        cells_by_broken.setdefault(", ".join(broken), []).append(row["label"])
    parts = [
        f"{'; '.join(cells)}: {'broken are ' + broken if broken else 'every identity holds'}."
        for broken, cells in cells_by_broken.items()
    ]
    return "BatchNorm's identities, median layer, last probed epoch. " + " ".join(parts)


def medians(group: Group, probe: pd.DataFrame) -> pd.DataFrame:
    """The quantities of `PANELS` as medians over the layers of their kind.

    Returns:
        One row a completed run and probed epoch: directory, cell, seed, epoch and the quantities,
        NaN where there is none; empty without a probe.
    """
    keys = ["directory", "cell", "seed", "epoch"]
    mine = _select_probed(group, probe)
    if mine.empty:
        return pd.DataFrame()
    table = mine[keys].drop_duplicates().set_index(keys)
    for kind, layers in mine.groupby("kind"):
        wanted = [q for q, of, _ in PANELS if of == kind and q in layers]
        table = table.join(layers.groupby(keys)[wanted].median())
    return table.reindex(columns=[quantity for quantity, _, _ in PANELS]).reset_index()


def flow_table(group: Group, probed: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """One row a probed cell: `medians`, means over its completed seeds.

    Columns: cell, label, n; of every quantity of `PANELS` its value at the last probed epoch, and
    `<quantity>/first` at the first; `loss/…` of `LOSSES` at the last epoch and `loss/val/largest`.
    """
    rows = []
    for cell, label in group.labels.items():
        part = probed[probed["cell"] == cell]
        if part.empty:
            continue
        row = {"cell": cell, "label": label, "n": part["seed"].nunique()}
        for quantity, _, _ in PANELS:
            by_epoch = part.groupby("epoch")[quantity].mean().dropna()
            if len(by_epoch):
                row |= {quantity: by_epoch.iloc[-1], f"{quantity}/first": by_epoch.iloc[0]}
        losses = curves[curves["directory"].isin(part["directory"].unique())]
        row |= dict.fromkeys(LOSSES, math.nan)
        for name in LOSSES:
            if name in losses:
                row[name] = losses.groupby("directory")[name].last().mean()
        row["loss/val/largest"] = losses["loss/val"].max()
        rows.append(row)
    return pd.DataFrame(rows)


def holds(value: float) -> bool:
    """True if a cosine is that of an identity that holds."""
    return value < HOLDS_BELOW


def draw_quantities(group: Group, probed: pd.DataFrame) -> Figure:
    """A panel a quantity of `PANELS` by epoch: `medians`, one line a run."""
    styles = _style_cells(group, probed)
    with panels(9.2, 5.4, nrows=2, ncols=3, sharex=True) as (figure, axes):
        for axis, (quantity, _, title) in zip(axes.flat, PANELS, strict=True):
            _draw_runs(axis, probed, quantity, styles)
            axis.set_title(title)
            axis.tick_params(labelbottom=True)
            if quantity in IDENTITIES:
                axis.axhline(HOLDS_BELOW, color=FAINT, lw=0.8, ls=":")
        _draw_legend(figure, styles)
    return figure


def draw_losses(group: Group, curves: pd.DataFrame) -> Figure:
    """Losses by epoch: training, validation, and validation with the batches' own statistics."""
    mine = curves[curves["directory"].isin(group.runs["directory"])]
    styles = _style_cells(group, mine)
    titles = ("training", "validation", "validation, own statistics")
    with panels(9.2, 3.4, ncols=3, sharex=True, sharey=True) as (figure, axes):
        for axis, name, title in zip(axes, LOSSES, titles, strict=True):
            _draw_runs(axis, mine if name in mine else mine[:0], name, styles)
            axis.set_title(f"{title} (nats)")
        _draw_legend(figure, styles)
    return figure


def _draw_runs(axis: Axes, lines: pd.DataFrame, quantity: str, styles: Styles) -> None:
    """Draw a line a run by epoch, where the quantity was measured; the axis is logarithmic."""
    for (cell, seed), part in lines.groupby(["cell", "seed"]):
        if str(cell) in styles:
            label, color, style = styles[str(cell)]
            part = part.dropna(subset=[quantity])
            x, y, name = part["epoch"], part[quantity], f"{label}, seed {seed}"
            axis.plot(x, y, color=color, ls=style, marker=".", label=name)
    label_epochs(axis)
    set_log_scale(axis)


def draw_rotation(group: Group, probe: pd.DataFrame) -> Figure | None:
    """Measured over predicted rotation per update, by epoch: median and range over convolutions.

    None where nothing is predicted, without weight decay.
    """
    mine = _compare_rotations(_select_probed(group, probe))
    if mine.empty:
        return None
    styles = _style_cells(group, mine)
    with panels(6.4, 3.2) as (figure, axis):
        axis.axhline(1, color=FAINT, lw=1)
        axis.axhspan(0.9, 1.1, color=FAINT, alpha=0.12, lw=0)
        for (cell, seed), part in mine.groupby(["cell", "seed"]):
            label, color, style = styles[str(cell)]
            ratios = part.groupby("epoch")["ratio"].agg(["median", "min", "max"])
            x, name = ratios.index, f"{label}, seed {seed}"
            axis.plot(x, ratios["median"], color=color, ls=style, marker=".", label=name)
            axis.fill_between(x, ratios["min"], ratios["max"], color=color, alpha=0.12, lw=0)
        label_epochs(axis)
        axis.set_ylabel("measured / predicted")
        set_log_scale(axis)
        axis.legend(handles=legend_lines(styles), loc="best", fontsize=7)
    return figure


def _style_cells(group: Group, lines: pd.DataFrame) -> Styles:
    """The styles of the cells that have lines."""
    there = set(lines["cell"])
    return style_cells(group, [cell for cell in group.labels if cell in there])


def _draw_legend(figure: Figure, styles: Styles) -> None:
    """One legend for all panels, below them."""
    figure.legend(handles=legend_lines(styles), loc="outside lower center", ncols=4, fontsize=8)


def _compare_rotations(probe: pd.DataFrame) -> pd.DataFrame:
    if probe.empty or "angular_update_predicted" not in probe:
        return pd.DataFrame()
    mine = probe[(probe["kind"] == "conv") & (probe["angular_update_predicted"] > 0)]
    ratio = mine["angular_update"] / mine["angular_update_predicted"]
    return mine.assign(ratio=ratio).dropna(subset=["ratio"])


def _select_probed(group: Group, probe: pd.DataFrame) -> pd.DataFrame:
    return probe[probe["directory"].isin(group.runs["directory"])] if len(probe) else probe
