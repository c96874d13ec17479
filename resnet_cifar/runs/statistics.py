"""The few statistics a study of seeds needs. Numbers come from scipy."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
POWER = 0.8
MOST_SEEDS = 10_000


class Estimate(NamedTuple):
    """A mean over n runs with its t-interval; a single run has no interval (NaN)."""

    n: int
    mean: float
    sd: float  # sample standard deviation, n − 1
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def plus_minus(mean: float, half_width: float, digits: int = 2, sign: str = "") -> str:
    """`95.06 ± 0.12`; the mean alone where there is no interval (NaN); `sign` "+" for `+0.47`."""
    text = f"{mean:{sign}.{digits}f}"
    return text if math.isnan(half_width) else f"{text} ± {half_width:.{digits}f}"


def estimate(values: Iterable[float]) -> Estimate:
    """Mean, sample sd and the two-sided Student t-interval of the mean of `values`.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    x = np.asarray(list(values), dtype=np.float64)
    if not len(x) or not np.isfinite(x).all():
        raise ValueError(f"an estimate needs finite values, got {x.tolist()}")
    n, mean = len(x), float(x.mean())
    if n == 1:
        return Estimate(1, mean, math.nan, math.nan, math.nan)
    sd = float(x.std(ddof=1))
    half = float(t_half_width(n, sd))
    return Estimate(n, mean, sd, mean - half, mean + half)


def t_half_width(n: Any, sd: Any) -> Any:
    """Half the width of the t-interval of a mean over n values of sample standard deviation sd.

    n and sd are numbers or arrays; NaN where n is 1.
    """
    return stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * sd / np.sqrt(n)


def paired_differences(first: pd.Series[float], second: pd.Series[float]) -> pd.Series[float]:
    """first − second where both have a value, by index (the seed)."""
    both = first.index.intersection(second.index)
    return first.loc[both] - second.loc[both]


def seeds_to_resolve(difference: float, sd: float, power: float = POWER) -> int | None:
    """Pairs needed for the paired t-test to find a true `difference` with probability `power`.

    That is the smallest n ≥ 2 whose two-sided test has that power (noncentral t), given the paired
    differences' standard deviation; None where even `MOST_SEEDS` don't do, or all is equal.
    """
    if difference == 0 or not math.isfinite(difference):
        return None
    if sd == 0:
        return 2

    def enough(n: int) -> bool:
        critical = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
        effect = abs(difference) / sd * math.sqrt(n)
        # The other tail, a difference found with the wrong sign, is no success.
        return bool(stats.nct.sf(critical, n - 1, effect) >= power)

    high = 2
    while not enough(high):  # power grows with n
        if high == MOST_SEEDS:
            return None
        high = min(2 * high, MOST_SEEDS)
    return bisect.bisect_left(range(MOST_SEEDS), True, high // 2 + 1, high, key=enough)


class McNemar(NamedTuple):
    """Two nets on the same images."""

    only_first: int  # images the first alone gets right
    only_second: int
    p: float  # exact, two-sided: were both equally good, a split at least as uneven as this


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test (McNemar 1947) on bool [n]: the images that each net got right."""
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    p = float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0
    return McNemar(b, c, p)


def r_squared(y: NDArray[np.float64], x: NDArray[np.float64], degree: int = 2) -> float:
    """Share of the variance of y [n] a polynomial in x [n] accounts for (least squares)."""
    total = float(((y - y.mean()) ** 2).sum())
    if total == 0:
        return math.nan
    fitted = np.polynomial.Polynomial.fit(x, y, degree)(x)
    return 1 - float(((y - fitted) ** 2).sum()) / total


class Spread(NamedTuple):
    """A sample standard deviation and its degrees of freedom."""

    sd: float
    freedom: int


def pooled(samples: Sequence[Sequence[float]]) -> Spread:
    """The standard deviation within samples of two values or more that are taken to share it."""
    squares = sum(float(((np.asarray(x) - np.mean(x)) ** 2).sum()) for x in samples)
    freedom = sum(len(x) - 1 for x in samples)
    return Spread(math.sqrt(squares / freedom), freedom)


def prediction_interval(values: Sequence[float], n: int, spread: Spread) -> tuple[float, float]:
    """The interval in which the mean of n further values of the population of `values` will lie.

    mean ± t · sd · √(1/n + 1/len(values)), Student's t with the degrees of freedom of `spread`.
    """
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, spread.freedom))
    half = t * spread.sd * math.sqrt(1 / n + 1 / len(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def p_value(e: Estimate, null: float, above: bool) -> float:
    """Two-sided p of the t-test of the mean against `null`; 1 where it lies on the other side.

    Below 1 − CONFIDENCE exactly where the t-interval lies above (or below) `null`; NaN with n = 1.
    """
    distance = e.mean - null if above else null - e.mean
    if e.n < 2:
        return math.nan
    if distance <= 0:
        return 1.0
    if e.sd == 0:
        return 0.0
    return float(2 * stats.t.sf(distance / (e.sd / math.sqrt(e.n)), e.n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the same order; NaN is no test."""
    p = np.array(p_values, dtype=np.float64)
    order = np.argsort(p)  # NaN last
    left = np.isfinite(p).sum() - np.arange(len(p))
    p[order] = np.minimum(np.maximum.accumulate(left * p[order]), 1)
    return [float(each) for each in p]
