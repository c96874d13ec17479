"""The plan: how runs stand, what is left, how long it takes."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from conftest import ROOT, TINY, Program
from hypothesis import given
from hypothesis import strategies as st
from made_up import make_run

from hydra_plugins.local_pool import AtOnce
from resnet_cifar.config.compose import compose, compose_untyped
from resnet_cifar.config.schema import VALIDATION_COST
from resnet_cifar.data.datasets import Cifar10
from resnet_cifar.record.layout import METRICS
from resnet_cifar.record.recorder import Recorder
from resnet_cifar.record.schema import Session
from resnet_cifar.sweep import plan
from resnet_cifar.sweep.job import RunJob
from resnet_cifar.sweep.plan import START_UP, makespan, planned_run
from resnet_cifar.text import long_line


def queue(seconds: list[int], slots: int) -> int:
    """The end of the last run, second by second: each free slot takes the next one."""
    waiting, running, now = list(seconds), [0] * slots, 0
    while waiting or any(running):
        for slot in range(slots):
            if not running[slot] and waiting:
                running[slot] = waiting.pop(0)
        running = [max(0, left - 1) for left in running]
        now += 1
    return now


def shared(seconds: list[int], cores: int) -> Fraction:
    """The same where, with fewer than 2 × cores left, all begin and share the cores evenly."""
    waiting, running, now = [Fraction(s) for s in seconds], [], Fraction(0)
    while waiting or running:
        most = len(running) + len(waiting) if len(running) + len(waiting) < 2 * cores else cores
        while waiting and len(running) < most:
            running.append(waiting.pop(0))
        rate = min(Fraction(1), Fraction(cores, len(running)))
        step = min(running)
        now += step / rate
        running = [left - step for left in running if left > step]
    return now


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=12)


@given(LENGTHS, st.integers(1, 5))
def test_makespan_is_that_of_a_simulated_queue(seconds: list[int], slots: int) -> None:
    assert makespan(seconds, AtOnce(slots)) == queue(seconds, slots)


@given(LENGTHS, st.integers(2, 5))
def test_makespan_bounds_one_with_shared_cores(seconds: list[int], cores: int) -> None:
    """It takes cores as never idle: at most the longest run's length off, less a core's share."""
    expected = makespan(seconds, AtOnce(cores, 2 * cores - 1))
    simulated = float(shared(seconds, cores))
    assert expected <= simulated + 1e-9
    assert simulated <= expected + max(seconds) * (1 - 1 / cores) + 1e-9
    if len(set(seconds)) == 1 and len(seconds) < 2 * cores:  # equal ones end together
        assert simulated == pytest.approx(expected)


def test_makespan_is_that_of_a_queue() -> None:
    assert makespan([3, 1, 2, 2], AtOnce(1)) == 8
    assert makespan([3, 1, 2, 2], AtOnce(2)) == 5  # 3 then 2; 1 then 2
    assert makespan([3, 1], AtOnce(5)) == 3
    assert makespan([2, 2, 2], AtOnce(2, 3)) == 3  # the third beside the others
    assert makespan([9, 1, 1], AtOnce(2, 3)) == 9
    assert makespan([2], AtOnce(1)) == 2


def test_arithmetic_of_the_study() -> None:
    """206 PFLOP per seed in training alone (study); validation comes on top."""
    flop = 0.0
    for path in (ROOT / "conf" / "cell").glob("*.yaml"):
        config = compose([f"cell={path.stem}"])
        item = planned_run(config)
        validated = VALIDATION_COST * config.data.val_size * (config.trainer.epochs * 1.2)
        flop += item.flop - 6 * config.multiply_accumulates() * validated
    assert flop / 1e15 == pytest.approx(206, rel=0.005)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("completed", "done"),
        ("diverged", "diverged"),
        ("failed", "failed"),
        ("interrupted", "partial"),
        ("running", "partial"),  # and no process holds the lock: it was killed
    ],
)
def test_how_a_run_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, state: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = compose([*TINY, "trainer.epochs=10"])
    assert planned_run(config).state == "to do"
    everything = planned_run(config).images
    done = 10 if status == "completed" else 5
    make_run(Path("outputs"), [*TINY, "trainer.epochs=10"], curve=[0.5] * done, status=status)
    item = planned_run(config)
    assert item.state == state
    left = 0 if state in ("done", "diverged") else everything / 2
    assert item.images == pytest.approx(left, rel=0.02)
    assert planned_run(compose([*TINY, "trainer.epochs=10", "rerun=true"])).state == "to do"


def test_the_table(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(*TINY)
    before = sorted(path for path in tmp_path.rglob("*"))
    monkeypatch.setattr(plan, "MEASURED_SECONDS", 0.05)
    outcome = program("--plan", *TINY, "seed=0,1", "optimizer.lr=0.01,0.1")
    assert outcome.code == 0, outcome.err
    rows = [line.split() for line in outcome.out.splitlines() if line.startswith("lr")]
    assert len(rows) == 2
    assert rows[0][1:4] == ["2", "1", "1"]
    assert "2 cells" in outcome.out
    assert "measured now" in outcome.out
    assert sorted(path for path in tmp_path.rglob("*")) == before  # nothing was written


def test_the_speed_of_earlier_runs_is_used(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [*TINY, "trainer.epochs=1", "data.train_size=800"]  # 50 batches
    program(*many)
    monkeypatch.setattr(plan, "measure", None)  # would fail if it were asked
    outcome = program("--plan", *many, "seed=0,1")
    assert outcome.code == 0, outcome.err
    assert "images/s in 1 sessions here" in outcome.out


def test_a_plan_is_refused_like_the_sweep(program: Program) -> None:
    outcome = program("--plan", *TINY, "optimizer.lr=0.1,-1")
    assert outcome.code == 2
    assert "optimizer.lr=-1" in outcome.err
    assert outcome.err.count("\n") == 1


def test_what_is_left_takes_as_long_as_the_same_kind_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = RunJob(compose_untyped([*TINY, "trainer.epochs=10"]), [])
    assert job.seconds() is None
    session = Session("2026-01-01", "CPU", "cpu", images_trained=800, images_per_second=7.0)
    root, before = Path("outputs"), [*TINY, "trainer.epochs=5"]
    make_run(root, before, status="interrupted", curve=[0.5] * 5, sessions=[session])
    assert job.seconds() == pytest.approx(START_UP + job.run.images(10) / 7)
    slow = Session("2026-01-02", "CPU", "cpu")
    longer = [*TINY, "trainer.epochs=10"]
    failed = make_run(root, longer, status="failed", curve=[0.5] * 9, sessions=[slow])
    assert failed == job.directory
    assert job.seconds() == pytest.approx(START_UP + job.run.images(1) / 7)


def test_a_short_run_s_slow_first_epoch_is_not_a_long_one_s(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where it compiles, for a minute: a long run would seem to take a hundred times as long."""
    short = [*TINY, "trainer.epochs=3", "data.train_size=320"]
    trained, compiled = Recorder.trained, []

    def compile_first(recorder: Recorder, images: int, seconds: float) -> None:
        trained(recorder, images, seconds if compiled else seconds + 60)
        compiled.append(images)

    monkeypatch.setattr(Recorder, "trained", compile_first)
    assert program(*short).code == 0
    assert compiled == [320] * 3
    lines = [json.loads(line) for line in next(tmp_path.rglob(METRICS)).read_text().splitlines()]
    rates = [line["speed/images_per_second"] for line in lines[1:]]
    job = RunJob(compose_untyped([*short, "trainer.epochs=300"]), [])
    seconds = job.seconds()
    assert seconds is not None
    assert min(rates) - 0.1 <= job.run.images(300) / (seconds - START_UP) <= max(rates) + 0.1


@pytest.mark.parametrize(
    ("speed", "gpu", "told"), [(100.0, False, True), (1e6, False, False), (100.0, True, False)]
)
def test_a_sweep_that_takes_long_says_so_and_what_is_shorter(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    speed: float,
    gpu: bool,
    told: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "find_speed", lambda config, threads: (speed, "as measured"))
    monkeypatch.setattr(plan, "has_no_gpu", lambda: not gpu)
    monkeypatch.setattr(Cifar10, "prepare", lambda data: None)
    jobs = [RunJob(compose_untyped([f"seed={seed}", "trainer.epochs=15"]), []) for seed in (0, 1)]
    RunJob.prepare(jobs, AtOnce(1), 1)
    out = capsys.readouterr().out
    assert ("this sweep takes about" in out) == told == ("2 cells" in out or "1 cell" in out)
    RunJob.prepare(jobs, AtOnce(0), 1)  # a search, whose number of runs nobody knows
    assert not capsys.readouterr().out
    if told:
        shorter = re.search(r"Shorter: add (.*), or", out)
        assert shorter
        assert shorter[1].split() == ["model.width=16", "data=synthetic"]  # 15 epochs it has
        small = compose(["trainer.epochs=15", *shorter[1].split()])
        assert not small.shorter
        assert "Shorter" not in long_line("this run", 1e6, small.shorter)


def test_a_short_sweep_measures_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "find_speed", None)
    RunJob.prepare([RunJob(compose_untyped(TINY), [])], AtOnce(1), 1)
