"""Every statistic equals scipy's."""

import math

import numpy as np
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
    assert (e.n, e.mean, e.error) == (n, close(values.mean(), abs=1e-12), close(stats.sem(values)))
    assert e.half_width == close((interval.high - interval.low) / 2, abs=1e-12)


def test_one_value_has_no_interval() -> None:
    e = s.estimate([0.5])
    assert (e.n, e.mean) == (1, 0.5)
    assert all(math.isnan(x) for x in (e.error, e.low, e.high, e.half_width, e.p()))


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [math.inf]])
def test_nothing_is_estimated_from_nothing(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        s.estimate(values)


# Comparisons --------------------------------------------------------------------------------------


def test_without_a_pool_two_cells_are_compared_as_welch_does_but_for_the_freedom() -> None:
    a, b = [0.81, 0.83, 0.86, 0.82], [0.80, 0.79, 0.805]
    e = s.compare([(1, a, s.EMPTY), (-1, b, s.EMPTY)])
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert e.mean / e.error == close(welch.statistic)
    assert (e.n, e.freedom, e.judged) == (3, 2, True)  # of the variance that is known least
    assert e.p() == close(2 * stats.t.sf(abs(welch.statistic), 2))


def test_equal_spreads_are_pooled_as_the_two_sample_test_does() -> None:
    rng = np.random.default_rng(4)
    centred = [x - x.mean() for x in rng.normal(size=(2, 5))]
    a, b = (list(m + x / x.std(ddof=1)) for m, x in zip((0.2, 0.0), centred, strict=True))
    pool = s.pool([a, b])
    assert pool == (close(1.0), math.inf, 8)
    e, test = s.compare([(1, a, pool), (-1, b, pool)]), stats.ttest_ind(a, b)
    interval = test.confidence_interval(0.95)
    assert (e.low, e.high) == close((interval.low, interval.high))
    assert e.p() == close(test.pvalue)


def test_the_prior_is_that_of_smyth_s_moments() -> None:
    """Variances drawn as the model says are estimated right: s0² = 4, d0 = 6, d = 2."""
    rng = np.random.default_rng(0)
    sigma = np.sqrt(4 * 6 / rng.chisquare(6, 20_000))
    pool = s.pool(sigma[:, None] * rng.normal(size=(20_000, 3)))
    assert pool.prior == close(6, rel=0.1)
    assert pool.variance == close(4, rel=0.05)
    assert pool.freedom == 40_000
    own = [0.0, 2.0, 4.0]  # variance 4, as the pool's
    assert s.Pool(4.0, 6.0, 100).moderate(own) == (close(4.0), 8)
    assert s.Pool(1.0, 6.0, 100).moderate(own) == (close((6 * 1 + 2 * 4) / 8), 8)
    assert s.Pool(1.0, 6.0, 5).moderate(own)[1] == 5  # no more than was ever known
    assert s.Pool(1.0, math.inf, 5).moderate(own) == (1.0, 5)
    assert s.Pool(1.0, 6.0, 100).moderate([3.0]) == (1.0, 6)  # nothing of its own


def test_a_pool_of_results_without_spread() -> None:
    assert s.pool([]) == s.EMPTY == s.pool([[1.0], [2.0]])
    flat = s.pool([[1.0, 1.0], [2.0, 2.0]])
    assert flat == (0.0, math.inf, 2)
    assert math.isnan(s.compare([(1, [2.0] * 3, flat), (-1, [1.0] * 3, flat)]).p())
    alike = [[0.1 * k + x for x in (0.0, 0.01, 0.02)] for k in range(7)]
    assert s.pool([*alike, [0.7] * 3]).prior > 100  # equal results have a variance of rounding
    assert s.pool([[1.0, 1.0], [2.0, 2.4], [3.0, 3.1]]).freedom == 3


@pytest.mark.parametrize(("n", "freedom", "judged"), [(1, 99, 0), (2, 7, 0), (2, 8, 1), (3, 0, 1)])
def test_two_runs_are_judged_by_a_pool_alone(n: int, freedom: int, judged: bool) -> None:
    pool = s.Pool(1.0, math.inf, freedom) if freedom else s.EMPTY
    values = [0.0, 1.0, 2.0][:n]
    e = s.compare([(1, values, pool), (-1, values, pool)])
    assert e.judged == judged
    assert math.isnan(e.p()) != judged
    assert math.isnan(e.low) != judged


def test_a_cell_apart_takes_two_runs_away_from_the_pool() -> None:
    pool = s.Pool(1.0, math.inf, 20)
    assert not s.compare([(1, [0.0, 1.0], pool), (-1, [5.0, 9.0], s.EMPTY)]).judged


def test_an_excess_at_the_end_of_the_bracket_is_found() -> None:
    """Log variances whose scatter exceeds that of equal ones by a thousandth, or nearly none."""
    draws = np.random.default_rng(0).normal(size=(400, 3))
    for spread in np.linspace(0, 0.4, 60):
        scaled = draws * np.exp(spread * np.linspace(-1, 1, 400))[:, None]
        assert s.pool(scaled).variance > 0


def test_an_interaction_adds_four_variances() -> None:
    pool = s.Pool(4.0, math.inf, 20)
    cells = [[1.0, 3.0], [0.0, 0.0], [5.0, 5.0], [2.0, 4.0]]
    e = s.compare(list(zip((1, -1, -1, 1), cells, [pool] * 4, strict=True)))
    assert (e.mean, e.error) == (0.0, close(math.sqrt(4 * 4 / 2)))
    e = s.compare(list(zip((1, -2, 1), cells[:3], [pool] * 3, strict=True)))  # a curvature
    assert e.error == close(math.sqrt((1 + 4 + 1) * 4 / 2))


@pytest.mark.parametrize("null", [0.0, 0.5, 2.0])
def test_p_agrees_with_the_interval(null: float) -> None:
    values = np.random.default_rng(3).normal(1, 0.5, 6)
    e = s.compare_paired(list(values))
    p = stats.ttest_1samp(values, null).pvalue
    assert sorted((e.p(null, True), e.p(null, False))) == [close(p), 1.0]
    assert e.p(null) == close(p)
    interval = stats.ttest_1samp(values, null).confidence_interval(0.95)
    assert (e.low, e.high) == close((interval.low, interval.high))
    assert (e.p(null, True) < 0.05) == (e.low > null)
    assert (e.p(null, False) < 0.05) == (e.high < null)
    assert not s.compare_paired(list(values[:2])).judged


def test_the_best_of_three_is_judged_as_tukey_does() -> None:
    rng = np.random.default_rng(2)
    cells = [list(rng.normal(m, 1, 4)) for m in (0, 1, 2)]
    pool = s.Pool(s.pooled_variance(cells)[0], math.inf, 9)
    p = s.compare([(1, cells[2], pool), (-1, cells[0], pool)]).p_of_best(3)
    assert p == close(stats.tukey_hsd(*cells).pvalue[2, 0], abs=1e-9)
    assert math.isnan(s.compare([(1, cells[0][:1], pool), (-1, cells[1], pool)]).p_of_best(3))


@pytest.mark.parametrize("cells", [2, 4])
def test_seeds_needed_have_the_power_by_simulation(cells: int) -> None:
    """With a variance that is known well both ends of the range are the textbook's."""
    low, high = s.seeds_needed(1.0, s.Pool(1.0, math.inf, 10_000), cells) or (0, 0)
    assert (low, high) == ((16, 16) if cells == 2 else (31, 32))
    draws = np.random.default_rng(0).normal(size=(20_000, cells, low)).mean(axis=2)
    signs = np.array([1, -1, -1, 1][:cells])
    found = np.abs(draws @ signs + 1.0) / math.sqrt(cells / low) > stats.norm.ppf(0.975)
    assert found.mean() == close(0.8, abs=0.02)


def test_a_range_of_seeds_is_that_of_the_spread() -> None:
    loose, tight = (s.seeds_needed(1.0, s.Pool(1.0, math.inf, f)) for f in (8, 80))
    assert loose
    assert tight
    assert loose[0] < tight[0] <= 17 <= tight[1] < loose[1]


@pytest.mark.parametrize(
    ("distance", "pool"),
    [
        (0.0, s.Pool(1.0, math.inf, 20)),
        (math.nan, s.Pool(1.0, math.inf, 20)),
        (1e-6, s.Pool(1.0, math.inf, 20)),
        (1.0, s.Pool(1.0, math.inf, 7)),
        (1.0, s.EMPTY),
    ],
)
def test_what_no_number_of_seeds_resolves(distance: float, pool: s.Pool) -> None:
    assert s.seeds_needed(distance, pool) is None


def test_two_seeds_resolve_a_difference_without_spread() -> None:
    assert s.seeds_needed(-1e-9, s.Pool(0.0, math.inf, 8)) == (2, 2)


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
        low, high = s.prediction_interval(values[:4], 3, values[:4].std(ddof=1), 3)
        inside += low <= values[4:].mean() <= high
    assert inside / 4000 == close(0.95, abs=0.012)
    # of one more value from n the textbook's t · s · √(1 + 1/n)
    low, high = s.prediction_interval([1.0, 2.0, 3.0], 1, 1.0, 2)
    assert high - low == close(2 * stats.t.ppf(0.975, 2) * math.sqrt(4 / 3))


def test_pooled_is_the_variance_within_samples() -> None:
    assert s.pooled_variance([[1.0, 2.0, 3.0]]) == (1.0, 2)
    assert s.pooled_variance([[1.0, 2.0, 3.0], [10.0, 14.0], [7.0]]) == (close((2 + 8) / 3), 3)
    assert s.pooled_variance([])[1] == 0


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
