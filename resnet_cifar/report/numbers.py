"""Numbers as people read them, and the forms in which columns of tables show them."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from resnet_cifar.identity import number
from resnet_cifar.report.groups import is_missing
from resnet_cifar.report.study import Claim
from resnet_cifar.runs import statistics

Row = dict[str, Any]


def percent(fraction: float, digits: int = 2) -> str:
    """0.9506 as 95.06; nothing for NaN."""
    return decimals(100 * fraction, digits)


def decimals(value: float | None, digits: int) -> str:
    """A number with so many decimals; nothing for NaN and None."""
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def plus_minus(
    mean: float, low: float, high: float, scale: float = 100, digits: int = 2, sign: str = ""
) -> str:
    """`95.06 ± 0.12`: a mean with half its interval, where it has one; nothing for NaN."""
    half = scale * (high - low) / 2
    return "" if math.isnan(mean) else statistics.plus_minus(scale * mean, half, digits, sign)


def signed(mean: float, low: float, high: float, scale: float = 100, digits: int = 2) -> str:
    """`+0.47 ± 0.46`: a difference with half its interval."""
    return plus_minus(mean, low, high, scale, digits, "+").replace("-", "−")


def span(low: object, high: object) -> str:
    """`2 to 5`, or the one value where both are the same."""
    return f"{low}" if low == high else f"{low} to {high}"


def format_difference(claim: Claim, mean: float, low: float, high: float) -> str:
    """A claim's difference and interval: points of accuracy, nats, per cent, or R²."""
    if math.isnan(mean):
        return ""
    if claim.predictor:
        return signed(mean, low, high, 1, 3)
    if claim.relative:  # of logarithms: its interval is not symmetric
        share, *ends = (f"{100 * math.expm1(x):+.1f}".replace("-", "−") for x in (mean, low, high))
        return f"{share} %" if math.isnan(low) else f"{share} % ({ends[0]} to {ends[1]})"
    return signed(mean, low, high, *((100, 2) if claim.unit == "points" else (1, 4)))


def list_differences(claim: Claim, values: Sequence[float]) -> str:
    """Up to two differences as they are, of more the mean with its 95 % t-interval."""
    if len(values) < 3:
        return ", ".join(format_difference(claim, x, math.nan, math.nan) for x in values)
    e = statistics.estimate(values)
    return format_difference(claim, e.mean, e.low, e.high)


# Forms of a column: the text of a row under a key ------------------------------------------------


def _show_mean(row: Row, metric: str) -> str:
    """`95.06 ± 0.12` of a `cell_table`; two runs' values; the value of a single one."""
    scale, digits = (100, 2) if metric.startswith("accuracy") else (1, 4)
    mean, half = row[metric], row[f"{metric}/sd"] / math.sqrt(2)
    fewer = f" (n = {n})" if 0 < (n := row[f"{metric}/n"]) < row["n"] else ""
    if n == 2:  # an interval of two is nearly always impossible
        return ", ".join(decimals(scale * x, digits) for x in (mean - half, mean + half)) + fewer
    return plus_minus(mean, row[f"{metric}/low"], row[f"{metric}/high"], scale, digits) + fewer


def _show_range(row: Row, key: str) -> str:
    """`92.19 to 92.54 (4)`: the ends of a range, and of how many values it is."""
    low, high = percent(row[f"{key}/low"]), percent(row[f"{key}/high"])
    count = f" ({row[f'{key}/n']})" if f"{key}/n" in row else ""
    return low and span(low, high) + count


def _show_measured(row: Row, key: str) -> str:
    """A cosine or a loss of the probe, with n where fewer runs have it."""
    fewer = f" (n = {row[f'{key}/n']})" if row.get(f"{key}/n", row["n"]) < row["n"] else ""
    text = format(row[key], ".3f" if key.startswith("loss") else ".1e")
    return "" if math.isnan(row[key]) else text + fewer


def _show_chance(row: Row, key: str) -> str:
    """Say if a difference is more than chance, by its p."""
    if math.isnan(row["difference"]):
        return "one run" if row["n"] == 1 else ""
    if row.get("lost"):
        return f"undecided, seeds diverged: {row['lost']}"
    if math.isnan(row[key]):
        return "one run" if row["n"] == 1 else "undecided"
    return "yes" if row[key] < 1 - statistics.CONFIDENCE else "undecided"


FORMS: dict[str, Callable[[Row, str], str]] = {
    "percent": lambda row, key: percent(row[key]),
    "share": lambda row, key: percent(row[key], 0),
    "loss": lambda row, key: decimals(row[key], 4),
    "minutes": lambda row, key: decimals(row[key] / 60, 1),
    "rate": lambda row, key: "" if math.isnan(row[key]) else f"{row[key]:,.0f}",
    "value": lambda row, key: "–" if is_missing(row[key]) else number(row[key]),
    "points": lambda row, key: signed(row[key], row["low"], row["high"]),
    "diverged": lambda row, key: f"{row[key]} of {row['n'] + row[key]}",
    "pattern": lambda row, of: re.sub("^nan( → nan)?$", "", of.format_map(row)),
    "mean": _show_mean,
    "range": _show_range,
    "measured": _show_measured,
    "chance": _show_chance,
}
