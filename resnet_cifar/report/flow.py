"""Gradient flow: what the probe saw, cells side by side. The identities are in layers.py."""

from __future__ import annotations

import math

import pandas as pd

from resnet_cifar.report.canvas import FAINT, Figure, epochs, log_scale, panels
from resnet_cifar.report.figures import appearance, keys
from resnet_cifar.report.groups import Group

# (quantity, kind of layer, title, logarithmic): a panel each.
PANELS = (
    ("sum_cosine", "norm", "|cos(∂L/∂x, 1)|: shift", True),
    ("xhat_cosine", "norm", "|cos(∂L/∂x, x̂)|: scale", True),
    ("radial_rms", "conv", "|cos(w, ∂L/∂w)|: length of w", True),
    ("mean_over_std", "norm", "|μ|/σ: where the shift went", True),
    ("weight_norm", "conv", "‖w‖", True),
    ("running_mean_gap", "norm", "|running mean − μ|/σ: lag", True),
)
IDENTITIES = ("sum_cosine", "xhat_cosine", "radial_rms")
# An identity that holds leaves float32 rounding and eps, 1e-7 to 1e-4; one that is broken 1e-2.
HOLDS_BELOW = 1e-3
LOSSES = ("loss/train", "loss/val", "loss/val_batch_statistics")


def medians(group: Group, probe: pd.DataFrame) -> pd.DataFrame:
    """The quantities of `PANELS` as medians over the layers of their kind.

    Returns:
        One row a completed run and probed epoch: directory, cell, seed, epoch and the quantities,
        NaN where there is none; empty without a probe.
    """
    keys = ["directory", "cell", "seed", "epoch"]
    mine = _of(group, probe)
    if mine.empty:
        return pd.DataFrame()
    table = mine[keys].drop_duplicates().set_index(keys)
    for kind, layers in mine.groupby("kind"):
        wanted = [q for q, of, _, _ in PANELS if of == kind and q in layers]
        table = table.join(layers.groupby(keys)[wanted].median())
    return table.reindex(columns=[quantity for quantity, _, _, _ in PANELS]).reset_index()


def table(group: Group, found: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """One row a probed cell: `medians`, means over its completed seeds.

    Columns: cell, label, n; of every quantity of `PANELS` its value at the last probed epoch, and
    `<quantity>/first` at the first; `loss/…` of `LOSSES` at the last epoch and `loss/val/largest`.
    """
    rows = []
    for cell, label in group.labels.items():
        part = found[found["cell"] == cell]
        if part.empty:
            continue
        row = {"cell": cell, "label": label, "n": part["seed"].nunique()}
        for quantity, _, _, _ in PANELS:
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
    """Whether a cosine is that of an identity that holds."""
    return value < HOLDS_BELOW


def figure(group: Group, found: pd.DataFrame) -> Figure:
    """A panel a quantity of `PANELS` by epoch: `medians`, one line a run."""
    look = _look(group, found)
    with panels(9.2, 5.4, nrows=2, ncols=3, sharex=True) as (result, axes):
        for axis, (quantity, _, title, log) in zip(axes.flat, PANELS, strict=True):
            for (cell, seed), part in found.groupby(["cell", "seed"]):
                label, color, style = look[str(cell)]
                name = f"{label}, seed {seed}"
                x, y = part["epoch"], part[quantity]
                axis.plot(x, y, color=color, ls=style, marker=".", label=name)
            axis.set_title(title)
            epochs(axis)
            axis.tick_params(labelbottom=True)
            if log:
                log_scale(axis)
            if quantity in IDENTITIES:
                axis.axhline(HOLDS_BELOW, color=FAINT, lw=0.8, ls=":")
        _legend(result, look)
    return result


def losses_figure(group: Group, curves: pd.DataFrame) -> Figure:
    """Losses by epoch: training, validation, and validation with the batches' own statistics."""
    mine = curves[curves["directory"].isin(group.runs["directory"])]
    look = _look(group, mine)
    titles = ("training", "validation", "validation, own statistics")
    with panels(9.2, 3.4, ncols=3, sharex=True, sharey=True) as (result, axes):
        for axis, name, title in zip(axes, LOSSES, titles, strict=True):
            for (cell, seed), part in mine.groupby(["cell", "seed"]):
                if name not in part or str(cell) not in look:
                    continue
                label, color, style = look[str(cell)]
                part = part.dropna(subset=[name])
                x, y, label = part["epoch"], part[name], f"{label}, seed {seed}"
                axis.plot(x, y, color=color, ls=style, marker=".", label=label)
            axis.set_title(f"{title} (nats)")
            epochs(axis)
            log_scale(axis)
        _legend(result, look)
    return result


def rotation_figure(group: Group, probe: pd.DataFrame) -> Figure | None:
    """Measured over predicted rotation per update, by epoch: median and range over convolutions.

    None where nothing is predicted, without weight decay.
    """
    mine = _rotations(_of(group, probe))
    if mine.empty:
        return None
    look = _look(group, mine)
    with panels(6.4, 3.2) as (result, axis):
        axis.axhline(1, color=FAINT, lw=1)
        axis.axhspan(0.9, 1.1, color=FAINT, alpha=0.12, lw=0)
        for (cell, seed), part in mine.groupby(["cell", "seed"]):
            label, color, style = look[str(cell)]
            ratios = part.groupby("epoch")["ratio"].agg(["median", "min", "max"])
            x, name = ratios.index, f"{label}, seed {seed}"
            axis.plot(x, ratios["median"], color=color, ls=style, marker=".", label=name)
            axis.fill_between(x, ratios["min"], ratios["max"], color=color, alpha=0.12, lw=0)
        epochs(axis)
        axis.set_ylabel("measured / predicted")
        log_scale(axis)
        axis.legend(handles=keys(look), loc="best", fontsize=7)
    return result


def _look(group: Group, found: pd.DataFrame) -> dict[str, tuple[str, str, str]]:
    """How the cells that are in `found` are drawn."""
    there = set(found["cell"])
    return appearance(group, [cell for cell in group.labels if cell in there])


def _legend(result: Figure, look: dict[str, tuple[str, str, str]]) -> None:
    """One for all panels, below them."""
    result.legend(handles=keys(look), loc="outside lower center", ncols=4, fontsize=8)


def _rotations(probe: pd.DataFrame) -> pd.DataFrame:
    if probe.empty or "angular_update_predicted" not in probe:
        return pd.DataFrame()
    mine = probe[(probe["kind"] == "conv") & (probe["angular_update_predicted"] > 0)]
    ratio = mine["angular_update"] / mine["angular_update_predicted"]
    return mine.assign(ratio=ratio).dropna(subset=["ratio"])


def _of(group: Group, probe: pd.DataFrame) -> pd.DataFrame:
    return probe[probe["directory"].isin(group.runs["directory"])] if len(probe) else probe
