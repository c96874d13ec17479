"""Beyond one machine: submitit and Ray for real, where their extras are installed.

Every job imports torch anew, which takes seconds: hence few tests, each of much.
"""

import contextlib
import importlib.util
import os
import re
import signal
from pathlib import Path

import pytest
from conftest import TINY, Program
from test_sweep import finish, records, results, start, wait_for

from resnet_cifar.config.compose import compose
from resnet_cifar.errors import Interrupted
from resnet_cifar.identity import run_directory
from resnet_cifar.runs.find import find_runs
from resnet_cifar.training import interrupt
from resnet_cifar.training.interrupt import WARNING, Interrupt


def needs(module: str, extra: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f'needs pip install -e ".[{extra}]"')


needs_submitit = needs("submitit", "slurm")
needs_ray = needs("ray", "ray")


def undisturbed(program: Program, tmp_path: Path, *overrides: str) -> dict[str, list[dict]]:
    """What the runs of seeds 0 and 1 reach one by one, in this process; they leave `tmp_path`."""
    for seed in (0, 1):
        assert program(*overrides, f"seed={seed}").code == 0
    found = results(tmp_path)
    (tmp_path / "outputs").rename(tmp_path / "undisturbed")
    return found


@needs_submitit
def test_submitit_leaves_a_failure_alone_and_goes_on_after_a_warning(
    program: Program, tmp_path: Path
) -> None:
    long = [*TINY, "trainer.epochs=8"]
    expected = undisturbed(program, tmp_path, *long)
    grid = [*long, "-m", "optimizer.lr=0.01,0.010", "seed=0,1", "hydra/launcher=slurm_local"]
    obstacle = tmp_path / run_directory(compose([*long, "seed=1"]))
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("a file where a directory should be")
    process = start(tmp_path, *grid)
    wait_for(lambda: any(r["epochs_done"] for r in records(tmp_path)), "no epoch was trained")
    os.kill(records(tmp_path)[0]["sessions"][0]["pid"], WARNING)
    assert process.wait(120) == 1
    text = (tmp_path / "log").read_text()
    assert "2 runs: 0 done before, 2 to do" in text  # equal configurations are merged
    assert "seed=1: FAILED: " in text
    assert "can't be written" in text
    (record,) = records(tmp_path)
    undone = 1
    if record["status"] == "interrupted":  # and not just done when the signal came
        undone = 2
        logs = [path.read_text() for path in tmp_path.glob("outputs/.slurm/*/*_log.*")]
        assert any("saved in outputs" in log for log in logs)
        assert any("Calling checkpoint method" in log for log in logs)  # then, not before
    assert text.splitlines()[-1] == f"error: {undone} of 2 runs are not done: see above for each"
    obstacle.unlink()
    finish(tmp_path, *grid)
    assert results(tmp_path) == expected
    # The jobs' own files lie among the runs, and are no runs.
    assert list((tmp_path / "outputs" / ".slurm").iterdir())
    assert len(find_runs(tmp_path / "outputs")) == 2
    assert finish(tmp_path, *grid).count("skipped, completed") == 2


@needs_ray
def test_ray_trains_a_grid(program: Program, tmp_path: Path) -> None:
    expected = undisturbed(program, tmp_path, *TINY)
    grid = [*TINY, "seed=0,1", "hydra/launcher=ray"]  # -m is understood
    assert "2 runs: 2 done" in finish(tmp_path, *grid)
    assert results(tmp_path) == expected
    assert "2 done before, 0 to do" in finish(tmp_path, *grid)


def test_the_plan_is_this_machine_s_whatever_the_launcher(program: Program, tmp_path: Path) -> None:
    outcome = program("--plan", *TINY, "hydra/launcher=slurm", "hydra.launcher.partition=gpu")
    assert outcome.code == 0
    assert re.fullmatch(r"measuring resnet18 width 2, .*\n", outcome.err)  # it shows life
    assert "to do" in outcome.out


@pytest.mark.parametrize(
    ("option", "schema", "extra"),
    [
        ("hydra/launcher=slurm", ("launcher", "cluster_slurm.yaml"), "slurm"),
        ("hydra/launcher=ray", ("launcher", "cluster_ray.yaml"), "ray"),
        ("hydra/sweeper=optuna", ("sweeper", "search_schema.yaml"), "search"),
    ],
)
def test_a_missing_extra_is_named(
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    schema: tuple[str, str],
    extra: str,
) -> None:
    from hydra.core.config_store import ConfigStore

    from resnet_cifar.config.compose import register

    register()
    group, name = schema
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"][group], name, raising=False)
    outcome = program(*TINY, "-m", "seed=0,1", option)
    assert outcome.code == 2
    command = f'pip install -c constraints.txt -e ".[{extra}]"'
    assert outcome.err == f"error: {option} needs more packages: {command}\n"


@needs_submitit
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("hydra.launcher.partitio=gpu", "hydra.launcher.partitio is not a key"),
        ("hydra.launcher.timeout_min=long", "hydra.launcher.timeout_min=long: must be"),
        ("optimizer.lr=0.1,-1", "optimizer.lr=-1"),
    ],
)
def test_slurm_refuses_in_one_line(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, said: str
) -> None:
    (tmp_path / "srun").touch(mode=0o755)  # looks like a cluster to submitit
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    outcome = program(*TINY, "-m", "seed=0,1", "hydra/launcher=slurm", typed)
    assert outcome.code == 2
    assert said in outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["srun"]


@pytest.fixture
def handled() -> list[int]:
    """The WARNINGs that reached the handler of a scheduler's library."""
    seen: list[int] = []
    before = signal.signal(WARNING, lambda number, frame: seen.append(number))
    yield seen
    signal.signal(WARNING, before)


@pytest.mark.parametrize("others", [[], [signal.SIGTERM]])
def test_a_warning_waits_for_the_checkpoint(handled: list[int], others: list[int]) -> None:
    with contextlib.suppress(Interrupted), Interrupt() as care:
        for number in (*others, WARNING, WARNING):
            signal.raise_signal(number)
        assert care.signal == (others or [WARNING])[0]
        assert handled == []
        raise Interrupted(care.signal)  # as the training loop does when it has saved
    assert handled == [WARNING]


def test_a_run_that_ends_in_time_needs_no_requeue(handled: list[int]) -> None:
    with Interrupt():
        signal.raise_signal(WARNING)
    assert handled == []


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", 1), ("COMPLETING", 0), ("", 0)])
def test_sigterm_alone_requeues_what_slurm_would_let_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    handled: list[int],
    state: str,
    requeued: int,
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho {state}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with contextlib.suppress(Interrupted), Interrupt() as care:
        signal.raise_signal(signal.SIGTERM)
        raise Interrupted(care.signal)
    assert len(handled) == requeued


def test_without_slurm_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert not interrupt.preempted()


def test_a_requeued_job_does_not_begin_anew(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program(*TINY, "trainer.epochs=1").code == 0
    monkeypatch.setenv("SLURM_RESTART_COUNT", "10")
    assert "skipped" in program(*TINY, "trainer.epochs=1", "rerun=true").out
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert "set aside" in program(*TINY, "trainer.epochs=1", "rerun=true").out


@pytest.mark.parametrize("none", ["x", "", "0", "1.5", "²"])
def test_restarts_that_are_no_number_are_none(
    program: Program, monkeypatch: pytest.MonkeyPatch, none: str
) -> None:
    """It begins anew, also where the run is finished."""
    command = (*TINY, "trainer.epochs=1", "rerun=true", "data.train_size=32")
    monkeypatch.setenv("SLURM_RESTART_COUNT", none)
    assert program(*command).code == 0
    assert "set aside" in program(*command).out
