"""Every statistic equals scipy's."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from resnet_cifar.runs import statistics as s

close = pytest.approx


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_an_estimate_is_scipy_s_t_interval(n: int) -> None:
    values = np.random.default_rng(n).normal(0.9, 0.01, n)
    e = s.estimate(values)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (e.low, e.high) == close((interval.low, interval.high), abs=1e-12)
    assert (e.n, e.mean, e.sd) == (n, close(values.mean(), abs=1e-12), close(stats.tstd(values)))
    assert e.half_width == close((interval.high - interval.low) / 2, abs=1e-12)


def test_one_value_has_no_interval() -> None:
    e = s.estimate([0.5])
    assert (e.n, e.mean) == (1, 0.5)
    assert all(math.isnan(x) for x in (e.sd, e.low, e.high, e.half_width))


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [math.inf]])
def test_nothing_is_estimated_from_nothing(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        s.estimate(values)


def test_pairs_are_by_seed_and_equal_scipy_s_paired_test() -> None:
    rng = np.random.default_rng(0)
    a = pd.Series(rng.normal(size=5), index=[0, 1, 2, 3, 9])
    b = pd.Series(rng.normal(size=5), index=[3, 2, 1, 0, 7])
    differences = s.paired_differences(a, b)
    assert sorted(differences.index) == [0, 1, 2, 3]
    common = [0, 1, 2, 3]
    interval = stats.ttest_rel(a[common], b[common]).confidence_interval(0.95)
    e = s.estimate(differences)
    assert (e.low, e.high) == close((interval.low, interval.high), abs=1e-12)


@pytest.mark.parametrize("effect", [0.3, 1.0, 4.0, -0.5])
def test_seeds_to_resolve_is_the_smallest_n_with_the_power(effect: float) -> None:
    def power(n: int) -> float:
        critical = stats.t.ppf(0.975, n - 1)
        return float(stats.nct.sf(critical, n - 1, abs(effect) * math.sqrt(n)))

    n = s.seeds_to_resolve(2 * effect, 2.0)
    assert n is not None
    assert power(n) >= 0.8
    assert n == 2 or power(n - 1) < 0.8


def test_seeds_to_resolve_by_simulation() -> None:
    n = s.seeds_to_resolve(1.0, 1.0)
    assert n == 10  # Cohen 1988: about 10 pairs for d = 1
    draws = np.random.default_rng(0).normal(1.0, 1.0, (20_000, n))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert found.mean() == close(0.8, abs=0.02)


@pytest.mark.parametrize(
    ("difference", "sd"),
    [
        (0.0, 1.0),
        (0.0, 0.0),
        (1.0, math.nan),
        (1.0, math.inf),
        (math.nan, 1.0),
        (math.nan, 0.0),
        (math.inf, 1.0),
        (-math.inf, 0.0),
        (1e-9, 1.0),
    ],
)
def test_what_no_number_of_seeds_resolves(difference: float, sd: float) -> None:
    assert s.seeds_to_resolve(difference, sd) is None


def test_two_seeds_resolve_a_difference_without_spread() -> None:
    assert s.seeds_to_resolve(-1e-9, 0.0) == 2


def test_a_power_met_exactly_is_enough() -> None:
    n = 7
    critical = stats.t.ppf(0.975, n - 1)
    power = float(stats.nct.sf(critical, n - 1, 1.3 * math.sqrt(n)))
    assert s.seeds_to_resolve(1.3, 1.0, power=power) == n


def test_the_search_begins_with_two_seeds_and_ends_with_the_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    original = stats.t.ppf

    def ppf(q: float, degrees: int) -> float:
        asked.append(degrees + 1)
        return float(original(q, degrees))

    monkeypatch.setattr(s.stats.t, "ppf", ppf)
    assert s.seeds_to_resolve(1000.0, 1.0) == 2
    assert asked == [2]
    asked.clear()
    n = s.seeds_to_resolve(0.0285, 1.0)  # more than 8,192, the last power of two below the most
    assert n is not None
    assert 9000 < n < s.MOST_SEEDS == max(asked)
    assert s.seeds_to_resolve(0.02, 1.0) is None
    assert min(asked) == 2


def test_mcnemar_is_the_binomial_test_on_what_they_disagree_about() -> None:
    first = np.array([True] * 30 + [False] * 12 + [True] * 50 + [False] * 8)
    second = np.array([False] * 30 + [True] * 12 + [True] * 50 + [False] * 8)
    test = s.mcnemar(first, second)
    assert (test.only_first, test.only_second) == (30, 12)
    assert test.p == close(stats.binomtest(30, 42).pvalue, abs=1e-12)
    assert s.mcnemar(first, first).p == 1


def test_r_squared() -> None:
    x = np.linspace(-1, 1, 9)
    assert s.r_squared(1 + x - 2 * x**2, x) == close(1, abs=1e-12)
    assert s.r_squared(np.abs(x), x, degree=1) == close(0, abs=1e-12)
    assert s.r_squared(x**3, x) < 0.9  # a parabola unless told otherwise
    y = np.random.default_rng(0).normal(size=9)
    assert s.r_squared(y, x, degree=1) == close(stats.linregress(x, y).rvalue ** 2, abs=1e-12)


def test_a_prediction_interval_holds_the_mean_of_n_more_in_95_of_100() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0.9, 0.01, (20_000, 4 + 3))
    inside = 0
    for values in draws[:4000]:
        low, high = s.prediction_interval(values[:4], 3, s.pooled([values[:4]]))
        inside += low <= values[4:].mean() <= high
    assert inside / 4000 == close(0.95, abs=0.012)
    # of one more value from n the textbook's t · s · √(1 + 1/n)
    low, high = s.prediction_interval([1.0, 2.0, 3.0], 1, s.pooled([[1.0, 2.0, 3.0]]))
    assert high - low == close(2 * stats.t.ppf(0.975, 2) * math.sqrt(4 / 3))


def test_pooled_is_the_deviation_within_samples() -> None:
    assert s.pooled([[1.0, 2.0, 3.0]]) == (1.0, 2)
    spread = s.pooled([[1.0, 2.0, 3.0], [10.0, 14.0]])
    assert spread == (close(math.sqrt((2 + 8) / 3)), 3)


def test_holm() -> None:
    # Holm's own scheme by hand: smallest p times the number of tests, next times one fewer, …
    assert s.holm([0.01, 0.04, 0.03]) == [close(0.03), close(0.06), close(0.06)]
    corrected = s.holm([0.5, math.nan, 0.9])
    assert corrected[0] == 1.0
    assert math.isnan(corrected[1])
    assert s.holm([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=9), st.floats(1e-3, 0.999))
def test_holm_rejects_what_the_stepwise_procedure_rejects(p_values: list[float], a: float) -> None:
    """Its definition: from the smallest p on, reject while p times the tests left is at most a."""
    tests = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    rejected = set()
    for left, (p, i) in zip(range(len(tests), 0, -1), tests, strict=True):
        if left * p > a:
            break
        rejected.add(i)
    corrected = s.holm(p_values)
    assert {i for i, p in enumerate(corrected) if p <= a} == rejected
    assert [math.isnan(p) for p in corrected] == [math.isnan(p) for p in p_values]


def test_a_mean_is_written_with_half_its_interval() -> None:
    assert s.plus_minus(95.061, 0.125) == "95.06 ± 0.12"
    assert s.plus_minus(0.5, math.nan, digits=4) == "0.5000"
    assert s.plus_minus(0.5, 1.0, digits=1, sign="+") == "+0.5 ± 1.0"
    assert s.plus_minus(-0.5, 1.0, digits=1, sign="+") == "-0.5 ± 1.0"


@pytest.mark.parametrize("null", [0.0, 0.5, 2.0])
def test_p_is_scipy_s_and_agrees_with_the_interval(null: float) -> None:
    values = np.random.default_rng(3).normal(1, 0.5, 6)
    e = s.estimate(values)
    p = stats.ttest_1samp(values, null).pvalue
    above, below = s.p_value(e, null, above=True), s.p_value(e, null, above=False)
    assert sorted((above, below)) == [close(p), 1.0]
    assert (above < 0.05) == (e.low > null)
    assert (below < 0.05) == (e.high < null)
    assert math.isnan(s.p_value(s.estimate([1.0]), null, above=True))
