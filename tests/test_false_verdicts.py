"""The report's verdicts on made-up studies are wrong as rarely as they say, and find what is there.

Figures are per cent. A limit is the target and three binomial standard errors; the rules lie below
the target, so that a right one is refused less than once in a thousand other seeds.
"""

import importlib.util
import math
import sys
from typing import Any

import pytest
from conftest import ROOT

from resnet_cifar.report.claims import FAILS, HOLDS

spec = importlib.util.spec_from_file_location(
    "false_verdicts", ROOT / "experiments" / "false_verdicts.py"
)
assert spec is not None
assert spec.loader is not None
script = importlib.util.module_from_spec(spec)
sys.modules["false_verdicts"] = script  # for the class of a design
spec.loader.exec_module(script)
Design = script.Design


def error(share: float, draws: int) -> float:
    """Three standard errors of a share of independent draws."""
    return 3 * math.sqrt(share * (100 - share) / draws)


def now(judge: Any, design: Any, studies: int) -> dict[str, float]:
    return {key: shares[0] for key, shares in script.estimate(judge, design, studies).items()}


def test_two_cells_alone_differ_by_chance_in_five_of_a_hundred() -> None:
    assert now(script.judge_pairs, Design(2, 3), 350)["any"] < 6 + error(6, 350)


def test_a_wide_cell_has_a_spread_of_its_own_where_it_has_the_runs_to_show_it() -> None:
    found = now(script.judge_pairs, Design(8, 10, wide=2), 60)
    assert found["2 wide"] < 10 + error(10, 60)
    assert found["mean"] < 6 + error(6, 60)


def test_a_difference_of_two_standard_deviations_is_found_more_often_than_by_pairs() -> None:
    found = script.estimate(script.judge_pairs, Design(8, 3, ahead=2), 40)["last"]
    assert found[0] > 62 - error(62, 40)
    assert found[0] > found[1] + 15  # 29 by pairs


def test_the_best_of_many_is_not_ahead_by_having_been_picked() -> None:
    assert now(script.judge_best, Design(8, 3), 30)["any"] < 6 + error(6, 30)


def test_survivors_do_not_stand_for_diverged_seeds() -> None:
    found = script.estimate(script.judge_claims, Design(8, 5, ahead=5, diverged=1), 10)
    assert found[f"1 {HOLDS}"][1] > 90  # by the survivors alone
    assert all(found[f"1 {verdict}"][0] == 0 for verdict in (HOLDS, FAILS))


@pytest.mark.soak
@pytest.mark.parametrize("design", script.NULL, ids=str)
def test_false_verdicts_keep_their_targets(design: Any) -> None:
    studies = 400
    found = now(script.judge_pairs, design, studies)
    target = 10 if design.wide else 6
    # A mean over all pairs is one over ways to pair all cells off, whose pairs are independent.
    assert found["any"] < target + error(target, studies * design.cells // 2)
    assert max(found["mean"], found["both"]) < 6 + error(6, studies)
    best = now(script.judge_best, design, studies)
    assert best["next"] < target + error(target, studies)
    if not design.wide:
        assert best["any"] < 6 + error(6, studies)


@pytest.mark.soak
@pytest.mark.parametrize("n", [2, 3, 5])
def test_claims_keep_their_targets(n: int) -> None:
    studies = 1000
    found = now(script.judge_claims, Design(8, n), studies)
    assert found.pop("any of 6") < 6 + error(6, studies)
    assert max(found.values()) < 3 + error(3, studies)


@pytest.mark.soak
@pytest.mark.parametrize("cells", [8, 16])
@pytest.mark.parametrize(("n", "power"), [(2, 40), (3, 62), (5, 86)])
def test_power_is_that_of_the_pooled_spread(n: int, power: float, cells: int) -> None:
    found = now(script.judge_pairs, Design(cells, n, ahead=2), 400)
    assert found["last"] > power - error(power, 400)


@pytest.mark.soak
def test_degrees_of_freedom_are_not_counted_twice() -> None:
    """At n = 2 the prior's weight is most of them."""
    studies = 2000
    found = now(script.judge_pairs, Design(8, 2), studies)
    assert found["any"] < 6 + error(6, studies * 4)
