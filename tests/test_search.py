"""A search: Optuna's proposals behind the launcher's pool, its study in a file."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Program
from omegaconf import OmegaConf
from test_sweep import finish, records, results, start, wait_for

from hydra_plugins.local_pool import Job, Outcome, _pool
from hydra_plugins.local_pool._pool import Pool
from hydra_plugins.search.sweeper import available
from resnet_cifar.config.compose import CONF
from resnet_cifar.config.saved import load, reproduce_command
from resnet_cifar.record.schema import read_record

if not available():
    pytest.skip('needs pip install -e ".[search]"', allow_module_level=True)

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from hydra_plugins.search import _space, _study
from hydra_plugins.search._search import Search

SEARCH = [*TINY, "experiment=search", "data=synthetic", "trainer.epochs=2", "output_root=outputs"]
RANDOM = OmegaConf.create({"_target_": "optuna.samplers.RandomSampler"})
NONE = OmegaConf.create({"_target_": "optuna.pruners.NopPruner"})
MEDIAN = OmegaConf.create({"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 2})
LINE = {"x": FloatDistribution(0, 1)}


def distribution(text: str) -> Any:
    return _space.distribution(OverridesParser.create().parse_override(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=interval(0, 1)", FloatDistribution(0, 1)),
        ("x=tag(log, interval(1e-5, 1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("x=int(interval(1, 8))", IntDistribution(1, 8)),
        ("x=tag(log, int(interval(1, 8)))", IntDistribution(1, 8, log=True)),
        ("x=range(1, 10, 3)", IntDistribution(1, 7, step=3)),  # as a grid: without the end
        ("x=range(10, 1, -3)", IntDistribution(4, 10, step=3)),
        ("x=range(0, 0.3, 0.1)", FloatDistribution(0, 0.2, step=0.1)),
        ("x=a,b,a", CategoricalDistribution(["a", "b"])),
        (
            "x=choice('a b',[1,2],false,3)",
            CategoricalDistribution(["a\\ b", "[1,2]", "False", "3"]),
        ),
    ],
)
def test_hydra_s_syntax_is_the_space(text: str, expected: Any) -> None:
    assert distribution(text) == expected


def test_a_grid_s_values_and_the_corners() -> None:
    assert _space.values(distribution("x=range(0, 0.3, 0.1)")) == pytest.approx([0, 0.1, 0.2])
    assert _space.values(distribution("x=range(1, 10, 3)")) == [1, 4, 7]
    assert _space.values(distribution("x=interval(0, 1)")) is None
    assert _space.values(distribution("x=int(interval(1, 3))")) == [1, 2, 3]
    assert _space.values(distribution("x=tag(log, int(interval(1, 8)))")) is None
    corners = _space.corners({"a": distribution("a=x,y,z"), "b": FloatDistribution(1, 2)})
    assert corners == [{"a": "x", "b": 1}, {"a": "y", "b": 2}, {"a": "z", "b": 1}]
    assert _space.overrides({"a.b": 1e-05, "c": "'a b'"}) == ["a.b=1e-05", "c='a b'"]
    point = {"optimizer.lr": 0.0125123, "model.width": 8, "scheduler": "cosine"}
    assert _space.label(point) == "lr=0.0125 width=8 scheduler=cosine"


WORK = """
import sys, time
for step in range(1, 5):
    with open(sys.argv[1] + ".curve", "a") as file:
        file.write(f"{step} {sys.argv[2]}\\n")
    time.sleep(float(sys.argv[3]))
open(sys.argv[1], "w").write(sys.argv[2])
"""


class Toy(Job):
    """A process of four steps whose value is x all along. Made with `x=…`."""

    folder: Path
    pause = "0"

    def __init__(self, overrides: Sequence[str]) -> None:
        super().__init__(OmegaConf.create(), overrides)
        self.x = float(overrides[-1].partition("=")[2])
        if self.x > 2:
            raise ValueError("x is at most 2")

    @property
    def path(self) -> Path:
        return self.folder / f"{self.x:.6f}"

    @property
    def key(self) -> str:
        return str(self.path)

    def command(self) -> list[str]:
        return [sys.executable, "-S", "-c", WORK, str(self.path), str(self.x), self.pause]

    def outcome(self) -> Outcome | None:
        return Outcome(float(self.path.read_text()), "done") if self.path.exists() else None

    def curve(self) -> list[tuple[int, float]]:
        path = Path(f"{self.path}.curve")
        lines = path.read_text().splitlines() if path.is_file() else []
        return [(int(step), float(x)) for step, x in map(str.split, lines) if step != "4"]


@pytest.fixture
def toy(tmp_path: Path) -> type[Toy]:
    class Here(Toy):
        folder = tmp_path

    return Here


def study(
    storage: Any, space: Any = LINE, sampler: Any = RANDOM, pruner: Any = NONE, seed: int = 0
) -> _study.SearchStudy:
    return _study.SearchStudy(
        storage, space, _study.Options("maximize", seed, sampler, pruner), "toys"
    )


def proposals(count: int, **settings: Any) -> list[Any]:
    """What an undisturbed search proposes where every trial's value is its x."""
    with _study.opened(None) as storage:
        ours = study(storage, **settings)
        for _ in range(count):
            trial = ours.ask()
            ours.tell(trial.number, float(trial.point["x"]))
        return [trial.params["x"] for trial in ours.trials]


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "hydra/sweeper/sampler").iterdir()))
def test_every_sampler_goes_on_where_it_was(tmp_path: Path, name: str) -> None:
    """In a new process, from the file, each proposes what it would have without the break."""
    sampler = OmegaConf.load(CONF / "hydra/sweeper/sampler" / f"{name}.yaml")
    if sampler.pop("defaults", None):
        sampler = OmegaConf.merge(OmegaConf.load(CONF / "hydra/sweeper/sampler/tpe.yaml"), sampler)
    space = {"x": distribution("x=range(0, 1, 0.125)")} if name == "grid" else LINE
    expected = proposals(7, space=space, sampler=sampler)
    assert len(set(expected)) == 7
    assert expected != proposals(7, space=space, sampler=sampler, seed=1)
    for number in range(7):
        with _study.opened(tmp_path / "journal") as storage:
            ours = study(storage, space=space, sampler=sampler)
            trial = ours.ask()
            assert (trial.number, trial.point["x"]) == (number, expected[number])
        with _study.opened(tmp_path / "journal") as storage:  # killed, and taken up again
            ours = study(storage, space=space, sampler=sampler)
            assert ours.open() == [trial]
            ours.tell(trial.number, trial.point["x"])


def run(source: Search, slots: int = 1) -> Pool:
    pool = Pool([], {}, [""] * slots, {}, "plain", None, source)
    pool.run()
    return pool


def states(ours: _study.SearchStudy) -> list[str]:
    return [trial.state.name for trial in ours.trials]


def test_slots_are_kept_busy_and_the_one_behind_is_stopped(
    tmp_path: Path,
    toy: type[Toy],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(_pool, "WATCH", 0.0)
    toy.pause = "0.15"
    with _study.opened(tmp_path / "journal") as storage:
        ours = study(storage, pruner=MEDIAN)
        pool = run(Search(ours, 6, toy, toy, print), slots=2)
        assert len(pool.outcomes) + len(pool.stopped) == 6
        trials = ours.trials
    # The first two are trained to their end; after them whoever is below the median is not.
    for trial in trials:
        x = trial.params["x"]
        assert (tmp_path / f"{x:.6f}").exists() == (trial.state == TrialState.COMPLETE)
        if trial.state == TrialState.PRUNED:
            assert trial.value == x  # for the sampler
            assert 1 <= max(trial.intermediate_values) <= 3
    found = [trial.state.name for trial in trials]
    assert found[:2] == ["COMPLETE", "COMPLETE"]
    assert "PRUNED" in found
    best = max(trials, key=lambda trial: trial.params["x"])
    assert best.state == TrialState.COMPLETE
    out = capfd.readouterr().out
    assert "6 runs: 0 done before, 6 to do, 2 at once" in out
    assert "pruned after step 1, at 0." in out
    assert f"{found.count('PRUNED')} stopped early" in out
    # One that was stopped goes on, if somebody runs it by hand, and then counts nowhere.
    with _study.opened(tmp_path / "journal") as storage:
        again = run(Search(study(storage, pruner=MEDIAN), 6, toy, toy, print))
    assert not again.outcomes
    assert "6 runs: 6 before, 0 done" in capfd.readouterr().out


def test_what_failed_is_tried_again_and_what_is_not_allowed_is_left(
    tmp_path: Path, toy: type[Toy], capfd: pytest.CaptureFixture[str]
) -> None:
    space = {"x": CategoricalDistribution(["0.5", "1", "1.0", "3"])}
    sampler = OmegaConf.create({"_target_": "optuna.samplers.GridSampler"})
    blocked = tmp_path / "1.000000.curve"
    blocked.mkdir()
    with _study.opened(tmp_path / "journal") as storage:
        ours = study(storage, space=space, sampler=sampler)
        assert ours.most == 4
        pool = run(Search(ours, 4, toy, toy, print))
        assert list(pool.failures) == [str(tmp_path / "1.000000")]
        assert sorted(states(ours)) == ["COMPLETE", "FAIL", "RUNNING", "RUNNING"]
    assert "x=3: not tried: ValueError: x is at most 2" in capfd.readouterr().out
    blocked.rmdir()
    with _study.opened(tmp_path / "journal") as storage:
        ours = study(storage, space=space, sampler=sampler)
        pool = run(Search(ours, 4, toy, toy, print))
        assert list(pool.outcomes) == [str(tmp_path / "1.000000")]  # 1 and 1.0 are one run
        assert sorted(states(ours)) == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"]


def test_the_file_is_one_search_s_and_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with _study.opened(path) as storage:
        ours = study(storage)
        ours.tell(ours.ask().number, 1.0)
        with pytest.raises(ConfigCompositionException, match="another search has"):
            _study.opened(path).__enter__()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"worker')
    with _study.opened(path) as storage:
        ours = study(storage)
        assert states(ours) == ["COMPLETE"]
        ours.ask()
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in path.read_text().splitlines())
    # Another question is another study of the same file.
    with _study.opened(path) as storage:
        other = study(storage, space={"x": FloatDistribution(0, 2)})
        assert other.name != ours.name
        assert states(other) == []
    for content in (b"# a page\nof somebody's", b"{}\n", b"\xff"):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(ConfigCompositionException, match="is not a journal"):
            _study.opened(tmp_path / "other").__enter__()
        assert (tmp_path / "other").read_bytes() == content
    with pytest.raises(ConfigCompositionException, match="is not a journal"):
        _study.opened(tmp_path).__enter__()


def test_a_killed_search_goes_on(program: Program, tmp_path: Path) -> None:
    """To the bits that its run has when it is trained alone, without a break."""
    search = [*SEARCH, "hydra.sweeper.n_trials=1"]
    process = start(tmp_path, *search)
    wait_for(lambda: len(records(tmp_path)) == 1, "no run was started")
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(is_running(record) for record in records(tmp_path)), "a run stayed")
    text = finish(tmp_path, *search)
    assert "1 runs: 0 done before, 1 to do, 1 at once" in text
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
        ("optimizer.lr=interval(1,0)", "an interval goes from the smaller to the larger"),
        ("optimizer.lr=tag(log,interval(0,1))", "on a log scale an interval begins above 0"),
        ("optimizer.lr=tag(log,choice(0.1,0.2))", "only an interval has a log scale"),
        ("optimizer.lr=tag(lg,interval(1,2))", "the only tag a search knows is log, not lg"),
        ("optimizer.lr=range(1,1)", "no value"),
        ("optimizer.lr=interval(-1,1)", "optimizer.lr=-1.0 is not allowed: a finite number"),
        ("scheduler=cosine,cosin", "scheduler=cosin is not an option"),
        ("optimizer.lrr=0.1,0.2", "did you mean optimizer.lr?"),
        ("hydra/sweeper/sampler=grid", "sampler=grid: optimizer.lr is an interval, which has no"),
        ("hydra/sweeper/sampler=tp", "sampler=tp is not an option"),
        ("+hydra.sweeper.sampler.foo=1", "unexpected keyword argument 'foo'"),
        ("hydra.sweeper.pruner.n_warmup_steps=-1", "hydra.sweeper.pruner: "),
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials=0 is not allowed: 1 or more"),
        ("hydra.sweeper.direction=up", "direction=up is not allowed: maximize or minimize"),
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
    assert outcome.out.count("the first of a search") == 1
    assert "1 cells" in outcome.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("group", ["sampler", "pruner"])
def test_a_preset_takes_every_option(program: Program, group: str) -> None:
    presets = cycle(["experiment=search", "hydra/sweeper=optuna"])
    for path in sorted((CONF / "hydra/sweeper" / group).iterdir()):
        outcome = program("--cfg", "hydra", next(presets), f"hydra/sweeper/{group}={path.stem}")
        assert outcome.code == 0, outcome.err
        assert f"{group}:\n      _target_: optuna.{group}s." in outcome.out


def test_an_engine_gets_batches(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason='needs pip install -e ".[slurm]"')
    batches = ["hydra/launcher=slurm_local", "hydra.sweeper.n_trials=1", "hydra.sweeper.batch=2"]
    text = finish(tmp_path, *SEARCH, *batches, "trainer.epochs=1")
    assert "without pruning" in text
    assert "1 runs: 1 done" in text
    assert "1 trials: 1 done" in text
