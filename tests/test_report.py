"""From made-up runs with known results to tables, verdicts and files."""

import contextlib
import dataclasses
import hashlib
import html.parser
import io
import itertools
import json
import math
import os
import platform
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from made_up import FULL, add_probe, change_record, composed, make_run
from scipy import stats

from resnet_cifar import text
from resnet_cifar.config.keys import known_identity_keys
from resnet_cifar.errors import UserError
from resnet_cifar.record.schema import read_record
from resnet_cifar.report import (
    claims,
    contents,
    document,
    figures,
    flow,
    folder,
    numbers,
    tables,
    terminal,
    verdicts,
)
from resnet_cifar.report.__main__ import main
from resnet_cifar.report.groups import Group, group_by_question, group_by_setting, name_key
from resnet_cifar.report.study import load_published, load_questions
from resnet_cifar.runs import statistics
from resnet_cifar.runs.table import load_metrics, load_probe, load_runs, records

PUBLISHED = load_published()
QUESTIONS = {question.name: question for question in load_questions()}
LR, WD = "optimizer.lr", "regularization.weight_decay"
SHORT = ["model.width=16", "trainer.epochs=5"]


def group(root: Path, name: str) -> Group:
    (found,) = [
        g for g in group_by_question(load_runs(root), [QUESTIONS[name]]) if g.question.name == name
    ]
    return found


def tabulate(root: Path, name: str) -> tables.Tables:
    return tables.tabulate(group(root, name), load_metrics(root))


def judge(root: Path, name: str, which: int = 0) -> claims.Judgement:
    judgement = claims.judge(QUESTIONS[name].claims[which], group(root, name))
    assert judgement is not None
    return judgement


def add_rates(root: Path) -> Path:
    """Make three learning rates at three seeds; 0.01 is best."""
    rng = np.random.default_rng(0)
    for lr, mean in (("0.001", 0.80), ("0.01", 0.86), ("0.1", 0.83)):
        for seed in range(3):
            value = mean + rng.normal(0, 0.002)
            make_run(root, [*SHORT, f"{LR}={lr}"], seed, value, loss=1 - value)
    return root


@pytest.fixture
def rates(tmp_path: Path) -> Path:
    return add_rates(tmp_path)


def test_a_table_of_cells_equals_scipy(rates: Path) -> None:
    runs = load_runs(rates)
    table = tabulate(rates, "learning_rate").cells
    assert list(table["optimizer.lr"]) == [0.001, 0.01, 0.1]
    assert list(table["label"]) == ["lr 0.001", "lr 0.01", "lr 0.1"]
    for row in table.to_dict("records"):
        values = runs[runs["cell"] == row["cell"]]["accuracy/val"]
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert row["n"] == 3
        assert row["accuracy/val"] == pytest.approx(values.mean(), abs=1e-12)
        assert row["accuracy/val/low"] == pytest.approx(interval.low, abs=1e-12)
        assert row["accuracy/val/high"] == pytest.approx(interval.high, abs=1e-12)
        assert math.isnan(row["published"])  # not the full setting
        assert row["verdict"] == ""


def test_every_two_cells_that_differ_in_one_key_are_compared(rates: Path) -> None:
    make_run(rates, [*SHORT, f"{LR}=0.1", "regularization.label_smoothing=0.1"], 0, 0.5)
    whole = tabulate(rates, "learning_rate")
    table = whole.differences.set_index("name")
    assert list(table.index) == ["lr 0.01 − 0.001", "lr 0.1 − 0.001", "lr 0.1 − 0.01"]
    cells = list(whole.group.labels)
    values = [list(whole.group.values(cell, "accuracy/val")) for cell in cells]
    spread = statistics.pool(values)
    expected = statistics.compare([(1, values[2], spread), (-1, values[1], spread)])
    row = table.loc["lr 0.1 − 0.01"]
    assert (row["n"], row["lost"]) == (3, 0)
    assert row["difference"] == pytest.approx(np.mean(values[2]) - np.mean(values[1]))
    assert (row["low"], row["high"], row["p"]) == (expected.low, expected.high, expected.p())


# Verdicts ----------------------------------------------------------------------------------------


def lrs(root: Path, values: dict[str, list[float]]) -> Path:
    for lr, accuracies in values.items():
        for seed, accuracy in enumerate(accuracies):
            make_run(root, [*SHORT, f"{LR}={lr}"], seed, accuracy)
    return root


@pytest.mark.parametrize(
    ("best", "large", "verdict"),
    [
        ([0.86, 0.87, 0.88], [0.83, 0.84, 0.85], "holds"),
        ([0.83, 0.84, 0.85], [0.86, 0.87, 0.88], "does not hold"),
        ([0.86, 0.84, 0.88], [0.83, 0.86, 0.85], "undecided"),
        ([0.86], [0.83], "undecided"),
    ],
)
def test_a_claim(tmp_path: Path, best: list[float], large: list[float], verdict: str) -> None:
    small = [x - 0.1 for x in best]
    judgement = judge(lrs(tmp_path, {"0.01": best, "0.1": large, "0.001": small}), "learning_rate")
    assert judgement.verdict == verdict
    assert judgement.n == len(best)
    first = judgement.comparisons[0]
    assert first.name == "lr 0.01 − 0.1"
    assert first.difference.mean == pytest.approx(np.mean(best) - np.mean(large), abs=1e-12)


def test_one_failing_comparison_fails_the_claim(tmp_path: Path) -> None:
    values = {"0.01": [0.86, 0.865, 0.87], "0.1": [0.83, 0.835, 0.84], "0.001": [0.90, 0.905, 0.91]}
    judgement = judge(lrs(tmp_path, values), "learning_rate")
    assert judgement.verdict == "does not hold"
    # The smaller of two p, doubled: either of the two comparisons might have failed by chance.
    assert judgement.p == pytest.approx(2 * judgement.comparisons[1].difference.p())


def test_a_claim_with_a_missing_cell_is_not_said_to_hold(tmp_path: Path) -> None:
    judgement = judge(lrs(tmp_path, {"0.01": [0.86, 0.87], "0.1": [0.7, 0.71]}), "learning_rate")
    assert judgement.verdict == "undecided"
    assert judgement.remark == "comparisons that are there: 1 of 2"


def test_paired_differences_stand_beside_and_judge_nothing(tmp_path: Path) -> None:
    best, large = [0.86, 0.87, 0.88], [0.84, 0.85, 0.86]
    lrs(tmp_path, {"0.01": [*best, 0.5], "0.1": large, "0.001": [0.7, 0.71]})
    judgement = judge(tmp_path, "learning_rate")
    first, second = judgement.comparisons
    assert first.pairs == pytest.approx([0.02, 0.02, 0.02])  # equal: no seed is like another
    assert second.pairs == pytest.approx([0.16, 0.16])
    assert (first.paired, second.paired) == (False, False)
    assert judgement.verdict == "undecided"
    table = verdicts.claims_table([judgement])
    shown = [row[list(table.columns).index("paired by seed")] for row in table.rows()]
    assert shown == ["+2.00 ± 0.00", "+16.00, +16.00"]


def test_seeds_need_no_partner(tmp_path: Path) -> None:
    lrs(tmp_path, {"0.01": [0.86, 0.87, 0.88], "0.1": [0.83, 0.84, 0.82], "0.001": [0.7] * 3})
    make_run(tmp_path, [*SHORT, f"{LR}=0.1"], 7, 0.83)
    judgement = judge(tmp_path, "learning_rate")
    assert (judgement.verdict, judgement.n) == ("holds", 3)
    assert judgement.comparisons[0].difference.mean == pytest.approx(0.87 - 0.83)


def test_two_runs_a_cell_are_judged_by_a_setting_that_knows_its_spread(tmp_path: Path) -> None:
    lrs(tmp_path, {"0.01": [0.86, 0.87], "0.1": [0.83, 0.84], "0.001": [0.7, 0.71]})
    assert judge(tmp_path, "learning_rate").verdict == "undecided"
    for seed in range(6):  # five more degrees of freedom in the same setting: eight
        make_run(tmp_path, [*SHORT, "optimizer.momentum=0.8"], seed, 0.8 + seed / 400)
    assert judge(tmp_path, "learning_rate").verdict == "holds"
    for seed in range(6):  # not from another setting
        make_run(tmp_path, ["model.width=32", "trainer.epochs=5"], seed, 0.8 + seed)
    assert judge(tmp_path, "learning_rate").verdict == "holds"


def test_a_cell_that_collapses_stays_out_of_the_pool(tmp_path: Path) -> None:
    root = detached(tmp_path, 0.2, 0.89)
    found = group(root, "detach")
    pools = {label: found.pool(cell) for cell, label in found.labels.items()}
    apart = {label for label, pool in pools.items() if pool is statistics.EMPTY}
    assert apart == {label for label in pools if "mean" in label or "both" in label}
    (shared,) = {pool for label, pool in pools.items() if label not in apart}
    assert shared.freedom == 4 * 2


def test_runs_of_two_precisions_are_never_compared(tmp_path: Path) -> None:
    lrs(tmp_path, {"0.01": [0.86, 0.87, 0.88]})
    for seed in range(3):
        make_run(tmp_path, [*SHORT, f"{LR}=0.1"], seed, 0.8, precision="bf16")
    runs = load_runs(tmp_path)
    assert [g.question.name for g in group_by_question(runs, [QUESTIONS["learning_rate"]])] == [
        "other"
    ] * 2
    assert [len(g.runs) for g in group_by_setting(runs)] == [3, 3]
    assert sorted(g.setting for g in group_by_setting(runs)) == [
        f"CIFAR-10, width 16, 5 epochs, precision {name}" for name in ("bf16", "fp32")
    ]
    session = msgspec.structs.replace(
        read_record(tmp_path / runs["cell"][0] / "seed=0").sessions[0], precision="bf16"
    )
    (tmp_path / "two").mkdir()
    first = msgspec.structs.replace(session, precision="fp32")
    run = make_run(tmp_path / "two", SHORT, 0, 0.9, sessions=[first, session])
    kept, left = contents.leave_out_mixed(load_runs(tmp_path / "two"))
    assert (len(kept), left) == (0, {str(run): "trained in two precisions: fp32 | bf16"})


# What diverged, what was planned, what came before a claim ----------------------------------------


@pytest.mark.parametrize(
    ("survivors", "verdict"), [([0.70, 0.71, 0.72], "undecided"), ([0.20, 0.21, 0.22], "holds")]
)
def test_a_verdict_does_not_rest_on_survivors(
    tmp_path: Path, survivors: list[float], verdict: str
) -> None:
    values = [0.80, 0.81, 0.82, 0.8, 0.81]
    lrs(tmp_path, {"0.01": values, "0.1": survivors, "0.001": [0.5, 0.51, 0.49, 0.5, 0.52]})
    make_run(tmp_path, [*SHORT, f"{LR}=0.1"], 3, status="diverged", loss=math.nan)
    judgement = judge(tmp_path, "learning_rate")
    assert "lr 0.1: 1 of 4 seeds diverged" in judgement.remark
    assert judgement.verdict == verdict
    changed = "the diverged seeds at chance level change the verdict" in judgement.remark
    assert changed == (verdict == "undecided")
    ranking = tabulate(tmp_path, "learning_rate").ranks
    assert ranking["label"].iloc[-1] == "lr 0.1"  # after the others, however good its survivors
    assert list(ranking["diverged"]) == [0, 0, 1]
    row = tabulate(tmp_path, "learning_rate").differences.set_index("name").loc["lr 0.1 − 0.01"]
    assert (row["lost"], math.isnan(row["p"])) == (1, True)


def test_a_diverged_run_is_at_the_chance_of_its_own_data(tmp_path: Path) -> None:
    for data, chance in (("cifar10", 0.1), ("cifar100", 0.01), ("synthetic", 0.1)):
        for lr in ("0.1", "0.01"):
            make_run(tmp_path / data, [*SHORT, f"data={data}", f"{LR}={lr}"], 0, 0.5)
            lost = [*SHORT, f"data={data}", f"{LR}={lr}"]
            make_run(tmp_path / data, lost, 1, 0.1, status="diverged", curve=[0.1])
        found = group(tmp_path / data, "learning_rate")
        assert claims._chance(plan(), found) == pytest.approx(chance)
        assert claims._chance(plan(metric="loss/val"), found) == pytest.approx(-math.log(chance))
    elsewhere = found.everything.assign(data="a folder of my own")
    assert math.isnan(dataclasses.replace(found, everything=elsewhere).chance)


def plan(**changes: object) -> claims.Claim:
    claim = QUESTIONS["learning_rate"].claims[0]
    return msgspec.structs.replace(claim, **changes)


def test_planned_seeds_are_waited_for_and_no_more_count(tmp_path: Path) -> None:
    lrs(tmp_path, {"0.01": [0.84, 0.86, 0.87, 0.88], "0.1": [0.86, 0.73, 0.74, 0.72]})
    make_run(tmp_path, [*SHORT, f"{LR}=0.001"], 1, 0.7)
    make_run(tmp_path, [*SHORT, f"{LR}=0.001"], 2, 0.7)
    found = group(tmp_path, "learning_rate")
    waiting = claims.judge(plan(seeds=(1, 2, 3)), found)
    assert waiting
    assert (waiting.verdict, waiting.n) == ("undecided", 2)
    assert "planned seeds still missing: 3" in waiting.remark
    make_run(tmp_path, [*SHORT, f"{LR}=0.001"], 3, 0.7)
    judged = claims.judge(plan(seeds=(1, 2, 3)), group(tmp_path, "learning_rate"))
    assert judged
    assert (judged.verdict, judged.n) == ("holds", 3)
    assert judged.comparisons[0].difference.mean == pytest.approx(0.87 - 0.73)


def test_runs_that_started_before_a_claim_decide_nothing(tmp_path: Path) -> None:
    lrs(tmp_path, {"0.01": [0.86, 0.87, 0.88], "0.1": [0.8, 0.81, 0.82], "0.001": [0.7] * 3})
    found = group(tmp_path, "learning_rate")
    for declared, verdict in (
        ("2026-11-30T23:00Z", "holds"),
        ("2026-12-01T00:00:00+00:00", "holds"),
        ("2026-12-01T00:30+00:30", "holds"),
        ("2026-12-01T00:01Z", "undecided"),
        ("published", "holds"),
        ("", "holds"),
    ):
        judgement = claims.judge(plan(declared=declared), found)
        assert judgement
        assert judgement.verdict == verdict, declared
        assert ("exploration" in judgement.remark) == (verdict == "undecided")
        assert judgement.n == 3


def test_planned_seeds_are_missing_where_a_cell_has_none_of_them(tmp_path: Path) -> None:
    lrs(tmp_path, {"0.01": [0.7, 0.71, 0.72], "0.1": [0.8, 0.81, 0.82]})
    make_run(tmp_path, [*SHORT, f"{LR}=0.001"], 7, 0.5)
    make_run(tmp_path, [*SHORT, f"{LR}=1"], 8, 0.5)  # no cell of the claim
    judged = claims.judge(plan(seeds=(0, 1, 2)), group(tmp_path, "learning_rate"))
    assert judged
    assert judged.verdict == "undecided"
    assert "planned seeds still missing: 0, 1, 2" in judged.remark
    assert "not counted, as started earlier or of other seeds: 1;" in judged.remark


def test_a_start_that_is_no_date_does_not_count(tmp_path: Path) -> None:
    lrs(tmp_path, {"0.01": [0.86, 0.87, 0.88], "0.1": [0.8, 0.81, 0.82], "0.001": [0.7] * 3})
    for started in ("2026-12-01T00:00:00.123456+00:00", "2026-12-01T00:00Z", "yesterday"):
        seed = 3 + len(started) % 7
        make_run(tmp_path, [*SHORT, f"{LR}=0.1"], seed, 0.81, started=started)
    judged = claims.judge(plan(declared="2026-11-30T23:00Z"), group(tmp_path, "learning_rate"))
    assert judged
    assert "earlier or of other seeds: 1" in judged.remark
    assert judged.verdict == "holds"


def test_a_claim_about_some_settings_is_judged_there(tmp_path: Path) -> None:
    lrs(tmp_path, {"0.01": [0.86, 0.87, 0.88], "0.1": [0.8, 0.81, 0.82], "0.001": [0.7] * 3})
    found = group(tmp_path, "learning_rate")
    assert claims.judge(plan(where={"model.width": [16]}), found)
    assert claims.judge(plan(where={"model.width": [64]}), found) is None


@pytest.mark.parametrize(("gain", "verdict"), [(0.2, "holds"), (0.0, "undecided"), (-0.2, "fails")])
def test_an_interaction(tmp_path: Path, gain: float, verdict: str) -> None:
    rng = np.random.default_rng(5)
    for seed in range(3):
        for schedule, wd in itertools.product(("constant", "cosine"), ("0.0", "0.01")):
            value = 0.5 + 0.1 * (schedule == "cosine") - 0.15 * (wd != "0.0")
            value += gain * (schedule == "cosine" and wd != "0.0") + rng.normal(0, 0.01)
            cell = ["model.width=16", "trainer.epochs=15", f"scheduler={schedule}", f"{WD}={wd}"]
            make_run(tmp_path, cell, seed, value)
    judgement = judge(tmp_path, "schedule_x_wd", 1)
    (comparison,) = judgement.comparisons
    assert comparison.name == "(weight decay 0.01 − 0, cosine) − (weight decay 0.01 − 0, constant)"
    assert comparison.difference.mean == pytest.approx(gain, abs=0.03)
    assert judgement.verdict == verdict.replace("fails", "does not hold")


def detached(root: Path, both: float, var: float) -> Path:
    for seed in (2, 3, 4):
        for wd, name in itertools.product(("0.0", "0.01"), ("none", "mean", "var", "both")):
            value = {"none": 0.9, "mean": 0.2, "var": var, "both": both}[name] + seed / 1000
            value += 0.001 * (seed if name == "none" else 0)
            overrides = [*SHORT, "scheduler=cosine", f"norm.detach={name}", f"{WD}={wd}"]
            make_run(root, overrides, seed, value)
    return root


@pytest.mark.parametrize(
    ("both", "var", "fails", "near"),
    [(0.2, 0.9, "holds", "holds"), (0.85, 0.5, "does not hold", "does not hold")],
)
def test_margins(tmp_path: Path, both: float, var: float, fails: str, near: str) -> None:
    root = detached(tmp_path, both, var)
    assert judge(root, "batchnorm").verdict == fails
    assert judge(root, "detach", 0).verdict == "holds"
    assert judge(root, "detach", 2).verdict == near
    assert judge(root, "detach", 4).verdict == fails


@pytest.mark.parametrize(("product", "verdict"), [(True, "holds"), (False, "does not hold")])
def test_the_product_predicts(tmp_path: Path, product: bool, verdict: str) -> None:
    rng = np.random.default_rng(1)
    grid = itertools.product(("0.005", "0.01", "0.05", "0.1"), ("5e-4", "1e-3", "5e-3", "1e-2"))
    for lr, wd in grid:
        x = math.log10(float(lr) * float(wd)) if product else math.log10(float(lr)) * 2
        for seed in (1, 2, 3):
            value = 0.9 - 0.01 * (x + 4.3) ** 2 + rng.normal(0, 1e-3)
            make_run(
                tmp_path, [*SHORT, f"{LR}={lr}", f"{WD}={wd}", "scheduler=cosine"], seed, value
            )
    judged = judge(tmp_path, "lr_x_wd")
    assert (judged.verdict, judged.n) == (verdict, 3)
    few = (("0.005", "1e-2"), ("0.01", "5e-3"), ("0.05", "1e-3"), ("0.1", "5e-4"))
    some = (("0.005", "5e-4"), ("0.01", "1e-3"), ("0.05", "5e-3"), ("0.1", "1e-2"), few[0])
    for seed, cells in ((4, few), (5, some)):  # seeds without every cell, one with one product
        for i, (lr, wd) in enumerate(cells):
            cell = [*SHORT, f"{LR}={lr}", f"{WD}={wd}", "scheduler=cosine"]
            make_run(tmp_path, cell, seed, 0.5 + 0.01 * i**2)
    assert judge(tmp_path, "lr_x_wd").comparisons[0].pairs == judged.comparisons[0].pairs
    table = tabulate(tmp_path, "lr_x_wd").grid
    assert table is not None
    assert table.shape == (4, 4)
    if product:  # the best product, 5e-5, lies on the diagonal
        assert judge(tmp_path, "lr_x_wd", 2).verdict == "holds"
    assert len(figures.draw_map(tabulate(tmp_path, "lr_x_wd")).axes) == 2  # and its colour bar


def test_what_predicts_survivors_is_undecided(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    grid = itertools.product(("0.005", "0.01", "0.05", "0.1"), ("5e-4", "1e-3", "5e-3"))
    for (lr, wd), seed in itertools.product(grid, (1, 2, 3)):
        x = math.log10(float(lr) * float(wd))
        cell = [*SHORT, f"{LR}={lr}", f"{WD}={wd}", "scheduler=cosine"]
        lost = "diverged" if (lr, wd) == ("0.05", "1e-3") else "completed"
        value = 0.9 - 0.01 * (x + 4.3) ** 2 + rng.normal(0, 1e-3)
        make_run(tmp_path, cell, seed, value, status=lost, curve=[value] * 5)
    judged = judge(tmp_path, "lr_x_wd")
    assert judged.verdict == "undecided"
    assert "runs that diverged: 3; undecided, as the diverged seeds" in judged.remark
    survivors = group(tmp_path, "lr_x_wd")
    kept = dataclasses.replace(survivors, everything=survivors.runs)
    holds = claims.judge(QUESTIONS["lr_x_wd"].claims[0], kept)
    assert holds
    assert holds.verdict == "holds"


def test_a_grid_of_which_no_epoch_is_done_says_nothing_yet(tmp_path: Path) -> None:
    for lr, wd in itertools.product(("0.005", "0.01", "0.05"), ("5e-4", "1e-3", "5e-3")):
        cell = [*SHORT, f"{LR}={lr}", f"{WD}={wd}", "scheduler=cosine"]
        change_record(make_run(tmp_path, cell, 0, status="running", curve=[0.1]), final=None)
    runs = load_runs(tmp_path)
    assert "accuracy/val" not in runs
    assert claims.judge(QUESTIONS["lr_x_wd"].claims[0], group(tmp_path, "lr_x_wd")) is None


def test_equal_results_say_nothing_of_what_predicts_them(tmp_path: Path) -> None:
    for lr, wd in itertools.product(("0.005", "0.01", "0.05"), ("5e-4", "1e-3", "5e-3")):
        make_run(tmp_path, [*SHORT, f"{LR}={lr}", f"{WD}={wd}", "scheduler=cosine"], 0, 0.8)
    claim = QUESTIONS["lr_x_wd"].claims[0]
    assert claims.judge(claim, group(tmp_path, "lr_x_wd")) is None  # R² of a constant is NaN


@pytest.mark.parametrize(
    ("best", "edges"), [((1, 1), []), ((0, 1), [LR]), ((2, 2), [LR, WD]), (None, [])]
)
def test_a_best_cell_on_the_edge_is_told(best: tuple[int, int] | None, edges: list[str]) -> None:
    grid = list(itertools.product(range(3), range(3), (True, False)))
    cells = pd.DataFrame(grid, columns=[LR, WD, "optimizer.nesterov"])
    cells["scheduler"] = "cosine"
    cells[[LR, WD]] += 1
    cells["n"], cells["diverged"] = int(best is not None), 0
    cells["worse"] = [(lr, wd) != best for lr, wd, _ in grid]
    cells = cells.sort_values("worse", kind="stable")
    varied = SimpleNamespace(vary=(LR, WD, "optimizer.nesterov", "scheduler"))
    found = tables.find_keys_at_edge(SimpleNamespace(ranks=cells, group=varied))
    assert found == edges
    two = cells[cells[LR] > 1]  # of two values the best is always at an edge
    found = tables.find_keys_at_edge(SimpleNamespace(ranks=two, group=varied))
    assert LR not in found


def test_a_survivor_of_diverged_seeds_speaks_nowhere_for_its_cell(tmp_path: Path) -> None:
    lrs(tmp_path, {"0.01": [0.70, 0.71, 0.72], "0.1": [0.74, 0.75, 0.76], "1.0": [0.78]})
    make_run(tmp_path, [*SHORT, f"{LR}=1.0"], 1, 0.1, status="diverged", curve=[0.1])
    make_run(tmp_path, [*SHORT, f"{LR}=0.001"], 0, 0.1, status="running", curve=[0.9])
    whole = tabulate(tmp_path, "learning_rate")
    assert list(whole.ranks["label"]) == ["lr 0.1", "lr 0.01", "lr 1", "lr 0.001"]
    assert set(whole.picks["label"]) == {"lr 0.1"}
    assert tables.find_keys_at_edge(whole) == []  # a larger one was tried
    for lr in ("0.1", "0.01"):
        make_run(tmp_path, [*SHORT, f"{LR}={lr}"], 3, 0.1, status="diverged", curve=[0.1])
    assert tables.find_keys_at_edge(tabulate(tmp_path, "learning_rate")) == []
    add = [(0.9290, "completed"), (0.1, "diverged"), (0.1, "diverged")]
    for seed, (accuracy, status) in enumerate(add):
        make_run(tmp_path, ["cell=cosine"], seed, accuracy, status=status, curve=[accuracy])
    study = tables.study_table(load_runs(tmp_path), PUBLISHED).set_index("cell")
    assert study.loc["cosine", ["n", "verdict"]].tolist() == [1, "2 of 3 diverged"]
    assert study.loc["baseline", "verdict"] == "not run"


def test_nothing_lies_beyond_none(tmp_path: Path) -> None:
    for decay in ("0", "5e-4", "1e-2"):
        run = [*SHORT, "scheduler=cosine", f"{WD}={decay}"]
        make_run(tmp_path, run, 0, 0.8 - float(decay))
    assert tables.find_keys_at_edge(tabulate(tmp_path, "weight_decay")) == []


def test_the_verdict_corrected_for_their_number(tmp_path: Path) -> None:
    best, large = [0.86, 0.87, 0.88], [0.84, 0.843, 0.87]
    lrs(tmp_path, {"0.01": best, "0.1": large, "0.001": [0.7, 0.71, 0.72]})
    (alone,) = claims.judge_all([group(tmp_path, "learning_rate")])
    assert (alone.among, alone.p_among) == (1, alone.p)
    several = claims.judge_all([group(tmp_path, "learning_rate")] * 3)
    assert [judgement.p_among for judgement in several] == [pytest.approx(3 * alone.p)] * 3
    assert alone.p == max(c.difference.p() for c in alone.comparisons)  # the weaker comparison
    assert (alone.p < 0.05) == (alone.alone == "holds") == (alone.verdict == "holds")
    assert {judgement.verdict for judgement in several} == {
        "holds" if 3 * alone.p < 0.05 else "undecided"
    }


@pytest.fixture(scope="module")
def judged_runs(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Runs of which three questions have claims, all with the same result."""
    root = tmp_path_factory.mktemp("judged")
    return load_runs(detached(lrs(root, {lr: [0.5] * 3 for lr in ("0.01", "0.1", "0.001")}), 0, 0))


@pytest.mark.parametrize("which", ["learning_rate", "batchnorm", "detach"])
@pytest.mark.parametrize("seed", range(4))
def test_p_is_small_exactly_where_there_is_a_verdict(
    judged_runs: pd.DataFrame, which: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    means = {"none": 0.9, "mean": 0.2, "var": 0.7 + 0.01 * seed, "both": 0.9 - 0.1 * seed}
    rates = {0.01: 0.5, 0.1: 0.5 - 0.1 * seed, 0.001: 0.3}
    step = judged_runs["scheduler"] == "constant"
    mean = judged_runs[LR].map(rates).where(step, judged_runs["norm.detach"].map(means))
    noise = rng.normal(size=len(mean)) * np.where(step, 0.05, 0.001)
    runs = judged_runs.assign(**{"accuracy/val": mean + noise})
    (found,) = [g for g in group_by_question(runs, [QUESTIONS[which]]) if g.question.name == which]
    judgements = [claims.judge(claim, found) for claim in QUESTIONS[which].claims]
    assert any(judgements)
    for judgement in filter(None, judgements):  # some are about other settings
        assert (judgement.p < 0.05) == (judgement.alone != "undecided")


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ([0.75, 0.76, 0.77], "by 11.00 ± 2.27 points: more than chance. The best of 3 was picked"),
        ([0.85, 0.88, 0.86], "that may be chance. The best of 3"),
        ([0.85], "by 2.00 points: too few runs to say"),
    ],
)
def test_which_is_best_and_is_that_real(tmp_path: Path, second: list[float], words: str) -> None:
    lrs(tmp_path, {"0.01": [0.86, 0.87, 0.88], "0.1": second, "0.001": [0.5]})
    runs, curves = load_runs(tmp_path), load_metrics(tmp_path)
    (ranking,) = [tables.tabulate(found, curves) for found in group_by_setting(runs)]
    sentence = contents.describe_best(ranking)
    word = "best" if "more than chance" in words else "highest"
    start = f"CIFAR-10, width 16, 5 epochs: {word} is lr 0.01 with 87.00 % (3 runs)"
    assert sentence.startswith(start)
    assert words in sentence
    assert [row[1] for row in contents.ranking_table(ranking).rows()] == [
        "lr 0.01",
        "lr 0.1",
        "lr 0.001",
    ]


@pytest.mark.parametrize(
    ("variance", "words"),
    [
        (1e-6, "that may be chance. The best"),  # two runs would do, by a test that asks for less
        (6e-5, "that may be chance; 4 runs a cell would tell. The best"),
        (2e-4, "that may be chance; 7 to 11 runs a cell would tell. The best"),
    ],
)
def test_how_many_runs_would_tell_is_said_where_it_is_more_than_there_are(
    variance: float, words: str
) -> None:
    pool = statistics.Pool(variance, math.inf, 60)
    rows = pd.DataFrame({"label": ["lr 0.1", "lr 0.01"], "cell": ["a", "b"], "n": [5, 3]})
    rows = rows.assign(diverged=0, p=0.2, difference=-0.02, low=-0.04, high=0.0)
    rows["accuracy/val"] = [0.8, 0.78]
    group = SimpleNamespace(setting="CIFAR-10", pool=lambda cell: pool)
    assert words in contents.describe_best(SimpleNamespace(ranks=rows, group=group))
    seeds = statistics.seeds_needed(-0.02, pool)
    assert seeds
    assert (verdicts.name_seeds(3, seeds) == "") == (variance == 1e-6)


def test_one_training_is_ranked_once_whatever_is_averaged(tmp_path: Path) -> None:
    lrs(tmp_path, {"0.01": [0.9, 0.8], "0.1": [0.5]})
    for seed in range(3):
        for decay in (0.9, 0.99):  # made first or last, by name or by time
            averaged = [*SHORT, f"{LR}=0.01", f"regularization.ema_decay={decay}"]
            make_run(tmp_path, averaged, seed, [0.9, 0.8, 0.7][seed])
    (ranking,) = group_by_setting(load_runs(tmp_path)[::-1])
    values = {
        name: list(ranking.values(cell, "accuracy/val")) for cell, name in ranking.labels.items()
    }
    assert sorted(values.values()) == [[0.5], [0.7], [0.9, 0.8]]
    (own,) = (name for name, found in values.items() if found == [0.9, 0.8])
    assert own == "lr 0.01, ema decay 0"


def test_one_training_counts_once_in_the_shared_variance(tmp_path: Path) -> None:
    def pooled(metric: str) -> list[int]:
        (found,) = group_by_setting(load_runs(tmp_path))
        return [found.pool(cell, metric).freedom for cell in found.labels]

    for lr, accuracies in {"0.01": [0.8, 0.81, 0.83], "0.1": [0.7, 0.72, 0.73]}.items():
        for seed, accuracy in enumerate(accuracies):
            make_run(tmp_path, [*SHORT, f"{LR}={lr}"], seed, accuracy)
    assert pooled("accuracy/val") == [4, 4]
    for decay in ("0.9", "0.99"):
        for seed, accuracy in enumerate([0.8, 0.81, 0.83]):
            averaged = [*SHORT, f"{LR}=0.01", f"regularization.ema_decay={decay}"]
            make_run(tmp_path, averaged, seed, accuracy, averaged=accuracy)
    assert pooled("accuracy/val") == [4, 4]
    assert pooled("accuracy/val_ema") == [2, 2]  # of one of the two decays
    for seed, accuracy in enumerate([0.8, 0.81], 3):  # the fullest of three that train the same
        averaged = [*SHORT, f"{LR}=0.01", "regularization.ema_decay=0.9"]
        make_run(tmp_path, averaged, seed, accuracy, averaged=accuracy)
    assert set(pooled("accuracy/val")) == {6}


def test_a_metric_that_some_runs_lack_has_an_n_of_its_own(tmp_path: Path) -> None:
    for lr in ("0.1", "0.01"):
        for seed, accuracy in enumerate((0.5, 0.52, 0.54)):
            averaged = accuracy if seed < 2 else None
            make_run(tmp_path, [*SHORT, f"{LR}={lr}"], seed, accuracy, averaged=averaged)
    question = msgspec.structs.replace(
        QUESTIONS["learning_rate"],
        claims=(msgspec.structs.replace(QUESTIONS["averaging"].claims[0], against=None, pairs=()),),
    )
    (found,) = group_by_question(load_runs(tmp_path), [question])
    (row, _) = records(tables.tabulate(found, load_metrics(tmp_path)).cells)
    assert (row["n"], row["accuracy/val_ema/n"]) == (3, 2)
    assert numbers.FORMS["mean"](row, "accuracy/val_ema") == "50.00, 52.00 (n = 2)"
    assert numbers.FORMS["mean"](row, "accuracy/val").startswith("52.00 ± ")


def test_a_best_cell_with_one_run_says_so(tmp_path: Path) -> None:
    lrs(tmp_path, {"0.01": [0.9], "0.1": [0.5, 0.52, 0.54]})
    (ranking,) = (
        tables.tabulate(g, load_metrics(tmp_path)) for g in group_by_setting(load_runs(tmp_path))
    )
    rows = records(ranking.ranks)
    assert [numbers.FORMS["chance"](row, "p") for row in rows] == ["one run", "undecided"]


def test_a_table_of_all_runs_has_what_varies(tmp_path: Path) -> None:
    lrs(tmp_path, {"0.01": [0.86], "0.1": [0.87]})
    make_run(tmp_path, [*SHORT, "optimizer.momentum=0.8", "trainer.threads=2"], 0, 0.9)
    table = contents.runs_table(load_runs(tmp_path))
    titles = list(table.columns)
    assert titles[0] == "val %"  # numbers first, names last
    assert titles[-1] == "run"
    rows = [dict(zip(titles, row, strict=True)) for row in table.rows()]
    assert [(row["val %"], row["lr"], row["momentum"]) for row in rows] == [
        ("90.00", "0.01", "0.8"),
        ("87.00", "0.1", "0.9"),
        ("86.00", "0.01", "0.9"),
    ]
    assert not {"status", "epochs", "seed"} & set(titles)  # one value each: the caption has it
    assert "The same in every row: " in table.caption
    assert "seed 0, status completed, epochs 5/5" in table.caption
    assert table.plot == "lr"  # two keys vary: the page plots one column against another


def test_no_two_keys_are_shown_by_one_name(tmp_path: Path) -> None:
    names = [name_key(key) for key in known_identity_keys()]
    assert len(set(names)) == len(names)
    grid = itertools.product(("0.8", "0.9"), ("0.1", "0.2"))
    for momentum, of_norm in grid:
        make_run(tmp_path, [*SHORT, f"optimizer.momentum={momentum}", f"norm.momentum={of_norm}"])
    (found,) = group_by_question(load_runs(tmp_path), [])
    table = contents.cells_table(tables.tabulate(found, load_metrics(tmp_path)))
    assert [row[:2] for row in table.rows()] == [
        [f"{of_norm}", f"{momentum}"] for of_norm in ("0.1", "0.2") for momentum in ("0.8", "0.9")
    ]
    assert {"momentum", "norm momentum"} <= {*contents.runs_table(load_runs(tmp_path)).columns}


def test_a_report_on_nothing(tmp_path: Path) -> None:
    """No runs are refused; of runs that are all left out it says why."""
    runs = load_runs(tmp_path)
    with pytest.raises(UserError, match="there are no runs"):
        contents.build_report(runs, load_metrics(runs), [], PUBLISHED)
    session = read_record(make_run(tmp_path / "one", SHORT)).sessions[0]
    two = [session, msgspec.structs.replace(session, precision="bf16")]
    make_run(tmp_path / "two", SHORT, sessions=two)
    runs = load_runs(tmp_path / "two")
    report = contents.build_report(runs, load_metrics(runs), list(QUESTIONS.values()), PUBLISHED)
    assert report.subtitle == "0 runs in 0 cells"
    assert "trained in two precisions: fp32" in report.markdown()


def test_what_a_run_did_not_measure_is_no_number(tmp_path: Path) -> None:
    session = read_record(make_run(tmp_path / "one", SHORT)).sessions[0]
    names = ("images_per_second", "share_of_matmul_rate", "threads")
    without = msgspec.structs.replace(session, **dict.fromkeys(names))
    make_run(tmp_path / "two", SHORT, sessions=[without])
    runs = load_runs(tmp_path / "two")
    text = contents.build_report(runs, load_metrics(runs), [], PUBLISHED).markdown()
    assert not {"nan", "none"} & set(re.findall(r"\w+", text.partition("## Cost")[2].lower()))


# Questions that nobody wrote ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("regularization.label_smoothing=0.0", "regularization.label_smoothing=0.1", "0.1 − 0"),
        ("trainer.batch_size=128", "trainer.batch_size=256", "batch size 256 − 128"),
        ("optimizer.momentum=0.8", "optimizer.momentum=0.9", "momentum 0.9 − 0.8"),
        ("regularization.clip_norm=0.0", "regularization.clip_norm=1.0", "clip norm 1 − 0"),
        ("optimizer.nesterov=false", "optimizer.nesterov=true", "nesterov true − false"),
        ("optimizer=sgd", "optimizer=adamw", "adamw − sgd"),
        ("scheduler=cosine", "scheduler=step", "cosine − step"),
        ("norm=groupnorm", "norm=batchnorm", "groupnorm − batchnorm"),
        ("optimizer.lr=0.02", "optimizer.lr=0.04", "lr 0.04 − 0.02"),
        ("regularization=weight_decay", "regularization.weight_decay=1e-4", "0.0005 − 0.0001"),
    ],
)
@pytest.mark.parametrize(("ahead", "verdict"), [(0.1, "differs"), (0.001, "undecided")])
def test_whatever_varies_is_compared(
    tmp_path: Path, first: str, second: str, name: str, ahead: float, verdict: str
) -> None:
    base = ["data=synthetic", "model.width=32", "trainer.epochs=5", "scheduler=constant"]
    for which, override in enumerate((first, second)):
        cell = [x for x in base if x.partition("=")[0] != override.partition("=")[0]]
        for seed in range(3):
            make_run(tmp_path, [*cell, override], seed, 0.5 + which * ahead + seed / 100)
    runs = load_runs(tmp_path)
    groups = group_by_question(runs, [])
    answers = [tables.tabulate(each, load_metrics(runs)) for each in groups]
    tables.correct_differences(answers)
    part = verdicts.claims_part([], answers)[1]
    (listed,) = document.unfold([part])
    assert isinstance(listed, list)
    (item,) = listed
    assert name in item.sentence
    assert item.grounds.startswith("synthetic data, width 32, 5 epochs")
    assert "(n = 3)" in item.grounds
    if verdict == "differs":
        assert [*item.verdicts] == ["differs"]
    else:  # alone on the first screen, it is unfolded
        assert isinstance(part, document.Fold)
        assert (part.title, part.open) == ("1 undecided: what would decide it", True)
        assert "Would decide: " in item.grounds


def test_two_keys_that_fill_a_grid_are_one_question_and_a_star_is_several(tmp_path: Path) -> None:
    grid = itertools.product(("0.02", "0.05"), ("64", "128"))
    for lr, size in grid:
        make_run(tmp_path, [*SHORT, f"{LR}={lr}", f"trainer.batch_size={size}"], 0, 0.5)
    make_run(tmp_path, [*SHORT, f"{LR}=0.02", "optimizer.momentum=0.8"], 0, 0.5)
    make_run(tmp_path, [*SHORT, f"{LR}=0.3", "optimizer.momentum=0.3", f"{WD}=0.3"], 0, 0.5)
    found = {g.question.name: g for g in group_by_question(load_runs(tmp_path), [])}
    assert list(found) == ["by-optimizer.lr-trainer.batch_size", "by-optimizer.momentum", "other"]
    assert found["by-optimizer.lr-trainer.batch_size"].question.question == (
        "What do lr and batch size change?"
    )
    assert len(found["by-optimizer.momentum"].labels) == 2
    assert len(found["other"].labels) == 1


def test_a_star_whose_kinds_have_fields_of_their_own_is_several_questions(tmp_path: Path) -> None:
    """Two values of a field of a kind make no grid of its group and another key."""
    base = ["data=synthetic", "model.width=8", "trainer.epochs=5"]
    step = ["scheduler=step", "scheduler.step_size=2"]
    for more in ([], ["optimizer.momentum=0.8"], step, [*step, "scheduler.gamma=0.5"]):
        make_run(tmp_path, [*base, *more], 0, 0.5)
    found = [g.question.name for g in group_by_question(load_runs(tmp_path), [])]
    assert found == ["by-scheduler", "by-optimizer.momentum"]


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        (("optimizer.momentum", "0.5", "0.8"), ("regularization.clip_norm", "0", "1"), []),
        (("regularization.label_smoothing", "0", "0.1"), ("optimizer.nesterov", "0", "1"), []),
        (("optimizer.lr", "0.02", "0.05"), ("augmentation", "none", "crop_flip", "mixup"), []),
        (("scheduler", "constant", "cosine", "step"), ("optimizer.lr", "0.02", "0.05"), []),
        (("scheduler.eta_min", "0", "0.001"), (WD, "0", "0.1"), ["scheduler=cosine"]),
        (("optimizer", "sgd", "adamw"), ("trainer.batch_size", "64", "128"), []),
    ],
)
def test_a_grid_of_any_two_keys_is_one_question(
    tmp_path: Path, first: tuple[str, ...], second: tuple[str, ...], shared: list[str]
) -> None:
    base = ["data=synthetic", "model.width=8", "trainer.epochs=5", *shared]
    for one, other in itertools.product(first[1:], second[1:]):
        make_run(tmp_path, [*base, f"{first[0]}={one}", f"{second[0]}={other}"], 0, 0.5)
    (found,) = group_by_question(load_runs(tmp_path), [])
    assert set(found.question.vary) == {first[0], second[0]} == set(found.vary)
    assert len(found.labels) == (len(first) - 1) * (len(second) - 1)


def test_what_a_question_of_the_file_asks_is_not_asked_again(rates: Path) -> None:
    found = group_by_question(load_runs(rates), list(QUESTIONS.values()))
    assert [g.question.name for g in found] == ["learning_rate"]
    make_run(rates, [*SHORT, f"{LR}=0.1", "optimizer.momentum=0.8"], 0, 0.5)
    found = group_by_question(load_runs(rates), list(QUESTIONS.values()))
    assert [g.question.name for g in found] == ["learning_rate", "by-optimizer.momentum"]


def test_comparisons_without_a_claim_are_corrected_among_themselves(tmp_path: Path) -> None:
    for lr in (0.01, 0.02, 0.03, 0.04):
        for seed in range(3):
            value = 0.5 + lr + seed / 50
            make_run(tmp_path, [*SHORT, f"{LR}={lr}"], seed, value)
    answers = [
        tables.tabulate(g, load_metrics(tmp_path))
        for g in group_by_question(load_runs(tmp_path), [])
    ]
    tables.correct_differences(answers * 2)  # asked twice, a comparison counts once
    table = answers[0].differences
    assert list(table["p/holm"]) == statistics.holm(list(table["p"]))
    assert len(table) == 6
    assert table["p/holm"].min() == pytest.approx(6 * table["p"].min())


# Beside the published study ----------------------------------------------------------------------


@pytest.fixture
def as_published(tmp_path: Path) -> Path:
    """The published study, reproduced to the last digit at one seed."""
    for known in PUBLISHED:
        make_run(
            tmp_path,
            [f"cell={known.name}"],
            0,
            known.published["accuracy/val_augmented"] + 0.002,
            augmented=known.published["accuracy/val_augmented"],
            loss=known.published["loss/val_augmented"],
        )
    return tmp_path


def test_the_published_tables_own_arithmetic(as_published: Path) -> None:
    found = group_by_question(load_runs(as_published), list(QUESTIONS.values()))
    judged = {judgement.claim.claim: judgement for judgement in claims.judge_all(found)}
    passes = claims.judge_published(list(QUESTIONS.values()), PUBLISHED)
    # The document's own differences, of logarithms where the claim is relative.
    published = {claim.claim: seen["published"] for claim, _, seen in passes}
    points = published["cosine with weight decay 1e-2 ends above constant without"]
    assert f"{100 * points:+.2f}" == "+2.68"
    loss = published["cosine ends with the smaller validation loss"]
    assert f"{100 * math.expm1(loss):+.1f} %" == "-10.3 %"
    name = "weight decay 1e-2 ends with a smaller validation loss than 5e-4"
    assert f"{100 * math.expm1(published[name]):+.1f} %" == "-21.6 %"
    # One run each: what was seen is the published difference, and it decides nothing.
    assert judged[name].comparisons[0].difference.mean == pytest.approx(published[name], abs=1e-12)
    assert {judgement.verdict for judgement in judged.values()} == {"undecided"}


def test_every_published_cell_has_its_row(as_published: Path) -> None:
    table = tables.study_table(load_runs(as_published), PUBLISHED)
    assert [f"cell={name}" for name in table["cell"]] == FULL
    # The published value at 0.001 is below all four of its repetitions.
    assert list(table["verdict"][:-1]) == ["0.04 points below", *["inside"] * 6]
    assert table["verdict"].iloc[-1] == "too few repetitions"
    assert table["accuracy/val_augmented"].tolist() == table["published"].tolist()


@pytest.mark.parametrize(
    "unusual",
    [
        "augmentation=mixup",
        "augmentation.crop_padding=2",
        "optimizer.momentum=0.8",
        "optimizer=adamw",
        "scheduler.eta_min=0.001",
        "scheduler.warmup_epochs=5",
        "regularization.label_smoothing=0.1",
        "regularization.ema_decay=0.999",
        "norm.momentum=0.2",
        "data.val_size=5000",
        "data.split_seed=1",
    ],
)
def test_a_run_of_another_configuration_is_no_repetition(tmp_path: Path, unusual: str) -> None:
    make_run(tmp_path, ["cell=cosine_wd_1e-2"], 0, 0.95)
    make_run(tmp_path, ["cell=cosine_wd_1e-2", unusual], 0, 0.5)
    study = tables.study_table(load_runs(tmp_path), PUBLISHED).set_index("cell")
    assert study.loc["cosine_wd_1e-2", "n"] == 1
    (found,) = group_by_setting(load_runs(tmp_path))[:1]
    verdicts = tables.tabulate(found, load_metrics(tmp_path), PUBLISHED).cells["verdict"]
    assert len(verdicts) == 2 or unusual.startswith("data.") or "ema" in unusual
    assert sum(verdict != "" for verdict in verdicts) <= 1


def test_runs_off_the_full_setting_are_not_compared(rates: Path) -> None:
    table = tables.study_table(load_runs(rates), PUBLISHED)
    assert table["n"].sum() == 0
    assert set(table["verdict"]) == {"not run"}


def test_our_result_is_judged_by_a_prediction_interval(tmp_path: Path) -> None:
    for seed, value in enumerate((0.9520, 0.9522)):
        make_run(tmp_path, ["cell=cosine_wd_1e-2"], seed, 0.95, augmented=value)
    make_run(tmp_path, ["cell=lr_0.1"], 0, 0.95, augmented=0.80)
    table = tables.study_table(load_runs(tmp_path), PUBLISHED).set_index("cell")
    # Four cells share a standard deviation, 4 × 2 degrees of freedom; 10,000 images leave more.
    together = [p for p in PUBLISHED if p.pooled]
    samples = [list(p.values("accuracy/val_augmented").values()) for p in together]
    assert [len(values) for values in samples] == [3] * 4  # without the published value
    pooled = math.sqrt(np.mean([np.var(values, ddof=1) for values in samples]))
    binomial = math.sqrt(0.9506 * 0.0494 / 10_000)
    assert together[-1].sd == pytest.approx(binomial)
    assert binomial > pooled
    assert [p.freedom for p in together] == [8] * 4
    half = 2.306004 * binomial * math.sqrt(1 / 2 + 1 / 3)
    row = table.loc["cosine_wd_1e-2"]
    assert row["prediction/low"] == pytest.approx(0.9505 - half, abs=1e-6)
    assert row["prediction/high"] == pytest.approx(0.9505 + half, abs=1e-6)
    assert row["verdict"] == "inside"  # though above all three repetitions
    assert row["repetitions/high"] == 0.9507
    assert table.loc["lr_0.1", "verdict"] == "inside"
    assert tables.judge_reproduction(0.9590, 0.9480, 0.9530) == "0.60 points above"
    assert tables.judge_reproduction(0.9400, 0.9480, 0.9530) == "0.80 points below"


def test_published_cells_are_compared_with_runs_of_one_precision(tmp_path: Path) -> None:
    for seed, precision in enumerate(("fp32", "bf16", "bf16")):
        make_run(tmp_path, ["cell=lr_0.1"], seed, 0.8 + seed / 100, precision=precision)
    table = tables.study_table(load_runs(tmp_path), PUBLISHED).set_index("cell")
    assert list(table.index)[2:5] == ["lr_0.1, bf16", "lr_0.1, fp32", "baseline"]
    assert list(table["n"])[2:5] == [2, 1, 0]
    assert list(table["accuracy/val_augmented"])[2:4] == pytest.approx([0.815, 0.8])


def test_the_documents_claims_are_judged_by_its_own_passes() -> None:
    """The arithmetic of the published passes by hand: paired within a pass."""
    rows = claims.judge_published(list(QUESTIONS.values()), PUBLISHED)
    found = {name: passes for claim, name, passes in rows if claim.metric == "accuracy/val"}
    points = found["cosine − constant"]
    assert list(points) == ["published", "a", "b", "c"]
    assert [round(100 * x, 2) for x in points.values()] == [0.21, 0.39, 0.88, 0.40]
    e = statistics.estimate(points.values())
    assert (round(100 * e.mean, 2), round(100 * e.half_width, 2)) == (0.47, 0.46)
    assert len(found["lr 0.01 − 0.1"]) == 5
    # A detached layer that is BatchNorm is no repetition, nor is an unfinished run.
    assert list(found["detach none − both"]) == ["published", "b"]
    losses = [passes for claim, _, passes in rows if claim.relative]
    assert [list(passes) for passes in losses] == [["published", "a"], ["published", "a"]]


def test_a_published_claim_s_where_and_against(tmp_path: Path) -> None:
    asked = QUESTIONS["learning_rate"]
    (claim, *_) = asked.claims
    for more, pairs in (
        ({}, 2),
        ({"where": {"trainer.epochs": [300]}}, 0),
        ({"where": {"trainer.epochs": [15], "augmentation": ["crop_flip"]}}, 2),
        ({"against": "accuracy/train"}, 0),
    ):
        one = msgspec.structs.replace(claim, **more)
        question = msgspec.structs.replace(asked, claims=(one,))
        assert len(claims.judge_published([question], PUBLISHED)) == pairs


# Curves ------------------------------------------------------------------------------------------


def test_a_run_whose_metrics_can_t_be_read_leaves_the_figures(tmp_path: Path) -> None:
    for lr, curve in (("0.001", [0.3, 0.5]), ("0.01", [0.5, 0.8]), ("0.1", [0.6, 0.7])):
        make_run(tmp_path, [*SHORT, f"{LR}={lr}"], 0, curve[-1], curve=curve)
    (damaged,) = tmp_path.glob("lr0.001*/seed=0/metrics.jsonl")
    damaged.write_bytes(damaged.read_bytes()[:-40])
    runs = load_runs(tmp_path)
    report = contents.build_report(runs, load_metrics(runs), list(QUESTIONS.values()), PUBLISHED)
    drawn = [part for part in document.unfold(report.parts) if isinstance(part, document.Picture)]
    assert any(part.name.startswith("ranks") for part in drawn)


def test_what_deciding_early_would_have_picked(tmp_path: Path) -> None:
    make_run(tmp_path, [*SHORT, f"{LR}=0.01"], 0, 0.8, curve=[0.1, 0.3, 0.5, 0.7, 0.8])
    make_run(tmp_path, [*SHORT, f"{LR}=0.1"], 0, 0.6, curve=[0.2, 0.4, 0.4, 0.75, 0.6])
    table = tabulate(tmp_path, "learning_rate").picks
    assert list(table["label"]) == ["lr 0.1", "lr 0.1", "lr 0.01", "lr 0.1", "lr 0.01"]
    assert list(table["behind"]) == pytest.approx([0.2, 0.2, 0, 0.2, 0])
    assert tables.find_settled_epoch(table) == 5


def test_curves_have_a_band_where_every_seed_has_the_epoch(tmp_path: Path) -> None:
    for seed, curve in enumerate(([0.1, 0.2], [0.2, 0.4], [0.3, 0.9])):
        make_run(tmp_path, SHORT, seed, 0.5, curve=[*curve, 0.5, 0.5, 0.5])
    make_run(tmp_path, [*SHORT, f"{LR}=0.1"], 0)
    table = tabulate(tmp_path, "learning_rate").curve()
    mine = table[table["n"] == 3].set_index("epoch")
    assert list(mine.index) == [1, 2, 3, 4, 5]
    interval = stats.ttest_1samp([0.2, 0.4, 0.9], 0).confidence_interval(0.95)
    assert (interval.low, interval.high) < (0, 1.3)
    assert (mine.loc[2, "low"], mine.loc[2, "high"]) == (0, 1)  # what is possible
    interval = stats.ttest_1samp([0.1, 0.2, 0.3], 0).confidence_interval(0.95)
    assert mine.loc[1, "high"] == pytest.approx(interval.high, abs=1e-12)
    make_run(tmp_path, [*SHORT, f"{LR}=0.1"], 1, 0.9)
    table = tabulate(tmp_path, "learning_rate").curve()
    assert table.loc[table["n"] == 2, ["low", "high"]].isna().all(axis=None)  # two are no spread


def test_of_many_questions_and_settings_the_largest_have_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "MOST_DRAWN", 1)
    for seed in (0, 1):
        make_run(tmp_path, [*SHORT, f"{LR}=0.01"], seed, 0.5 + seed / 10)
        make_run(tmp_path, [*SHORT, f"{LR}=0.1"], seed, 0.5)
    for lr in ("0.01", "0.1"):
        make_run(tmp_path, ["model.width=32", "trainer.epochs=5", f"{LR}={lr}"], 0, 0.5)
    runs = load_runs(tmp_path)
    report = contents.build_report(runs, load_metrics(runs), list(QUESTIONS.values()), PUBLISHED)
    parts = list(document.unfold(report.parts))
    names = [part.name for part in parts if isinstance(part, document.Picture)]
    curves = [name for name in names if name.startswith("curves")]
    assert curves == ["curves-learning_rate-cifar-10-width-16-5-epochs"]
    assert any("the other 1 tables only" in str(block) for block in parts)
    kept = [part.name for part in parts if isinstance(part, document.Table)]
    assert sum(name.startswith("cells") for name in kept) == 2


def test_a_line_says_what_it_is(rates: Path) -> None:
    make_run(rates, [*SHORT, f"{LR}=1"], 0, 0.2, loss=300.0)
    accuracy, loss = figures.draw_curves(tabulate(rates, "learning_rate")).axes
    labels = [str(line.get_label()) for line in accuracy.lines]
    assert labels[:4] == [f"lr 0.001, {x}" for x in ("seed 0", "seed 1", "seed 2", "mean of 3")]
    assert labels[-3:] == [f"lr 1, seed 0{x}" for x in ("", ", training", ", augmented view")]
    assert loss.get_yscale() == "log"  # a band reaches below zero
    assert loss.get_ylim()[1] < 1000


# Gradient flow -----------------------------------------------------------------------------------


def test_which_identities_the_probe_found_broken(tmp_path: Path) -> None:
    breaks = {
        "none": [],
        "mean": ["sum_cosine", "radial_rms"],
        "var": ["xhat_cosine", "radial_rms"],
        "both": ["sum_cosine", "xhat_cosine", "radial_rms"],
    }
    for name, broken in breaks.items():
        overrides = [*SHORT, "scheduler=cosine", f"{WD}=0.01", f"norm.detach={name}"]
        add_probe(make_run(tmp_path, overrides, 0, 0.5, curve=[0.4, 0.5]), broken, ratio=1.05)
        make_run(tmp_path, overrides, 1, 0.5)  # without a probe
        make_run(tmp_path, [*overrides, f"{WD}=0.0"], 0, 0.5)
    found = group(tmp_path, "detach")
    probe, curves = load_probe(tmp_path), load_metrics(tmp_path)
    table = flow.flow_table(found, flow.medians(probe), curves)
    assert list(table["label"]) == [f"detach {name}, weight decay 0.01" for name in breaks]
    for row, broken in zip(records(table), breaks.values(), strict=True):
        assert row["n"] == 1
        assert {key for key in flow.IDENTITIES if row[key] >= flow.HOLDS_BELOW} == set(broken)
        assert (row["mean_over_std/first"], row["mean_over_std"]) == (1, 3)
        assert row["loss/val/largest"] == 1
    picture = flow.draw_rotation(found, probe)
    assert picture is not None
    line = picture.axes[0].lines[-1]
    assert line.get_ydata() == pytest.approx([1.05, 1.05])
    report = contents.build_report(
        load_runs(tmp_path), curves, list(QUESTIONS.values()), PUBLISHED, probe=probe
    )
    parts = document.unfold(report.parts)
    names = [part.name for part in parts if isinstance(part, document.Picture)]
    assert sum(name.startswith("flow") for name in names) == 1  # two questions share runs
    text = report.markdown()
    assert "detach none, weight decay 0.01: every identity holds" in text
    assert "detach var, weight decay 0.01: broken are ⟨∂L/∂x, x̂⟩ = 0" in text


def test_identities_that_were_not_measured_are_neither_whole_nor_broken(tmp_path: Path) -> None:
    usual = [*SHORT, "scheduler=cosine", f"{WD}=0.01"]
    for own in ("norm.detach=none", "norm.detach=both"):
        add_probe(make_run(tmp_path, [*usual, own], 0, 0.5), ["sum_cosine"] * own.endswith("both"))
    bare = make_run(tmp_path, [*usual, "norm=none"], 0, 0.5)
    add_probe(bare)
    rows = (bare / "probe.jsonl").read_text().splitlines(keepends=True)
    (bare / "probe.jsonl").write_text("".join(row for row in rows if '"conv"' in row))
    runs, curves, probe = load_runs(tmp_path), load_metrics(tmp_path), load_probe(tmp_path)
    asked = msgspec.structs.replace(QUESTIONS["detach"], where={}, vary=("norm", "norm.detach"))
    (found, *_) = group_by_question(runs, [asked])
    table = flow.flow_table(found, flow.medians(probe), curves)
    assert len(table) == 3
    (row,) = (row for row in records(table) if math.isnan(row["mean_over_std"]))
    assert numbers.FORMS["pattern"](row, "{mean_over_std:.2f} → {mean_over_std/first:.2f}") == ""
    text = flow._describe_identities(table)
    assert len(re.findall("holds|broken", text)) == 2
    assert "norm none" not in text


@pytest.mark.parametrize("measured", [[], ["statistics"], ["statistics", "mean", "variance"]])
def test_losses_by_the_batch_s_own_statistics_where_recorded(
    tmp_path: Path, measured: list[str]
) -> None:
    """Records from before a loss was measured have no column of it and no panel, others a blank."""
    overrides = [*SHORT, "scheduler=cosine", f"{WD}=0.01"]
    for detach in ("none", "mean"):
        make_run(tmp_path, [*overrides, f"norm.detach={detach}", f"{WD}=0.0"], 0, 0.5)
        for seed in (1, 0):
            run = make_run(tmp_path, [*overrides, f"norm.detach={detach}"], seed, 0.5)
            add_probe(run)
    losses = {f"loss/val_batch_{which}": 2.0 + i for i, which in enumerate(measured)}
    curves = load_metrics(tmp_path)
    curves["loss/val_batch_variance"] = math.nan  # there for other runs
    for name, loss in losses.items():
        curves.loc[curves["directory"] == str(run), name] = loss
    parts = flow.flow_part(group(tmp_path, "detach"), curves, load_probe(tmp_path))
    (table,) = (part for part in parts if isinstance(part, document.Table))
    titles = ["train loss", "val loss", *(f"val loss, own {which}" for which in measured)]
    assert [title for title in table.columns if "loss" in title] == [*titles, "largest val loss"]
    assert [row["n"] for row in records(table.frame)] == [2, 2]
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows()]
    own = [[row[title] for title in titles[2:]] for row in rows]
    assert own == [[""] * len(measured), [f"{loss:.3f} (n = 1)" for loss in losses.values()]]
    (picture,) = (
        part
        for part in parts
        if isinstance(part, document.Picture) and part.name.startswith("losses")
    )
    panels = [axis.get_title(loc="left") for axis in picture.figure.axes]
    assert panels == [f"{title} (nats)" for title in titles]


# The whole report --------------------------------------------------------------------------------


class _Page(html.parser.HTMLParser):
    """Collects what a page refers to and checks that its tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "br", "img", "link"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and value and not value.startswith(("#", "data:")):
                self.outside.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Reported(NamedTuple):
    """A report's folder, the runs it is on, and the text it printed."""

    runs: Path
    folder: Path
    printed: str


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """A report on completed, failed and diverged runs, some with predictions."""
    root = add_rates(tmp_path_factory.mktemp("runs"))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 50)
    for lr, value in (("0.01", 0.86), ("0.1", 0.83)):
        logits = rng.normal(size=(50, 10))
        make_run(root, [*SHORT, f"{LR}={lr}"], 7, value, logits=logits, labels=labels)
    make_run(root, [*SHORT, f"{LR}=0.1"], 8, 0.01, status="failed")
    make_run(root, [*SHORT, f"{LR}=0.1"], 9, 0.01, status="diverged", commit="fedcba9876543210")
    make_run(root, [*SHORT, f"{LR}=0.1"], 10, 0.83, commit="fedcba9876543210")
    to = tmp_path_factory.mktemp("report") / "report"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([str(root), "--to", str(to)]) == 0
    return Reported(root, to, printed.getvalue())


def test_the_terminal_shows_verdicts_and_what_is_left_out(reported: Reported) -> None:
    for words in (
        "lr 0.01 ends above 0.1",
        "1 of 6 seeds diverged",
        "OSError: no space",
        "diverged",
        "mixes runs",
    ):
        assert words in reported.printed
    assert "nothing here is judged against the published values" in reported.printed


NAME = f"lr0.01_constant_wd0_bn_{'x' * 90}-0123abcd"


def is_made_of(cell: str, words: set[str]) -> bool:
    """True if a text is there in `words`, those that are longer than a line in pieces."""
    return not cell or any(
        is_made_of(cell.removeprefix(word).lstrip(), words)
        for word in sorted(words, key=len, reverse=True)
        if cell.startswith(word)
    )


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_terminal_s_width_cuts_no_number_and_loses_no_name(
    reported: Reported,
    width: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    runs = load_runs(reported.runs)
    curves = load_metrics(runs)
    groups = group_by_question(runs, [QUESTIONS["learning_rate"]])
    judgements = claims.judge_all(groups)
    rankings = [tables.tabulate(found, curves) for found in group_by_setting(runs)]
    named = pd.DataFrame({"cell": [NAME, "a few words of it"], "n": [12_345, 6], "why": ["", "so"]})
    shown = [
        contents.ranking_table(rankings[0]),
        contents.cells_table(tables.tabulate(groups[0], curves)),
        contents.runs_table(runs),
        verdicts.claims_table(judgements),
        document.Table("named", named, {key: key for key in named}),
    ]
    for table in shown:
        terminal.print_report(document.Report("Title", "", [table]))
        printed = capsys.readouterr().out
        assert max(map(len, printed.splitlines())) <= width
        printed, _, more = printed.partition(" more column")
        titles, hidden = list(table.columns), 0
        if more:
            printed, _, count = printed.rpartition("\n")
            hidden = int(count)
            names = ", ".join(titles[-hidden:])
            assert " ".join(more.split()).removeprefix("s") == f": {names}; report.html shows all"
        assert hidden < len(titles) / 2 or width == 80
        words = set(printed.split())
        for title in titles[: len(titles) - hidden]:
            assert is_made_of(title, words), title  # headings over several lines
        for row in table.rows():
            for title, cell in zip(titles[: len(titles) - hidden], row, strict=False):
                whole = set(cell.split()) <= words
                assert whole or (table.is_left(title) and is_made_of(cell, words)), cell
        if table is shown[-1]:  # all of a name, over several lines
            pieces = re.findall(r"^(?:  )?(lr0\S*|\S*x\S*|\S*-0123abcd)", printed, re.MULTILINE)
            assert "".join(pieces) == NAME
            assert (len(pieces) > 1) == (width < len(NAME))


def test_a_terminal_shows_the_first_screen_and_a_table_a_question(reported: Reported) -> None:
    printed = reported.printed
    assert printed.count("Which learning rate is best?") == 1
    assert "lr 0.1 − 0.001" not in printed  # differences, curves, rankings and runs: the page
    for section in ("How to read this", "Does the claim hold?", "All runs"):
        assert section not in printed
        assert section in (reported.folder / "report.md").read_text()
    assert "report.html: all of it" in printed


def test_what_is_folded_is_cut_off_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    items = [document.Item((), f"claim {i}", "a third run") for i in range(9)]
    fold = document.Fold("9 undecided", [items])
    terminal.print_report(document.Report("Title", "", [fold]))
    printed = capsys.readouterr().out
    assert [f"claim {i}" in printed for i in range(9)] == [True] * 5 + [False] * 4
    assert "4 more in report.html" in printed


def test_no_mark_beside_a_title_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    for length in range(165, 200):  # of 200 columns
        fold = document.Fold("x" * length, [], 3, verdicts=["does not hold", "holds"])
        terminal.print_report(document.Report("Title", "", [fold]))
        assert "✗ does not hold  ✓ holds" in capsys.readouterr().out


# One line a claim ---------------------------------------------------------------------------------


def told(root: Path, *names: str) -> tuple[list[document.Item], list[document.Item]]:
    """The decided claims of a report's first screen, and the undecided ones that it folds."""
    runs = load_runs(root)
    groups = group_by_question(runs, [QUESTIONS[name] for name in names])
    parts = verdicts.claims_part(claims.judge_all(groups), [])
    folds = [part for part in parts if isinstance(part, document.Fold)]
    folded = [item for fold in folds for items in fold.parts for item in items]
    return [item for part in parts if isinstance(part, list) for item in part], folded


def test_a_claim_is_one_line_over_its_settings(tmp_path: Path) -> None:
    values = {"0.01": [0.86, 0.87, 0.88], "0.1": [0.80, 0.81, 0.82], "0.001": [0.7, 0.71, 0.72]}
    lrs(tmp_path, values)  # holds
    for lr in values:  # undecided: a run each
        make_run(tmp_path, ["model.width=32", "trainer.epochs=5", f"{LR}={lr}"], 0, 0.5)
    decided, folded = told(tmp_path, "learning_rate")
    (item,) = decided
    assert folded == []
    assert item.sentence == "lr 0.01 ends above 0.1 and above 0.001"
    assert [*item.verdicts] == ["holds", "undecided"]  # though its setting is the larger
    assert item.grounds == "holds in 1, undecided in 1 of 2 settings"
    assert [(below.sentence, [*below.verdicts]) for below in item.items] == [
        ("CIFAR-10, width 16, 5 epochs", ["holds"]),
        ("CIFAR-10, width 32, 5 epochs", ["undecided"]),
    ]
    written = item.markdown()
    assert "✓ **holds**" in written.splitlines()[0]
    assert "? **undecided**" in written.splitlines()[0]
    assert [line[:4] for line in written.splitlines()[1:]] == ["  - "] * 2


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        (None, "more runs; how many, the spread does not tell yet"),
        ((2, 3), "more runs"),  # what would tell alone is there
        ((2, 5), "4 to 5 runs a cell, if the difference is as large as it seems"),
    ],
)
def test_how_many_runs_are_missing(seeds: tuple[int, int] | None, words: str) -> None:
    assert verdicts._name_runs(3, seeds) == words


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("one run", "a second and third run (n = 1)"),
        ("one cell", "a second and third run of lr 0.1 (n = 1)"),
        ("two runs", "a third run (n = 2)"),  # of three cells: too many to name
        ("no spread", "more runs; how many, the spread does not tell yet"),
        ("close", "runs a cell, if the difference is as large as it seems"),
        ("missing cell", "cells for its other comparisons (1 of 2 are there)"),
    ],
)
def test_an_undecided_claim_says_what_would_decide_it(
    tmp_path: Path, case: str, words: str
) -> None:
    few = {"one run": (1, 1), "one cell": (3, 1), "two runs": (2, 2)}.get(case, (3, 3))
    noise = [0.0, 0.02, -0.02]
    lr, wide = ["0.01", "0.1", "0.001"], case == "close"
    for rate, n in zip(lr, (*few, 0 if case == "missing cell" else max(few)), strict=True):
        for seed in range(n):
            value = 0.5 - 0.01 * (rate == "0.1") - 0.2 * (rate == "0.001") + noise[seed]
            make_run(tmp_path, [*SHORT, f"{LR}={rate}"], seed, value)
    for seed in range(6 * wide):  # a spread that is known
        make_run(tmp_path, [*SHORT, "optimizer.momentum=0.8"], seed, 0.5 + 0.01 * seed)
    decided, folded = told(tmp_path, "learning_rate")
    assert decided == []
    (item,) = folded
    assert item.verdicts == ()
    said = item.grounds.partition("Would decide: ")[2]
    assert words in said
    if wide:
        low, high = map(int, said.split(" runs")[0].split(" to "))
        assert 3 < low < high


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": (1, 7, 8)}, "planned seeds still missing: 7, 8"),
        ({"seeds": (0, 1, 2)}, "a new claim, since its planned seeds are all trained: "),
        ({"declared": "2030-01-01T00:00Z"}, "new runs: those from before the claim don't count"),
        (
            {"declared": "2030-01-01T00:00Z", "seeds": (3, 4)},
            "new runs of seeds 3, 4: those from before the claim don't count",
        ),
        ({"metric": "loss/never"}, "no run has loss/never"),
    ],
)
def test_a_planned_claim_says_what_would_decide_it(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    lrs(tmp_path, {"0.01": [0.8, 0.84, 0.8], "0.1": [0.8, 0.8, 0.83], "0.001": [0.7, 0.71, 0.72]})
    judgement = claims.judge(plan(**changes), group(tmp_path, "learning_rate"))
    assert judgement
    assert judgement.verdict == "undecided"
    assert words in verdicts.name_what_decides(judgement)


def test_undecided_claims_are_folded_where_others_are_decided(tmp_path: Path) -> None:
    lrs(tmp_path, {"0.01": [0.86, 0.87, 0.88], "0.1": [0.8, 0.81, 0.82], "0.001": [0.7] * 3})
    make_run(tmp_path, [*SHORT, "scheduler=cosine"], 0, 0.9)
    runs = load_runs(tmp_path)
    asked = [QUESTIONS["learning_rate"], QUESTIONS["schedule"]]
    report = contents.build_report(runs, load_metrics(runs), asked, PUBLISHED)
    first, fold = report.claims[1:]
    assert isinstance(first, list)
    assert [[*item.verdicts] for item in first] == [["holds"]]
    assert isinstance(fold, document.Fold)
    assert (fold.title, fold.open) == ("2 undecided: what would decide them", False)
    text = report.markdown()
    start, _, rest = text.partition("<details>\n<summary>2 undecided: what would decide them</sum")
    assert "cosine ends above constant" not in start
    assert "- cosine ends above constant. " in rest.partition("</details>")[0]
    assert "? **undecided**" not in text  # the list above says it
    titles = [(each.title, each.open) for each in questions_of(report)]
    assert titles == [
        ("Which learning rate is best? – CIFAR-10, width 16, 5 epochs", True),
        (
            "What does cosine annealing add to a constant learning rate? – CIFAR-10, width 16, "
            "5 epochs, lr 0.01",
            False,
        ),
    ]


def test_without_a_verdict_the_first_question_is_unfolded(tmp_path: Path) -> None:
    for lr in ("0.01", "0.1"):
        make_run(tmp_path, [*SHORT, f"{LR}={lr}"], 0, 0.5)
        make_run(tmp_path, ["model.width=8", "trainer.epochs=5", f"{LR}={lr}"], 0, 0.5)
    runs = load_runs(tmp_path)
    report = contents.build_report(runs, load_metrics(runs), [], PUBLISHED)
    assert [each.open for each in questions_of(report)] == [True, False]


def questions_of(report: document.Report) -> list[document.Fold]:
    folds = [part for part in report.rest if isinstance(part, document.Fold)]
    (found,) = [fold for fold in folds if fold.title == "Question by question"]
    return [part for part in found.parts if isinstance(part, document.Fold)]


def test_a_table_says_below_it_what_is_the_same_in_every_row() -> None:
    frame = pd.DataFrame({"a": [1, 1], "b": [1, 2], "c": ["", ""], "d": [3, 3]})
    table = document.Table("t", frame, {key: key for key in frame}, "Words.")
    kept = table.compact("d")
    assert list(kept.columns) == ["b", "d"]
    assert kept.caption == "Words. The same in every row: a 1."
    alone = dataclasses.replace(table, frame=frame[:1]).compact()
    assert list(alone.columns) == ["a", "b", "d"]  # of one row all is the same


def test_the_page_is_one_whole_file(reported: Reported) -> None:
    page = _Page()
    page.feed((reported.folder / "report.html").read_text())
    assert page.open == []
    assert page.outside == []  # it opens anywhere
    assert "Which learning rate is best?" in page.text
    assert "nan" not in page.text.lower().split()


def test_the_markdown_links_the_files_beside_it(reported: Reported) -> None:
    files = read(reported.folder)
    for name in ("overview", "curves"):
        assert any(f.startswith(f"figures/{name}") and f.endswith(".svg") for f in files)
    markdown = files["report.md"].decode()
    assert "undecided, seeds diverged: 1 |" in markdown
    for link in [part.split(")")[0] for part in markdown.split("](")[1:]]:
        assert link in files


def test_csv_tables_have_full_precision(reported: Reported) -> None:
    table = pd.read_csv(reported.folder / "tables" / "claims.csv")
    judgement = judge(reported.runs, "learning_rate")
    assert table["verdict"][0] == judgement.verdict == "undecided"  # a seed diverged
    assert table["difference"][0] == judgement.comparisons[0].difference.mean
    left = pd.read_csv(reported.folder / "tables" / "left-out.csv")
    assert sorted(left["status"]) == ["diverged", "failed"]


def test_the_same_runs_give_the_same_report(reported: Reported, tmp_path: Path) -> None:
    to = tmp_path / "again"
    shutil.copytree(reported.folder, to)
    (to / "notes.txt").write_text("somebody's")
    assert main([str(reported.runs), "--to", str(to), "--quiet"]) == 0
    again = read(to)
    assert again.pop("notes.txt")
    assert again == read(reported.folder)


def test_a_cell_of_diverged_runs_has_no_mean(rates: Path) -> None:
    make_run(rates, [*SHORT, f"{LR}=1"], 0, 0.1, status="diverged")
    row = tabulate(rates, "learning_rate").cells.iloc[-1]
    assert (row["optimizer.lr"], row["n"]) == (1, 0)
    assert math.isnan(row["accuracy/val"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a directory"),
        (["."], "no runs there"),
        ([".", "--questions", "none.yaml"], "none.yaml can't be read"),
        ([".", "--questions", "odd.yaml"], "odd.yaml: mine: vary=None: must be given"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd.yaml").write_text(yaml.safe_dump({"mine": {"question": "?", "where": {}}}))
    assert main([*arguments, "--to", "report"]) == 1
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert not Path("report").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="taken is not a directory of a report"):
        folder.write_report(SMALL, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "a file"


def test_only_what_a_report_wrote_is_removed(reported: Reported, tmp_path: Path) -> None:
    to = tmp_path / "paper"
    shutil.copytree(reported.folder, to)
    written = read(to)
    mine = {"figures/architecture.png": "mine", "tables/survey.csv": "mine", "notes.md": "mine"}
    for name, content in mine.items():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_text(content)
    (to / "tables" / "claims.csv").write_text("edited")
    # A process of this number was killed: there is none, it is above the largest.
    (to / f".report.md.{platform.node()}.{2**22 + 1}.tmp").write_text("killed")
    (curves,) = [name for name in written if name.startswith("figures/curves") and "svg" in name]
    elsewhere = tmp_path / "elsewhere"
    make_run(elsewhere, [*SHORT, "model.width=8"], 0)  # no question, no claims, no curves
    assert main([str(elsewhere), "--to", str(to), "--quiet"]) == 0
    left = read(to)
    assert curves not in left
    assert left["tables/claims.csv"] == b"edited"  # somebody's by now
    assert not [name for name in left if name.endswith(".tmp")]
    assert {name: left[name].decode() for name in mine} == mine


SMALL = document.Report(
    "A title", "", [document.Table("claims", pd.DataFrame({"a": [1]}), {"a": "a"})]
)


def test_what_a_person_has_changed_is_not_overwritten(tmp_path: Path) -> None:
    """Any file of a report: by its checksum, whatever the list says."""
    to = tmp_path / "paper"
    picture = document.Picture("curves", figures.Figure(), "")
    report = document.Report("A title", "", [*SMALL.claims, picture])
    folder.write_report(report, to)
    folder.write_report(report, to)  # as it is, it is replaced
    written = read(to)
    assert len(written) == 5
    for name in written.keys() - {folder.LIST}:
        (to / name).write_bytes(written[name] + b"mine")
        before = read(to)
        with pytest.raises(UserError, match="is not as a report wrote it") as refusal:
            folder.write_report(document.Report("Another", "", report.claims), to)
        assert str(to / name) in str(refusal.value)
        assert "--to" in str(refusal.value)
        assert read(to) == before
        (to / name).write_bytes(written[name])
    (to / "figures" / "curves.svg").write_bytes(b"mine")
    folder.write_report(SMALL, to)  # which has no such figure
    assert (to / "figures" / "curves.svg").read_bytes() == b"mine"


def test_a_report_that_was_killed_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was: what is there is an earlier report's, or its own."""
    to = tmp_path / "paper"
    folder.write_report(SMALL, to)
    original = folder.write_atomically
    for count, stop in enumerate((1, 2, 3, 1, 2, 3)):
        left = [stop]

        def write(path: Path, content: bytes, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            original(path, content)

        another = document.Report(f"Title {count}", "", SMALL.claims)
        monkeypatch.setattr(folder, "write_atomically", write)
        with pytest.raises(KeyboardInterrupt):
            folder.write_report(another, to)
    monkeypatch.setattr(folder, "write_atomically", original)
    folder.write_report(SMALL, to)
    assert (to / "report.md").read_bytes() == SMALL.markdown().encode()


def test_the_committed_report_can_be_replaced() -> None:
    """Every file of it that is there is as its list says."""
    to = ROOT / "experiments" / "results" / "report"
    listed = json.loads((to / folder.LIST).read_text())["files"]
    assert "report.md" in listed
    there = [name for name in listed if (to / name).exists()]
    assert there
    sums = {name: hashlib.sha256((to / name).read_bytes()).hexdigest() for name in there}
    assert sums == {name: listed[name] for name in there}


@pytest.mark.parametrize("name", ["report.md", "report.html", "tables/claims.csv", "tables"])
@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_what_no_report_wrote_is_not_overwritten(tmp_path: Path, name: str, kind: str) -> None:
    to, precious = tmp_path / "paper", tmp_path / "precious"
    precious.mkdir()
    (to / name).parent.mkdir(parents=True)
    if kind == "file":
        (to / name).write_text("mine")
    elif kind == "link":
        (to / name).symlink_to(precious)
    elif name != "tables":
        (to / name).mkdir()
    else:
        return  # that is where tables go
    before = read(to)
    with pytest.raises(UserError, match="another folder with --to") as refusal:
        folder.write_report(SMALL, to)
    assert str(to / name) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert read(to) == before
    assert list(precious.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "[]", '{"files": 3}', '{"files": {"../x": ""}}', '{"files": {"notes.txt": ""}}']
)
def test_a_list_of_files_that_no_report_wrote(tmp_path: Path, text: str) -> None:
    to = tmp_path / "paper"
    to.mkdir()
    (to / "notes.txt").write_text("mine")
    (to / folder.LIST).write_text(text)
    with pytest.raises(UserError, match="is not the list of a report's files"):
        folder.write_report(SMALL, to)
    assert sorted(read(to)) == ["notes.txt", folder.LIST]


EVIL = "[red]<img src=x onerror=alert(1)>[/b] $x_{$ *a* `b` \x1b[31m | \u202eabc\n# top"


def test_text_of_the_runs_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lr in ("0.01", "0.1"):
        directory = make_run(tmp_path / "runs", [*SHORT, f"{LR}={lr}"], 0, 0.5)
        record = json.loads((directory / "run.json").read_text())
        record["config"] |= {"data.root": EVIL, "trainer.precision": EVIL}
        record["sessions"][0] |= {"device": EVIL, "precision": EVIL}
        change_record(directory, **record)
    directory = make_run(tmp_path / "runs", [*SHORT, f"{LR}=1"], 0, 0.5, status="failed")
    change_record(directory, error=EVIL)
    (tmp_path / "runs" / "[b]odd\udcff" / "seed=0").mkdir(parents=True)
    to = tmp_path / "report"
    assert main([str(tmp_path / "runs"), "--to", str(to), "--title", EVIL]) == 0
    shown = capsys.readouterr().out
    for unseen in ("\x1b[31m", "\u202e", "\udcff"):
        assert unseen not in shown
    for seen in ("[red]<img", "[b]odd", r"\x1b[31m", r"\udcff"):
        assert seen in shown
    page = _Page()
    page.feed((to / "report.html").read_text())
    assert page.open == []
    assert "img" not in page.tags
    assert "<img src=x onerror=alert(1)>" in page.text
    markdown = (to / "report.md").read_text()
    assert "<img" not in markdown
    assert r"\[red\]&lt;img src=x onerror=alert(1)&gt;" in markdown
    assert "\x1b" not in markdown
    assert "\n# top" not in markdown


def test_odd_runs_are_named_and_the_others_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = lrs(tmp_path / "runs", {"0.01": [0.86, 0.87], "0.1": [0.83, 0.84]})
    seeds = iter(range(2, 100))

    def odd() -> Path:
        overrides = [*SHORT, f"{LR}=0.01"]
        logits, labels = np.eye(10), np.arange(10)
        return make_run(root, overrides, next(seeds), 0.1, logits=logits, labels=labels)

    def rewrite(directory: Path, **changes: object) -> Path:
        change_record(directory, **changes)
        return directory

    whole = json.loads((odd() / "run.json").read_text())
    left_out = [
        rewrite(odd(), final="high"),
        rewrite(odd(), final=None),
        rewrite(odd(), final=whole["final"] | {"accuracy/val": "high"}),
        rewrite(odd(), sessions=3),
        rewrite(odd(), sessions=[None]),
        rewrite(odd(), epochs="5"),
        rewrite(odd(), config=[1]),
        rewrite(odd(), evaluations=[{"split": "test"}]),
    ]
    for content in (b"\xff\xfe", b"[]", b"", b"{" * 5000):
        left_out.append(odd())
        (left_out[-1] / "run.json").write_bytes(content)
    for make in (Path.mkdir, lambda path: path.symlink_to(path), os.mkfifo):
        left_out.append(odd())
        (left_out[-1] / "run.json").unlink()
        make(left_out[-1] / "run.json")
    files = []
    for name, content in (
        ("metrics.jsonl", b'{"epoch": 1, "accuracy/val": \xff}\n'),
        ("metrics.jsonl", b'{"epoch": 1, "accuracy/val": "high"}\n'),
        ("probe.jsonl", b'{"epoch": 1, "kind": "conv"}\n'),
        ("probe.jsonl", b"\x80\n"),
    ):
        files.append(odd() / name)
        files[-1].write_bytes(content)
    files.append(odd() / "metrics.jsonl")
    files[-1].unlink()
    files[-1].mkdir()
    (root / "loop").symlink_to(root / "loop")
    left_out.append(root / "loop")

    to = tmp_path / "report"
    assert main([str(root), "--to", str(to)]) == 0
    assert "lr 0.01 ends above 0.1" in capsys.readouterr().out
    skipped = pd.read_csv(to / "tables" / "skipped.csv")
    said = "\n".join(skipped["path"] + " " + skipped["why"])
    for path in (*left_out, *files):
        assert str(path) in said, said
    runs = pd.read_csv(to / "tables" / "runs.csv")
    assert len(runs) == 4 + 1 + len(files)
    assert not set(map(str, left_out)) & set(runs["directory"])


def test_a_question_of_one_s_own(rates: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "mine:\n"
        "  question: Is more better?\n"
        "  where: {norm.detach: none}\n"
        "  vary: [optimizer.lr]\n"
        "  claims:\n"
        "    - claim: 1e-1 ends above 1e-2\n"
        "      pairs: [[{optimizer.lr: 1e-1}, {optimizer.lr: 1e-2}]]\n"
    )
    (question,) = load_questions(file)
    runs = load_runs(rates)
    (found,) = group_by_question(runs, [question])
    judgement = claims.judge(question.claims[0], found)
    assert judgement is not None
    assert judgement.verdict == "does not hold"
    # Without a claim that is judged here its differences are shown, as of what nobody asked.
    elsewhere = msgspec.structs.replace(question.claims[0], where={"model.width": [8]})
    for claimed, shown in (((), True), ((elsewhere,), True), (question.claims, False)):
        mine = msgspec.structs.replace(question, claims=claimed)
        report = contents.build_report(runs, load_metrics(runs).iloc[:0], [mine], PUBLISHED)
        claimed = document.join_markdown(report.claims)
        assert ("**: lr 0.01 − 0.001. " in claimed) == shown
        report.markdown()  # there are no claims of the document


def test_a_question_s_where_may_name_what_makes_a_setting(tmp_path: Path) -> None:
    """It chooses among the data, and compares none with another."""
    (tmp_path / "mine.yaml").write_text(
        "mine: {question: q, where: {data: [cifar10, synthetic]}, vary: [optimizer.lr]}"
    )
    for data in ("cifar10", "cifar100", "synthetic"):
        for lr in ("0.02", "0.05"):
            shape = [f"data={data}", "model.width=8", "trainer.epochs=5", f"{LR}={lr}"]
            make_run(tmp_path / "runs", shape, 0, 0.5)
    found = group_by_question(load_runs(tmp_path / "runs"), load_questions(tmp_path / "mine.yaml"))
    assert [each.question.name for each in found] == ["mine", "mine", "by-optimizer.lr"]
    assert sorted(each.setting.partition(",")[0] for each in found) == [
        *("CIFAR-10", "cifar100", "synthetic data")
    ]


def test_a_claim_about_training_accuracy(rates: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    text = """
    mine:
      question: Which fits best?
      where: {}
      vary: [optimizer.lr]
      claims:
        - {claim: fits, metric: METRIC, pairs: [[{optimizer.lr: 0.01}, {optimizer.lr: 0.1}]]}
    """
    found = {}
    for metric in ("accuracy/train", "loss/never"):
        file.write_text(text.replace("METRIC", metric))
        mine = load_questions(file)
        judgements = claims.judge_all(group_by_question(load_runs(rates), mine))
        row = verdicts.claims_table(judgements).frame.iloc[0]
        found[row["verdict"]] = row["why"]
    assert found.pop("holds") == ""
    assert found["undecided"].startswith("lr 0.01 − 0.1: no run has loss/never; there is ")


def test_averaged_weights_are_judged_against_the_last_ones_of_their_run(tmp_path: Path) -> None:
    for decay, gain in (("0.99", 0.0), ("0.999", 0.01)):
        for seed in range(3):
            last = 0.8 + 0.02 * seed
            averaged = last + gain + 0.001 * seed
            decayed = [*SHORT, f"regularization.ema_decay={decay}"]
            make_run(tmp_path, decayed, seed, last, averaged=averaged)
    found = judge(tmp_path, "averaging")
    assert found.verdict == "holds"
    (comparison,) = found.comparisons
    assert comparison.name == "ema decay 0.999, val_ema − val"
    assert comparison.difference.mean == pytest.approx(0.011)
    assert judge(tmp_path, "averaging", 1).verdict == "undecided"  # no difference
    table, _ = tables.run_table(load_runs(tmp_path))
    assert table["accuracy/val_ema"].notna().all()


def test_what_every_kind_has_does_not_come_with_the_kind(tmp_path: Path) -> None:
    for width in (8, 16):
        for model in ("resnet18", "resnet34"):
            shape = ["trainer.epochs=5", f"model={model}", f"model.width={width}"]
            for seed in range(2):
                make_run(tmp_path, shape, seed, 0.8 + 0.01 * (model == "resnet34"))
    found = group_by_question(load_runs(tmp_path), [QUESTIONS["depth"]])
    assert [g.setting for g in found] == [
        f"CIFAR-10, width {w}, 5 epochs, lr 0.01, constant, weight decay 0" for w in (16, 8)
    ]
    assert all(list(g.labels.values()) == ["resnet18", "resnet34"] for g in found)


def test_synthetic_data_s_setting_names_how_many_images_validate(tmp_path: Path) -> None:
    make_run(tmp_path, ["data=synthetic", "data.val_size=64", "trainer.epochs=2"])
    (found,) = group_by_question(load_runs(tmp_path), list(QUESTIONS.values()))
    assert found.setting.startswith("synthetic data, width 64, 2 epochs")
    assert "val size 64" in found.setting


# The study's own questions -----------------------------------------------------------------------


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_s_keys_and_values_exist(name: str) -> None:
    question = QUESTIONS[name]
    selectors = [x for claim in question.claims for pair in claim.pairs for x in pair]
    asked = {
        (k, v) for selector in (question.where, *selectors) for k in selector for v in selector[k]
    }
    for key, value in asked:
        composed((f"{key}={value}",))  # is an allowed value


def test_the_readme_names_the_report() -> None:
    assert "python -m resnet_cifar report" in (ROOT / "README.md").read_text()
