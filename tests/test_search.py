"""A search of this project's runs: refused, killed, pruned, gone on with."""

from __future__ import annotations

import shlex
import signal
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Program
from test_sweep import finish, records, results, start, wait_for

from hydra_plugins.local_pool import _pool
from hydra_plugins.search.sweeper import available
from resnet_cifar.config.compose import CONF
from resnet_cifar.config.saved import load, reproduce_command
from resnet_cifar.record.schema import read_record

if not available():
    pytest.skip('needs pip install -e ".[search]"', allow_module_level=True)

SEARCH = [
    *TINY,
    "experiment=search",
    "data=synthetic",
    "trainer.epochs=2",
    "output_root=outputs",
]


def test_a_killed_search_goes_on(program: Program, tmp_path: Path) -> None:
    """To the bits that its run has when it is trained alone, without a break."""
    search = [*SEARCH, "hydra.sweeper.n_trials=1"]
    process = start(tmp_path, *search)
    wait_for(lambda: len(records(tmp_path)) == 1, "no run was started")
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(is_running(record) for record in records(tmp_path)), "a run stayed")
    text = finish(tmp_path, *search)
    assert "1 run: 0 done before, 1 to do, 1 at once" in text
    assert "1 trials: 1 done; lr-weight_decay-" in text
    assert "in outputs/search.journal" in text
    found = results(tmp_path)
    (tmp_path / "outputs").rename(tmp_path / "found")
    (run_json,) = (tmp_path / "found").glob("*/seed=0/run.json")
    assert program(*by_hand(run_json.parent)).code == 0
    assert results(tmp_path) == found


def by_hand(run_directory: Path) -> list[str]:
    """What `runs command` says, without `python train.py`."""
    return shlex.split(reproduce_command(load(run_directory / "config.yaml")))[2:]


def is_running(record: dict[str, Any]) -> bool:
    return record["status"] == "running" and Path(f"/proc/{record['sessions'][-1]['pid']}").exists()


def test_a_pruned_run_keeps_its_record_and_goes_on_by_hand(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pool, "WATCH", 0.0)
    long = [o.replace("trainer.epochs=2", "trainer.epochs=12") for o in SEARCH]
    pruner = ["hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner",
              "+hydra.sweeper.pruner.lower=2"]  # fmt: skip
    outcome = program(*long, "hydra/sweeper/pruner=none", "hydra.sweeper.n_trials=1", *pruner)
    assert outcome.code == 0, outcome.err
    assert "1 trials: 1 pruned" in outcome.out
    (run_json,) = Path("outputs").glob("*/*/run.json")
    record = read_record(run_json.parent)
    assert record is not None
    assert record.status == "interrupted"
    assert 1 <= record.epochs_done < 12
    outcome = program(*by_hand(run_json.parent))
    assert "resumed at epoch" in outcome.out, outcome.err
    record = read_record(run_json.parent)
    assert record is not None
    assert record.status == "completed"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("optimizer.lr=interval(1,0)", "must go from the smaller to the larger"),
        ("optimizer.lr=tag(log,interval(0,1))", "must begin above 0: its scale is log"),
        ("optimizer.lr=tag(log,choice(0.1,0.2))", "must be an interval: its scale is log"),
        ("optimizer.lr=tag(lg,interval(1,2))", "must have no tag but log, not lg"),
        ("optimizer.lr=range(1,1)", "must give a value"),
        ("optimizer.lr=interval(-1,1)", "optimizer.lr=-1.0: must be a finite number"),
        ("scheduler=cosine,cosin", "scheduler=cosin is not an option"),
        ("optimizer.lrr=0.1,0.2", "did you mean optimizer.lr?"),
        ("hydra/sweeper/sampler=grid", "sampler=grid: optimizer.lr is an interval, which has no"),
        ("hydra/sweeper/sampler=tp", "sampler=tp is not an option"),
        ("+hydra.sweeper.sampler.foo=1", "unexpected keyword argument 'foo'"),
        ("hydra.sweeper.pruner.n_warmup_steps=-1", "hydra.sweeper.pruner: "),
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials=0: must be 1 or more"),
        ("hydra.sweeper.direction=up", "direction=up: must be maximize or minimize"),
        ("optimizer.lr=0.1 regularization.weight_decay=0", "has nothing to search"),
    ],
)
def test_what_can_t_be_searched_is_refused_in_one_line(
    program: Program, tmp_path: Path, typed: str, said: str
) -> None:
    outcome = program(*TINY, "hydra/sweeper=optuna", *typed.split())
    assert outcome.code == 2
    assert said in outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert list(tmp_path.iterdir()) == []


def test_the_plan_of_a_search_is_its_first_runs(program: Program, tmp_path: Path) -> None:
    outcome = program("--plan", *TINY, "experiment=search", "data=synthetic")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("the first runs of a search") == 1
    assert "1 cell" in outcome.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("group", ["sampler", "pruner"])
def test_a_preset_takes_every_option(program: Program, group: str) -> None:
    presets = cycle(["experiment=search", "hydra/sweeper=optuna"])
    for path in sorted((CONF / "hydra/sweeper" / group).iterdir()):
        outcome = program("--cfg", "hydra", next(presets), f"hydra/sweeper/{group}={path.stem}")
        assert outcome.code == 0, outcome.err
        assert f"{group}:\n      _target_: optuna.{group}s." in outcome.out
