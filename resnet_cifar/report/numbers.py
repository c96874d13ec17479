"""Numbers as people read them, and columns of tables that show them."""

from __future__ import annotations

import math

from resnet_cifar.identity import number
from resnet_cifar.report.document import Column, Row
from resnet_cifar.report.groups import is_missing
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


def format_difference(
    mean: float, low: float, high: float, metric: str, relative: bool, predictor: bool
) -> str:
    """The difference of a claim: points of accuracy, nats, per cent, or R²."""
    if predictor:
        return signed(mean, low, high, 1, 3)
    if relative:
        return signed(mean, low, high, 100, 1) + (" %" if math.isfinite(mean) else "")
    points = metric.startswith("accuracy/")
    return signed(mean, low, high) if points else signed(mean, low, high, 1, 4)


# Columns by the key of a row ---------------------------------------------------------------------


def count_column(key: str) -> Column:
    """A column that shows a whole number; nothing where there is none."""
    return lambda row: decimals(row[key], 0)


def percent_column(key: str, digits: int = 2) -> Column:
    """A column that shows a fraction in per cent."""
    return lambda row: percent(row[key], digits)


def value_column(key: str) -> Column:
    """A column that shows a configuration value; a dash where a cell has no such key."""
    return lambda row: "–" if is_missing(row[key]) else number(row[key])


def mean_column(metric: str, scale: float = 100, digits: int = 2) -> Column:
    """A column `95.06 ± 0.12` of a `cell_table`; the mean alone with one run."""
    low, high = f"{metric}/low", f"{metric}/high"
    return lambda row: plus_minus(row[metric], row[low], row[high], scale, digits)


def range_column(key: str) -> Column:
    """A column `92.19 to 92.54 (4)`: the ends of a range, and of how many values it is."""

    def show(row: Row) -> str:
        low, high = percent(row[f"{key}/low"]), percent(row[f"{key}/high"])
        count = f" ({row[f'{key}/n']})" if f"{key}/n" in row else ""
        return low and f"{low} to {high}{count}"

    return show


def difference_column(row: Row) -> str:
    """A column `−0.09 ± 0.51`: points of accuracy against another cell."""
    return signed(row["difference"], row["low"], row["high"])
