"""Numbers as people read them, and columns of tables that show them."""

import math
from collections.abc import Sequence

from resnet_cifar.identity import number
from resnet_cifar.report.document import Column, Row
from resnet_cifar.report.groups import is_missing
from resnet_cifar.report.study import Claim
from resnet_cifar.runs import statistics


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


# Columns by the key of a row ---------------------------------------------------------------------


def percent_column(key: str, digits: int = 2) -> Column:
    """A column that shows a fraction in per cent."""
    return lambda row: percent(row[key], digits)


def value_column(key: str) -> Column:
    """A column that shows a configuration value; a dash where a cell has no such key."""
    return lambda row: "–" if is_missing(row[key]) else number(row[key])


def mean_column(metric: str, scale: float = 100, digits: int = 2) -> Column:
    """A column `95.06 ± 0.12` of a `cell_table`; two runs' values; the value of a single one."""

    def show(row: Row) -> str:
        mean, half = row[metric], row[f"{metric}/sd"] / math.sqrt(2)
        if row["n"] == 2 and not math.isnan(half):  # an interval of two is nearly always impossible
            return ", ".join(decimals(scale * x, digits) for x in (mean - half, mean + half))
        return plus_minus(mean, row[f"{metric}/low"], row[f"{metric}/high"], scale, digits)

    return show


def range_column(key: str) -> Column:
    """A column `92.19 to 92.54 (4)`: the ends of a range, and of how many values it is."""

    def show(row: Row) -> str:
        low, high = percent(row[f"{key}/low"]), percent(row[f"{key}/high"])
        count = f" ({row[f'{key}/n']})" if f"{key}/n" in row else ""
        return low and span(low, high) + count

    return show


def diverged_column(row: Row) -> str:
    """A column `2 of 5`: seeds that diverged."""
    return f"{row['diverged']} of {row['n'] + row['diverged']}"


def difference_column(row: Row) -> str:
    """A column `−0.09 ± 0.51`: points of accuracy against another cell."""
    return signed(row["difference"], row["low"], row["high"])


def chance_column(key: str) -> Column:
    """A column that says if a difference is more than chance, by the p under `key`."""

    def show(row: Row) -> str:
        if math.isnan(row["difference"]):
            return "one run" if row["n"] == 1 else ""
        if row.get("lost"):
            return f"undecided, seeds diverged: {row['lost']}"
        if math.isnan(row[key]):
            return "one run" if row["n"] == 1 else "undecided"
        return "yes" if row[key] < 1 - statistics.CONFIDENCE else "undecided"

    return show
