"""The end of a sweep: its runs ranked, the best in words, and the short names on the way there."""

import dataclasses
import math
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import TINY
from made_up import composed, make_run
from rich.console import Console

from resnet_cifar.config.compose import compose
from resnet_cifar.sweep.answer import print_answer, varying
from resnet_cifar.sweep.job import RunJob


def labels(*grid: list[str]) -> list[str]:
    return [" ".join(parts) for parts in varying([compose(overrides) for overrides in grid])]


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ([["seed=0"], ["seed=1"]], ["seed=0", "seed=1"]),
        ([["optimizer.lr=0.1"], ["optimizer.lr=0.01"]], ["lr=0.1", "lr=0.01"]),
        # An option's own fields only follow from it, unless they vary too.
        ([["scheduler=constant"], ["scheduler=step"]], ["constant", "step"]),
        (
            [["scheduler=cosine"], ["scheduler=step"], ["scheduler=step", "scheduler.gamma=0.5"]],
            ["cosine", "step gamma=0.1", "step gamma=0.5"],
        ),
        # A field that was added is not in a name at the value of its absence, and yet in a label.
        ([[], ["regularization.ema_decay=0.9"]], ["ema_decay=0", "ema_decay=0.9"]),
        ([["norm=batchnorm"], ["norm=detached_batchnorm"]], ["detach=none", "detach=both"]),
        # Two of one name are told apart by their groups.
        (
            [["norm.momentum=0.2", "optimizer.momentum=0.8"], []],
            [
                "norm.momentum=0.2 optimizer.momentum=0.8",
                "norm.momentum=0.1 optimizer.momentum=0.9",
            ],
        ),
        ([[]], [""]),
    ],
)
def test_a_label_is_what_varies(grid: list[list[str]], expected: list[str]) -> None:
    found = labels(*grid)
    assert [set(label.split()) for label in found] == [set(label.split()) for label in expected]


def test_runs_that_only_lie_elsewhere_keep_their_names() -> None:
    from resnet_cifar.config.compose import compose_untyped

    jobs = [RunJob(compose_untyped([*TINY, f"output_root={root}"]), []) for root in "ab"]
    assert RunJob.labels(jobs) == [job.label for job in jobs]
    assert RunJob.labels(jobs[:1]) == [jobs[0].label]  # nothing varies in a single run


def words(lines: list[str]) -> str:
    """The sentence about the best, unfolded."""
    start = next(i for i, line in enumerate(lines) if re.match("Best: |Highest: |No best: ", line))
    return " ".join(lines[start : lines.index("", start)])


Accuracies = dict[float | tuple[str, ...], list[float | str | None]]


@pytest.fixture
def answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> object:
    """`answer({0.1: [90.0, None]})`: what is printed where lr 0.1 reached 90 % and diverged.

    A cell is a rate, or a tuple of overrides.
    """
    monkeypatch.chdir(tmp_path)

    def call(accuracies: Accuracies) -> list[str]:
        shutil.rmtree("outputs", ignore_errors=True)
        configs = []
        for cell, values in accuracies.items():
            for seed, value in enumerate(values):
                own = cell if isinstance(cell, tuple) else (f"optimizer.lr={cell}",)
                overrides = [*TINY, *own]
                if value == "failed":
                    make_run(Path("outputs"), overrides, seed, status="failed", curve=[0.1])
                elif value is None:
                    make_run(Path("outputs"), overrides, seed, status="diverged", loss=math.nan)
                else:
                    make_run(Path("outputs"), overrides, seed, value / 100)
                configs.append(dataclasses.replace(composed(tuple(overrides)), seed=seed))
        print_answer(configs)
        return capsys.readouterr().out.splitlines()

    return call


def test_the_ranking_has_means_intervals_and_divergence(answer) -> None:
    lines = answer({0.5: [None, 99.0, 99.0], 0.01: [80.0, 81.0, 82.0], 0.1: [90.0, 91.0, 92.0]})
    # 1 / sqrt(3) × the 97.5 % point of Student's t with 2 degrees of freedom
    assert lines[2:5] == [
        "  1  lr=0.1   91.00 ± 2.48  n = 3",
        "  2  lr=0.01  81.00 ± 2.48  n = 3",
        "  3  lr=0.5   99.00, 99.00  n = 2, 1 diverged",
    ]
    # √(2/3) × the point with 4 degrees of freedom: the two that did not diverge share a variance.
    assert words(lines) == (
        "Best: lr=0.1, 91.00 ± 2.48 %; 10.00 ± 2.27 points ahead of lr=0.01: more than chance "
        "between seeds, as the best of 3 (Tukey)."
    )
    assert max(map(len, lines[:7])) <= 100


def test_what_the_seeds_do_not_settle_is_undecided(answer) -> None:
    lines = answer({0.01: [80.0, 85.0, 82.0], 0.1: [83.0, 83.0, 84.0]})
    assert "1.00 ± 3.75 points ahead of lr=0.01: undecided, as the highest of 2" in words(lines)
    assert "seeds would tell" not in words(lines)  # 4 degrees of freedom say little of a spread
    values = [80.0, 81.0, 82.0, 83.0, 84.0]
    lines = answer({0.02: values, 0.2: [value + 1 for value in values]})
    assert "undecided, as the highest of 2 (Tukey); 31 to 118 seeds would tell" in words(lines)


def test_the_best_of_many_needs_more_than_the_better_of_two(answer) -> None:
    near, far = [80.0, 81.0, 82.0], [70.0, 71.0, 72.0]
    best = [82.3, 83.3, 84.3]
    many = {10.0**-k: far for k in range(3, 9)}
    assert "more than chance" in words(answer({0.1: best, 0.01: near}))
    assert "undecided, as the highest of 8" in words(answer({0.2: best, 0.02: near, **many}))


def test_a_lead_over_survivors_is_undecided(answer) -> None:
    best, second = [90.0, 91.0, 92.0], [80.0, 81.0, None]
    assert "undecided, as seeds diverged." in words(answer({0.1: best, 0.01: second}))


def test_a_cell_apart_is_judged_by_its_own_runs(answer) -> None:
    """Neither cells that collapse nor those of another setting lend their variance."""
    rows = {0.1: [90.0, 91.0, 92.0], 0.01: [80.0, 81.0, 82.0]}
    for apart in ("norm=detached_batchnorm", "model.width=4", "trainer.epochs=3"):
        assert "10.00 ± 2.27 points ahead" in words(answer(rows | {(apart,): [10.0, 50.0, 30.0]}))
    second = {("norm=detached_batchnorm",): [76.0, 85.0, 88.0]}  # by its own variance, 2 of freedom
    assert "8.00 ± 15.71 points ahead of detach=both" in words(answer(rows | second))
    wild = words(answer(rows | {0.2: [10.0, 50.0, 30.0]}))
    assert "10.00 ± 2.27 points ahead" not in wild


def test_averaging_makes_no_second_training_of_a_cell(answer) -> None:
    rows = {0.1: [90.0, 91.0, 92.0], 0.01: [80.0, 81.5, 82.5]}
    twins = [("optimizer.lr=0.01", f"regularization.ema_decay={decay}") for decay in (0.9, 0.99)]
    alone = words(answer(rows))
    interval = re.search(r"[\d.]+ ± [\d.]+ points ahead", alone)[0]
    assert interval in words(answer(rows | {key: [79.0, 80.5, 81.5] for key in twins}))
    assert interval in words(answer(rows | {key: [79.0] for key in twins}))  # the fullest counts


def test_one_seed_says_nothing_of_chance(answer) -> None:
    lines = answer({0.01: [80.0], 0.1: [90.0]})
    assert lines[1] == "accuracy on validation, last epoch, %"
    assert lines[2] == "  1  lr=0.1   90.00"
    assert words(lines) == (
        "Highest: lr=0.1, 90.00 %; 10.00 points ahead of lr=0.01; one run can't tell if by chance "
        "(try seed=0,1,2)."
    )


def test_where_everything_diverged_nothing_is_best(answer) -> None:
    lines = answer({0.01: [None], 0.1: [None]})
    assert lines[2] == "  1  lr=0.01  diverged"
    assert not any(line.startswith(("Best", "Highest", "No best")) for line in lines)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({0.1: [90.0], 0.01: [90.0]}, "No best: lr=0.1 and lr=0.01 have the same mean, 90.00 %."),
        (
            {0.1: [90.0, 92.0, 91.0], 0.01: [91.0] * 3, 0.2: [50.0]},
            "No best: lr=0.1 and lr=0.01 have",
        ),
        ({0.1: [90.0], 0.01: [90.003], 0.2: [90.0]}, "No best: lr=0.01 and lr=0.1 and lr=0.2 "),
        ({0.1: [90.0], 0.01: [90.0, None]}, "Highest: lr=0.1, 90.00 %; 0.00 points ahead"),
        ({0.1: [83.0, 83.0, 84.0], 0.01: [80.0, 85.0, 82.0]}, "Highest: lr=0.1, "),
        ({0.1: [90.0], 0.01: [None]}, "Best: lr=0.1, 90.00 %; lr=0.01 diverged."),
        ({0.1: [90.0, 91.0, 92.0], 0.01: [80.0, 81.0, 82.0]}, "Best: lr=0.1, "),
    ],
)
def test_only_what_is_ahead_by_more_than_chance_is_called_the_best(
    answer, cells: Accuracies, said: str
) -> None:
    assert words(answer(cells)).startswith(said)


@pytest.mark.parametrize("active", [True, False])
def test_the_commands_work_in_this_shell(
    answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, active: bool
) -> None:
    """With the environment's own path where it is not active; and TensorBoard with its address."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "tensorboard"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin" if active else "/usr/bin:/bin")
    lines = answer({0.1: [90.0]})
    look = lines[lines.index("Look further") + 1 :]
    at = "" if active else ".venv/bin/"
    assert look[0] == f"  {at}python -m resnet_cifar runs outputs"
    assert look[1] == f"  {at}python -m resnet_cifar report outputs"
    assert look[2].startswith(f"  {at}python -m resnet_cifar evaluate outputs/lr0.1_")
    assert look[3] == f"  {at}tensorboard --logdir outputs"
    assert look[4] == "    http://localhost:6006/?smoothing=0#timeseries  (untick Ignore outliers)"
    assert len(look) == 5


def test_a_long_label_keeps_what_differs(answer, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=80, soft_wrap=True, highlight=False)
    monkeypatch.setattr("resnet_cifar.text.wide_console", lambda: console)
    long = [
        (f"optimizer.lr={lr}", f"optimizer.momentum={m}", f"regularization.weight_decay={m / 100}",
         f"scheduler={schedule}", f"regularization.label_smoothing={lr}")
        for lr, schedule in ((0.1, "cosine"), (0.01, "step")) for m in (0.8, 0.85)
    ]  # fmt: skip
    lines = answer({cell: [80.0 + i, 81.0 + i, 82.0 + i] for i, cell in enumerate(long)})
    assert max(map(len, lines[:6])) <= 80
    assert len({line[5:40] for line in lines[2:6]}) == 4
    assert all("±" in line and line.endswith("n = 3") for line in lines[2:6])


def test_seeds_of_one_cell(answer) -> None:
    assert answer({0.1: [90.0, 92.0]})[2] == "  1  this cell  90.00, 92.00  n = 2"


def test_a_sweep_without_results_says_nothing(answer) -> None:
    assert answer({}) == []


def test_a_run_that_failed_is_not_named_to_look_at(answer) -> None:
    def named(lines: list[str]) -> list[str]:
        return [Path(line).name for line in lines if "evaluate" in line]

    assert named(answer({0.1: ["failed", 90.0], 0.01: [80.0, 81.0]})) == ["seed=1"]
    assert named(answer({0.2: [None, 90.0]})) == ["seed=1"]
    assert named(answer({0.3: [None, "failed"]})) == []
