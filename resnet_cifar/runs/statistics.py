"""The few statistics a study of seeds needs. Numbers come from scipy.

Two cells are compared by a two-sample t-test. With two or three seeds a cell's own variance says
next to nothing, so it is moderated: drawn towards the variance that the cells of its setting share,
the more, the more alike they are (Smyth 2004, https://doi.org/10.2202/1544-6115.1027).
"""

import bisect
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

CONFIDENCE = 0.95
POWER = 0.8
MOST_SEEDS = 1000


class Estimate(NamedTuple):
    """A mean, or a difference of means, with its standard error."""

    n: int  # runs; of a difference those of the cell that has fewest; pairs where it is paired
    mean: float
    error: float  # NaN where nothing is known of it
    freedom: float
    judged: bool = True  # False if that is too little to judge a difference by

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % t-interval; NaN where there is none."""
        return float(half_width(self.error, self.freedom)) if self.judged else math.nan

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    def p(self, null: float = 0.0, above: bool | None = None) -> float:
        """Two-sided p of the t-test against `null`; NaN where it can't be judged.

        With `above`, 1 where the difference does not lie above it; with its opposite, not below.
        """
        distance = self.mean - null
        if not self.judged:
            return math.nan
        if above is not None and (distance <= 0 if above else distance >= 0):
            return 1.0
        return float(2 * stats.t.sf(abs(distance) / self.error, self.freedom))

    def p_of_best(self, cells: int) -> float:
        """p against 0 where the better of the two was picked as the best of `cells` (Tukey)."""
        if not self.judged:
            return math.nan
        range_ = math.sqrt(2) * abs(self.mean) / self.error
        return float(stats.studentized_range.sf(range_, cells, self.freedom))


def plus_minus(mean: float, half_width: float, digits: int = 2, sign: str = "") -> str:
    """`95.06 ± 0.12`; the mean alone where there is no interval (NaN); `sign` "+" for `+0.47`."""
    text = f"{mean:{sign}.{digits}f}"
    return text if math.isnan(half_width) else f"{text} ± {half_width:.{digits}f}"


def half_width(error: Any, freedom: Any) -> Any:
    """Half the 95 % t-interval for standard errors, numbers or arrays; NaN without freedom."""
    return stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * error


def estimate(values: Iterable[float]) -> Estimate:
    """Mean of `values`, its standard error (NaN of one). Raises ValueError: none, or not finite."""
    x = list(values)
    if not x or not np.isfinite(x).all():
        raise ValueError(f"an estimate needs finite values, got {x}")
    return Estimate(len(x), float(np.mean(x)), math.sqrt(variance(x) / len(x)), len(x) - 1)


def r_squared(y: NDArray[np.float64], x: NDArray[np.float64], degree: int = 2) -> float:
    """Share of the variance of y [n] a polynomial in x [n] accounts for (least squares)."""
    total = float(((y - y.mean()) ** 2).sum())
    if total == 0:
        return math.nan
    fitted = np.polynomial.Polynomial.fit(x, y, degree)(x)
    return 1 - float(((y - fitted) ** 2).sum()) / total


class Pool(NamedTuple):
    """The variance that cells share, and how far it is known."""

    variance: float  # s0²
    prior: float  # d0: its weight, in degrees of freedom; inf where the cells' spreads are alike
    freedom: int  # degrees of freedom it was estimated from

    def moderate(self, values: Sequence[float]) -> tuple[float, float]:
        """The variance of a cell's runs, drawn towards the pool's, and its degrees of freedom."""
        own, freedom = variance(values), len(values) - 1
        if self.freedom == 0:
            return own, freedom
        if math.isinf(self.prior):
            return self.variance, self.freedom
        whole = self.prior + freedom
        drawn = (self.prior * self.variance + (freedom * own if freedom else 0)) / whole
        return drawn, min(whole, self.freedom)


def is_of_setting(key: str) -> bool:
    """True for a key that cells must have in common to be compared, and to share a variance."""
    named = key in ("model", "model.width", "trainer.epochs", "precision")
    return named or key.partition(".")[0] == "data"


def collapses(cell: Mapping[Any, Any]) -> bool:
    """True for a configuration known to fail at some seeds more than at others."""
    return cell.get("norm.detach") in ("mean", "both")


EMPTY = Pool(math.nan, 0, 0)
ENOUGH = 8  # degrees of freedom of a pool by which two runs a cell can be judged


def variance(values: Sequence[float]) -> float:
    """The sample variance of `values`; NaN of a single one."""
    if len(values) < 2:
        return math.nan
    return float(np.var(values, ddof=1)) if np.ptp(values) else 0.0  # not what rounding leaves


def pooled_variance(cells: Iterable[Sequence[float]]) -> tuple[float, int]:
    """The variance within cells taken to share it, and its degrees of freedom; (NaN, 0) of none."""
    samples = [values for values in cells if len(values) > 1]
    freedom = sum(len(values) - 1 for values in samples)
    total = sum(variance(values) * (len(values) - 1) for values in samples)
    return total / freedom if freedom else math.nan, freedom


def pool(cells: Iterable[Sequence[float]]) -> Pool:
    """Estimate the variance within cells that resemble each other, and how alike theirs are.

    Smyth's moments of the log variances. Where these scatter no more than equal variances would,
    the prior is infinite and the variance the pooled one.
    """
    samples = [values for values in cells if len(values) > 1]
    shared, total = pooled_variance(samples)
    own = np.array([variance(values) for values in samples])
    scattered = own > 0  # equal results have no logarithm
    if scattered.sum() < 2:
        return Pool(shared, math.inf, total) if total else EMPTY
    half = np.array([len(values) - 1 for values in samples])[scattered] / 2
    logs = np.log(own[scattered]) - special.digamma(half) + np.log(half)
    excess = float(np.var(logs, ddof=1) - special.polygamma(1, half).mean())
    if excess <= 1e-3:
        return Pool(shared, math.inf, total)
    # The trigamma function falls from 1e6 to 1e-4 in between.
    prior = optimize.brentq(lambda x: special.polygamma(1, x) - excess, 1e-3, 1e4)
    location = math.exp(logs.mean() + special.digamma(prior) - math.log(prior))
    return Pool(location, 2 * prior, total)


def compare(terms: Sequence[tuple[int, Sequence[float], Pool]]) -> Estimate:
    """Add the means of several cells, weighted: the two-sample comparison for +1 and −1.

    Every term has its weight, its runs' values and the pool that moderates them; a cell is one
    term. The degrees of freedom are those of the variance that is known least. Two runs can be
    judged only by a pool of `ENOUGH` degrees of freedom; one run can't, nor equal results.
    """
    n = min(len(values) for _, values, _ in terms)
    mean = float(sum(weight * np.mean(values) for weight, values, _ in terms))
    spreads = [pool.moderate(values) for _, values, pool in terms]
    squares = [w * w * v / len(x) for (v, _), (w, x, _) in zip(spreads, terms, strict=True)]
    error = math.sqrt(sum(squares))
    freedom = min(freedom for _, freedom in spreads)
    known = min(pool.freedom for _, _, pool in terms) >= ENOUGH
    return Estimate(n, mean, error, freedom, error > 0 and (n > 2 or (n == 2 and known)))


def compare_paired(differences: Sequence[float]) -> Estimate:
    """The mean of paired `differences`, of the same runs; judged from three on."""
    e = estimate(differences)
    return e._replace(judged=e.n > 2 and e.error > 0)


def seeds_needed(distance: float, pool: Pool, cells: int = 2) -> tuple[int, int] | None:
    """Runs a cell needed to find a true `distance` of means with a probability of 0.8.

    The range is for the ends of the 80 % interval of the pool's standard deviation. None where the
    pool says too little, or `MOST_SEEDS` would not do.
    """
    if pool.freedom < ENOUGH or not math.isfinite(distance) or distance == 0:
        return None
    ends = [pool.freedom / float(stats.chi2.ppf(q, pool.freedom)) for q in (0.9, 0.1)]
    critical = half_width(1, pool.freedom)

    def enough(n: int, spread: float) -> bool:
        effect = abs(distance) / math.sqrt(spread * cells / n) if spread else math.inf
        return bool(stats.nct.sf(critical, pool.freedom, min(effect, 30.0)) >= POWER)

    seeds = range(2, MOST_SEEDS)
    tests = (functools.partial(enough, spread=pool.variance * end) for end in ends)
    low, high = (2 + bisect.bisect_left(seeds, True, key=test) for test in tests)
    return (low, high) if high < MOST_SEEDS else None


def prediction_interval(
    values: Sequence[float], n: int, sd: float, freedom: int
) -> tuple[float, float]:
    """The interval in which the mean of n further values of the population of `values` will lie.

    mean ± t · sd · √(1/n + 1/len(values)), Student's t with the degrees of freedom of `sd`.
    """
    e = Estimate(n, float(np.mean(values)), sd * math.sqrt(1 / n + 1 / len(values)), freedom)
    return e.low, e.high


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the same order; NaN is no test."""
    p = np.array(p_values, dtype=np.float64)
    order = np.argsort(p)  # NaN last
    left = np.isfinite(p).sum() - np.arange(len(p))
    p[order] = np.minimum(np.maximum.accumulate(left * p[order]), 1)
    return [float(each) for each in p]
