"""A search: Optuna's proposals behind the launcher's pool, its study in a file."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import ConfigCompositionException
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from hydra_plugins.local_pool import Job, Outcome, _pool
from hydra_plugins.local_pool._pool import Pool
from hydra_plugins.search.sweeper import OptunaSearch, SearchConf, available

from .conftest import ROOT
from .hydra_toy import Sweep

if not available():
    pytest.skip("needs Optuna, 4 or newer", allow_module_level=True)

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from hydra_plugins.search import _space, _study
from hydra_plugins.search._study import Search

SAMPLERS = ROOT / "conf" / "hydra" / "sweeper" / "sampler"  # any program's
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
    assert _space.list_values(distribution("x=range(0, 0.3, 0.1)")) == pytest.approx([0, 0.1, 0.2])
    assert _space.list_values(distribution("x=range(1, 10, 3)")) == [1, 4, 7]
    assert _space.list_values(distribution("x=interval(0, 1)")) is None
    assert _space.list_values(distribution("x=int(interval(1, 3))")) == [1, 2, 3]
    assert _space.list_values(distribution("x=tag(log, int(interval(1, 8)))")) is None
    corners = _space.list_corners({"a": distribution("a=x,y,z"), "b": FloatDistribution(1, 2)})
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
    options = SearchConf({}, "maximize", 1, seed, 1, "journal", sampler, pruner)
    return _study.SearchStudy(storage, space, options, "toys")


def proposals(count: int, **settings: Any) -> list[Any]:
    """The proposals of an undisturbed search where every trial's value is its x."""
    with _study.open_storage(None) as storage:
        ours = study(storage, **settings)
        for _ in range(count):
            trial = ours.ask()
            ours.tell(trial.number, float(trial.point["x"]))
        return [trial.params["x"] for trial in ours.trials]


@pytest.mark.parametrize("name", sorted(path.stem for path in SAMPLERS.iterdir()))
def test_every_sampler_goes_on_where_it_was(tmp_path: Path, name: str) -> None:
    """In a new process, from the file, each proposes what it would have without the break."""
    sampler = OmegaConf.load(SAMPLERS / f"{name}.yaml")
    if sampler.pop("defaults", None):
        sampler = OmegaConf.merge(OmegaConf.load(SAMPLERS / "tpe.yaml"), sampler)
    space = {"x": distribution("x=range(0, 1, 0.125)")} if name == "grid" else LINE
    expected = proposals(7, space=space, sampler=sampler)
    assert len(set(expected)) == 7
    assert expected != proposals(7, space=space, sampler=sampler, seed=1)
    for number in range(7):
        with _study.open_storage(tmp_path / "journal") as storage:
            ours = study(storage, space=space, sampler=sampler)
            trial = ours.ask()
            assert (trial.number, trial.point["x"]) == (number, expected[number])
        with _study.open_storage(tmp_path / "journal") as storage:  # killed, and taken up again
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
    with _study.open_storage(tmp_path / "journal") as storage:
        ours = study(storage, pruner=MEDIAN)
        pool = run(Search(ours, 6, toy, toy, print), slots=2)
        assert len(pool.outcomes) + len(pool.pruned) == 6
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
    with _study.open_storage(tmp_path / "journal") as storage:
        again = run(Search(study(storage, pruner=MEDIAN), 6, toy, toy, print))
    assert not again.outcomes
    assert "6 runs: 6 before, 0 done" in capfd.readouterr().out


def test_what_ends_elsewhere_is_never_pruned(tmp_path: Path, toy: type[Toy]) -> None:
    """A launcher without a view of running jobs hands over finished ones, the worst last."""
    with _study.open_storage(tmp_path / "journal") as storage:
        ours = study(storage, pruner=MEDIAN)
        source = Search(ours, 4, toy, toy, print)
        jobs = sorted([source.next() for _ in range(4)], key=lambda job: -job.x)
        for job in jobs:
            Path(f"{job.path}.curve").write_text(f"1 {job.x}\n2 {job.x}\n")
            source.ended(job, Outcome(job.x, ""))
        assert states(ours) == ["COMPLETE"] * 4


def test_a_point_that_is_tried_twice_is_one_run_and_is_done(
    tmp_path: Path, toy: type[Toy], capfd: pytest.CaptureFixture[str]
) -> None:
    toy.pause = "0.1"  # so that it is proposed again while it runs
    space = {"x": distribution("x=0.25,0.5")}
    for slots in (1, 3):
        toy.folder = tmp_path / f"{slots}"
        toy.folder.mkdir()
        with _study.open_storage(tmp_path / f"journal{slots}") as storage:
            run(Search(study(storage, space=space), 6, toy, toy, print), slots)
        assert re.search(r"\n6 runs: 6 done; ", capfd.readouterr().out)


def test_a_point_that_is_stopped_twice_is_counted_twice(
    tmp_path: Path,
    toy: type[Toy],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(_pool, "WATCH", 0.0)
    toy.pause = "0.1"
    space = {"x": distribution("x=0.125,0.25,0.375,0.5")}
    with _study.open_storage(tmp_path / "journal") as storage:
        run(Search(study(storage, space=space, pruner=MEDIAN), 16, toy, toy, print))
    out = capfd.readouterr().out
    stopped = re.findall(r"(x=\S+): pruned after", out)
    assert len(set(stopped)) < len(stopped)
    assert f"16 runs: {16 - len(stopped)} done, {len(stopped)} stopped early; " in out


class Curved(Toy):
    """Its curve crosses others': what it is worth shows late."""

    def curve(self) -> list[tuple[int, float]]:
        return [(step, x * step if self.x > 0.5 else 1 - x) for step, x in super().curve()]


PRUNERS = {
    "median": MEDIAN,
    "halving": OmegaConf.create(
        {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "reduction_factor": 2}
    ),
}
TPE = OmegaConf.create({"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 3})


@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_search_finds_the_same_however_fast_its_jobs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruner: str
) -> None:
    """One at a time: too quick to be looked at, slow, or done before."""
    found = []
    for name, pause, watch in (("quick", "0", 60.0), ("slow", "0.06", 0.0)):
        folder = tmp_path / name

        class Here(Curved):
            pass

        Here.folder, Here.pause = folder, pause
        folder.mkdir()
        monkeypatch.setattr(_pool, "WATCH", watch)
        for number in range(2 if name == "quick" else 1):  # the second finds every run there
            with _study.open_storage(folder / f"journal{number}") as storage:
                ours = study(storage, sampler=TPE, pruner=PRUNERS[pruner])
                run(Search(ours, 7, Here, Here, print))
                found.append([(t.params, t.state, t.value) for t in ours.trials])
    assert all(one == found[0] for one in found)
    assert {state for _, state, _ in found[0]} == {TrialState.COMPLETE, TrialState.PRUNED}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_lock(*of: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_lock)
    with pytest.raises(ConfigCompositionException, match="no lock") as refused:
        _study.open_storage(tmp_path / "journal").__enter__()
    assert "hydra.sweeper.storage=<another file>" in str(refused.value)


def test_what_failed_is_tried_again_and_what_is_not_allowed_is_left(
    tmp_path: Path, toy: type[Toy], capfd: pytest.CaptureFixture[str]
) -> None:
    space = {"x": CategoricalDistribution(["0.5", "1", "1.0", "3"])}
    sampler = OmegaConf.create({"_target_": "optuna.samplers.GridSampler"})
    blocked = tmp_path / "1.000000.curve"
    blocked.mkdir()
    with _study.open_storage(tmp_path / "journal") as storage:
        ours = study(storage, space=space, sampler=sampler)
        assert ours.most == 4
        pool = run(Search(ours, 4, toy, toy, print))
        assert list(pool.failures) == [str(tmp_path / "1.000000")]
        assert sorted(states(ours)) == ["COMPLETE", "FAIL", "RUNNING", "RUNNING"]
    assert "x=3: not tried: ValueError: x is at most 2" in capfd.readouterr().out
    blocked.rmdir()
    with _study.open_storage(tmp_path / "journal") as storage:
        ours = study(storage, space=space, sampler=sampler)
        pool = run(Search(ours, 4, toy, toy, print))
        assert list(pool.outcomes) == [str(tmp_path / "1.000000")]  # 1 and 1.0 are one run
        assert sorted(states(ours)) == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"]


def test_the_file_is_one_search_s_and_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with _study.open_storage(path) as storage:
        ours = study(storage)
        ours.tell(ours.ask().number, 1.0)
        with pytest.raises(ConfigCompositionException, match="another search has"):
            _study.open_storage(path).__enter__()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"worker')
    with _study.open_storage(path) as storage:
        ours = study(storage)
        assert states(ours) == ["COMPLETE"]
        ours.ask()
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in path.read_text().splitlines())
    # Another question is another study of the same file.
    with _study.open_storage(path) as storage:
        other = study(storage, space={"x": FloatDistribution(0, 2)})
        assert other.name != ours.name
        assert states(other) == []
    for content in (b"# a page\nof somebody's", b"{}\n", b"\xff"):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(ConfigCompositionException, match="is not a journal"):
            _study.open_storage(tmp_path / "other").__enter__()
        assert (tmp_path / "other").read_bytes() == content
    with pytest.raises(ConfigCompositionException, match="is not a journal"):
        _study.open_storage(tmp_path).__enter__()


class Engine(Launcher):
    """Another launcher: takes a list, comes back when all of it has ended."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[list[str]], int]] = []

    def setup(self, **given: Any) -> None:
        pass

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        self.batches.append(([list(job) for job in job_overrides], initial_job_idx))
        results = []
        for job in job_overrides:
            results.append(JobReturn(status=JobStatus.COMPLETED))
            results[-1].return_value = float(job[-1].partition("=")[2])
        return results


def test_another_launcher_gets_batches_and_nothing_is_pruned(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "new" / "journal"
    search = OptunaSearch(
        params={"first.port": "interval(0.5,9.5)"}, direction="maximize", n_trials=5, seed=0,
        batch=2, storage=str(storage), sampler=RANDOM, pruner=MEDIAN,
    )  # fmt: skip
    search.config, search.context = sweep()
    search.launcher = engine = Engine()
    search.sweep(["second.port=7"])
    assert [(len(jobs), index) for jobs, index in engine.batches] == [(2, 0), (2, 2), (1, 4)]
    jobs = [job for batch, _ in engine.batches for job in batch]
    assert all(job[0] == "second.port=7" for job in jobs)
    assert len({job[1] for job in jobs}) == 5
    out = capsys.readouterr().out
    assert "without pruning" in out
    assert "5 trials: 5 done; port-" in out
    # The same command goes on: nothing is left.
    engine.batches.clear()
    search.sweep(["second.port=7"])
    assert engine.batches == []


def test_the_answer_has_a_run_once_however_often_it_was_proposed(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = OptunaSearch(
        params={"first.port": "choice(1,2)"}, direction="maximize", n_trials=7, seed=0,
        batch=1, storage=str(tmp_path / "journal"), sampler=RANDOM, pruner=NONE,
    )  # fmt: skip
    search.config, search.context = sweep()
    search.launcher = Engine()
    answered: list[Job] = []
    monkeypatch.setattr(Job, "answer", classmethod(lambda kind, jobs: answered.extend(jobs)))
    search.sweep([])
    assert len(answered) == len({job.key for job in answered}) == 2
