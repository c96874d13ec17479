"""The probe at a glance, from the rows of probe.jsonl: a few curves, and one heat map. No torch."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from resnet_cifar.text import no_backend

Row = dict[str, Any]

# Panels of the heat map, in rows that share their layers: quantity, title, and the colours' range
# where runs should compare at a glance. 1e-8 is what an identity that holds leaves in float32.
COSINE = (1e-8, 1.0)
PANELS: tuple[tuple[str, str, tuple[float, float] | None], ...] = (
    ("weight_norm", "‖w‖", None),
    ("gradient_norm", "‖∂L/∂w‖", None),
    ("angular_update", "rotation per update (rad)", None),
    ("radial_rms", "|cos(w, ∂L/∂w)|, filters", COSINE),
    ("sum_cosine", "|cos(∂L/∂x, 1)|, channels", COSINE),
    ("xhat_cosine", "|cos(∂L/∂x, x̂)|, channels", COSINE),
    ("mean_over_std", "|μ|/σ", None),
    ("running_mean_gap", "|running mean − μ|/σ", None),
)
COLUMNS = 4
# Curves over epochs: median and worst layer of each.
CURVES = (*(name for name, *_ in PANELS), "angular_ratio", "running_var_gap", "activation_dead")


def value(row: Row, quantity: str) -> float | None:
    """Read `quantity` from a row, None where it has none. gradient_norm is that of weights."""
    if quantity == "gradient_norm" and row["kind"] == "norm":
        return None
    if quantity != "angular_ratio":
        return row.get(quantity)
    measured, predicted = row.get("angular_update"), row.get("angular_update_predicted")
    return measured / predicted if measured is not None and predicted else None


def curves(rows: Sequence[Row]) -> dict[str, float]:
    """Summarise one epoch: `probe/<quantity>/median` and `probe/<quantity>/worst` over its layers.

    The worst is the largest; of angular_ratio the one furthest from 1, as a factor. Both leave out
    linear layers, as only the others are scale invariant. A quantity that no layer has is left out.
    """
    scalars: dict[str, float] = {}
    for quantity in CURVES:
        found = (value(row, quantity) for row in rows if row["kind"] != "linear")
        values = [number for number in found if number is not None]
        if values:
            scalars[f"probe/{quantity}/median"] = float(np.median(values))
            badness = _distance_from_one if quantity == "angular_ratio" else abs
            scalars[f"probe/{quantity}/worst"] = max(values, key=badness)
    return scalars


def _distance_from_one(ratio: float) -> float:
    return abs(math.log(ratio)) if ratio > 0 else math.inf


def heat_map(rows: Sequence[Row]) -> np.ndarray:
    """Draw layers × probed epochs of one run, a panel per quantity: an image uint8 [h, w, 3].

    White is where there is no number, or one that is 0.
    """
    # Without pyplot: no window, no global state, and a third of the time to import.
    with no_backend():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure

    epochs = sorted({row["epoch"] for row in rows})
    shown = range(0, len(epochs), math.ceil(len(epochs) / 8))
    figure = Figure(figsize=(16, 9), dpi=80)
    figure.subplots_adjust(left=0.08, right=0.97, bottom=0.06, top=0.96, wspace=0.2, hspace=0.15)
    canvas = FigureCanvasAgg(figure)
    for at, (quantity, title, limits) in enumerate(PANELS):
        axes = figure.add_subplot(len(PANELS) // COLUMNS, COLUMNS, at + 1, title=title)
        layers, values = table(rows, quantity)
        if (values > 0).any():
            low, high = limits or (np.nanmin(values[values > 0]), np.nanmax(values))
            norm = LogNorm(low, high)
            image = axes.imshow(values, aspect="auto", interpolation="nearest", norm=norm)
            ticks = [low, math.sqrt(low * high), high]
            figure.colorbar(image, ax=axes, ticks=ticks, format="%.1e").minorticks_off()
        named = layers if at % COLUMNS == 0 else []
        axes.set_yticks(range(len(named)), named, fontsize=7)
        axes.set_xticks(shown, [epochs[i] for i in shown])
        axes.set_xlabel("epoch" if at >= len(PANELS) - COLUMNS else "")
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()


def table(rows: Sequence[Row], quantity: str) -> tuple[list[str], np.ndarray]:
    """The layers that have `quantity`, and its size [layers, probed epochs], NaN where missing."""
    found = [(row["layer"], row["epoch"], value(row, quantity)) for row in rows]
    numbers = {(layer, epoch): abs(number) for layer, epoch, number in found if number is not None}
    layers = list(dict.fromkeys(layer for layer, _ in numbers))
    epochs = sorted({row["epoch"] for row in rows})
    cells = [[numbers.get((layer, epoch), math.nan) for epoch in epochs] for layer in layers]
    return layers, np.array(cells, dtype=float).reshape(len(layers), len(epochs))
