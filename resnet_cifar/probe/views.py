"""The probe at a glance, from the rows of probe.jsonl: a few curves. No torch."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]

# Curves over epochs: median and worst layer of each.
CURVES = (
    *("weight_norm", "gradient_norm", "angular_update", "radial_rms", "sum_cosine", "xhat_cosine"),
    *("mean_over_std", "running_mean_gap", "angular_ratio", "running_var_gap", "activation_dead"),
)


def value(row: Row, quantity: str) -> float | None:
    """Read `quantity` from a row, None where it has none.

    gradient_norm is that of weights. angular_ratio is measured over predicted.
    """
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
        numbers = [value(row, quantity) for row in rows if row["kind"] != "linear"]
        values = [number for number in numbers if number is not None]
        if values:
            scalars[f"probe/{quantity}/median"] = float(np.median(values))
            badness = _distance_from_one if quantity == "angular_ratio" else abs
            scalars[f"probe/{quantity}/worst"] = max(values, key=badness)
    return scalars


def _distance_from_one(ratio: float) -> float:
    return abs(math.log(ratio)) if ratio > 0 else math.inf
