"""The study for a borrowed GPU: what is started, what is stopped, what is carried away."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import ROOT, TINY

from hydra_plugins.local_pool import Outcome
from resnet_cifar.training.interrupt import WATCH_PARENT


@pytest.fixture
def script(_repeated_work_once: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location(
        "run_study", ROOT / "experiments" / "run_study.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "run_study", module)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module


# A made-up machine, whose clock stands still unless the script sleeps.


class FakeJob:
    def __init__(self, name: str, epochs: int) -> None:
        self.overrides, self.label, self.directory = [name], f"{name}/seed=0", Path(name, "seed=0")
        data = SimpleNamespace(prepare=lambda: None)
        self.run = SimpleNamespace(trainer=SimpleNamespace(epochs=epochs), data=data)
        self.exit_code: int | None = None
        self.lines: list[dict[str, float]] = []
        self.taken = False
        self.directory.mkdir(parents=True)
        (self.directory / "metrics.jsonl").touch()

    def outcome(self) -> Outcome | None:
        done = len(self.lines) == self.run.trainer.epochs
        return Outcome(0.9, "completed") if done else None

    def busy(self) -> bool:
        return self.taken  # by another process


class Machine:
    """Time and processes. `rates[k]` are the seconds of an epoch with k runs that train at once."""

    def __init__(self, rates: dict[int, float], compiles: float = 40.0) -> None:
        self.rates, self.compiles, self.now = rates, compiles, 1000.0
        self.processes: list[FakeProcess] = []
        self.environments: list[dict[str, str]] = []
        self.hooks: list[tuple[float, Callable[[], None]]] = []
        self.hangs = False  # a run's process goes on after its record is whole, or when told to end

    def monotonic(self) -> float:
        return self.now

    def strftime(self, form: str) -> str:
        return f"{self.now - 1000:5.0f}"

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        training = [p for p in self.processes if p.code is None and p.compiled()]
        for process in training:
            process.train(seconds / self.rates[len(training)])
        for at, hook in self.hooks.copy():
            if self.now - 1000 >= at:
                self.hooks.remove((at, hook))
                hook()

    def process(self, job: FakeJob, slot: str, env: dict[str, str], *rest: object) -> "FakeProcess":
        self.processes.append(FakeProcess(self, job))
        self.environments.append(env)
        return self.processes[-1]


class FakeProcess:
    def __init__(self, machine: Machine, job: FakeJob) -> None:
        self.machine, self.job, self.stops = machine, job, 0
        self.code: int | None = None
        self.begin = self.last = machine.now
        self.done = float(len(job.lines))

    def compiled(self) -> bool:
        return self.machine.now >= self.begin + self.machine.compiles

    def train(self, epochs: float) -> None:
        self.done += epochs
        lines = self.job.lines
        while len(lines) + 1 <= self.done and not self.job.outcome():
            # Never 0, and never twice the same.
            spent = max(self.machine.now - self.last, 0.01) * (1 + 1e-6 * len(lines))
            lines.append({"speed/epoch_seconds": spent})
            self.last = self.machine.now
        if self.job.outcome() and not self.machine.hangs:
            self.code = 0

    def poll(self) -> int | None:
        return self.code

    def stop(self) -> None:
        self.stops += 1
        if self.stops > 1 or not self.machine.hangs:
            self.code = 143 if self.stops == 1 else -9

    def explain(self, code: int) -> str:
        return f"code {code}"


Studied = Callable[..., Any]


@pytest.fixture
def study(script: Any, monkeypatch: pytest.MonkeyPatch) -> Studied:
    """`study(machine, {"a": 15}, seconds, at_once)`: the study of such runs, over."""

    def run(
        machine: Machine,
        epochs: dict[str, int],
        seconds: float,
        at_once: int,
        taken: Mapping[str, float] = MappingProxyType({}),
    ) -> Any:
        monkeypatch.setattr(script, "time", machine)
        monkeypatch.setattr(script, "JobProcess", machine.process)
        monkeypatch.setattr(script, "is_recorded", lambda job: job.outcome() is not None)
        jobs = [FakeJob(name, count) for name, count in epochs.items()]
        for job in jobs:
            if until := taken.get(job.overrides[0]):
                job.taken = True
                machine.hooks.append((until, partial(setattr, job, "taken", False)))
        lines = {job.directory: job.lines for job in jobs}
        monkeypatch.setattr(script, "read_metrics", lambda path: lines[path.parent])
        made = script.Study(jobs, machine.now + seconds, at_once, Path("study.tar.gz"))
        made.run()
        return made

    return run


def completed(machine: Machine) -> list[str]:
    return [p.job.overrides[0] for p in machine.processes if p.job.outcome()]


H100 = {1: 1.0, 2: 1.6, 3: 2.4}  # seconds of an epoch


def test_fifteen_minutes_give_the_short_table_and_the_largest_effect(
    script: Any, study: Studied
) -> None:
    cells = {name: 15 if name.startswith("lr") else 300 for name in script.CELLS}
    machine = Machine(H100)
    made = study(machine, cells, 720.0, 3)
    assert completed(machine) == ["lr_0.01", "lr_0.1", "lr_0.001", "cosine_wd_1e-2", "detached_bn"]
    assert [member.name for member in made.waiting] == ["baseline", "cosine_wd_5e-4", "cosine"]
    assert not made.failed
    assert all(process.stops == 0 for process in machine.processes)  # none was begun in vain


def test_of_two_that_cannot_both_end_the_one_with_less_makes_room(study: Studied) -> None:
    machine = Machine({1: 1.0, 2: 2.0})
    made = study(machine, {"a": 300, "b": 310}, 420.0, 2)
    assert completed(machine) == ["a"]
    (left,) = made.waiting
    assert left.name == "b"
    assert 3 <= left.done < 60  # told early
    assert machine.now - 1000 < 420  # and not begun again


def test_a_run_in_time_is_never_stopped_for_one_that_is_late_anyway(study: Studied) -> None:
    machine = Machine({1: 1.0, 2: 1.2})
    study(machine, {"hopeless": 3000, "short": 300}, 600.0, 2)
    assert completed(machine) == ["short"]
    stopped = {p.job.overrides[0]: p.stops for p in machine.processes}
    assert stopped == {"hopeless": 1, "short": 0}


def test_what_fits_only_alone_is_asked_again_when_alone(study: Studied) -> None:
    machine = Machine({1: 1.0, 2: 3.0}, compiles=5.0)
    made = study(machine, {"a": 100, "b": 100, "c": 100}, 480.0, 2)
    # Together they were slow, so that the third waited until nothing ran beside it.
    assert completed(machine) == ["a", "b", "c"]
    assert machine.processes[2].begin - 1000 > 300
    assert not made.waiting


def test_a_later_one_that_fits_is_started_before_one_that_does_not(study: Studied) -> None:
    machine = Machine({1: 1.0})
    made = study(machine, {"first": 100, "long": 500, "short": 50}, 400.0, 1)
    assert completed(machine) == ["first", "short"]
    assert [member.name for member in made.waiting] == ["long"]
    assert machine.now - 1000 < 300  # the rest of the time is given back


def test_a_start_makes_none_late_that_was_in_time(study: Studied) -> None:
    machine = Machine({1: 1.0, 2: 2.0})
    made = study(machine, {"quick": 20, "long": 300, "other": 30}, 375.0, 2)
    assert completed(machine) == ["quick", "long"]
    assert [process.stops for process in machine.processes] == [0, 0]
    assert [member.name for member in made.waiting] == ["other"]


def test_a_run_that_will_be_alone_later_counts_as_in_time(study: Studied) -> None:
    machine = Machine({1: 1.0, 2: 2.0, 3: 3.0})
    study(machine, {"first": 5, "some": 60, "long": 200, "other": 50}, 340.0, 3)
    assert completed(machine) == ["first", "some", "long"]
    assert [process.stops for process in machine.processes] == [0, 0, 0]


def test_an_epoch_with_more_beside_it_for_a_part_is_no_speed(study: Studied) -> None:
    machine = Machine({1: 10.0, 2: 20.0}, compiles=5.0)

    def fail() -> None:
        machine.processes[1].code = 1

    machine.hooks.append((115.0, fail))  # in the middle of an epoch
    made = study(machine, {"a": 9, "b": 20}, 400.0, 2)
    assert list(made.speeds[1]) == [pytest.approx(10.0, abs=1.0)] * 2


def test_the_compiling_epoch_is_no_speed(study: Studied) -> None:
    machine = Machine({1: 1.0, 2: 1.0}, compiles=100.0)
    # `second` compiles beside `long` alone, then both end: 101 seconds would be an epoch alone.
    taken = {"second": 130.0, "last": 300.0}
    study(machine, {"long": 160, "second": 30, "last": 50}, 600.0, 2, taken)
    assert completed(machine) == ["long", "second", "last"]


def test_a_start_takes_its_time(study: Studied) -> None:
    machine = Machine({1: 1.0}, compiles=100.0)
    made = study(machine, {"a": 100, "b": 100}, 330.0, 1)
    assert (completed(machine), len(machine.processes)) == (["a"], 1)
    assert [member.name for member in made.waiting] == ["b"]


def test_epochs_may_be_shorter_than_the_time_between_two_looks(study: Studied) -> None:
    machine = Machine({1: 0.05, 2: 0.05}, compiles=5.0)
    study(machine, {"a": 40, "b": 40}, 100.0, 2, {"b": 4.8})
    assert completed(machine) == ["a", "b"]


def test_when_the_time_is_up_all_save_and_go_on_by_the_same_command(
    study: Studied, script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine({1: 1.0, 2: 1.5})
    made = study(machine, {"a": 500, "b": 500}, 200.0, 2)
    assert {member.name for member in made.waiting} == {"a", "b"}
    assert "the time is up; it saves" in capsys.readouterr().out
    assert machine.now - 1000 < 205
    with tarfile.open("study.tar.gz") as archive:
        assert archive.getnames() == ["a/seed=0/metrics.jsonl", "b/seed=0/metrics.jsonl"]

    jobs, seen = made.jobs, [len(job.lines) for job in made.jobs]
    again = script.Study(jobs, machine.now + 2000, 2, Path("study.tar.gz"))
    assert [member.done for member in again.waiting] == seen
    again.run()
    assert all(job.outcome() for job in jobs)
    assert again.first > machine.compiles  # the earlier epochs are not taken for its own


def test_runs_end_when_this_process_is_gone_as_a_sweep_s_do(study: Studied) -> None:
    """However it went: each is told to watch its standard input (test_kill.py: what it does)."""
    machine = Machine({1: 1.0, 2: 1.5})
    study(machine, {"a": 3, "b": 3}, 200.0, 2)
    sweep = yaml.safe_load((ROOT / "conf" / "hydra" / "launcher" / "local.yaml").read_text())
    assert sweep["env"][WATCH_PARENT] == "1"
    assert [env[WATCH_PARENT] for env in machine.environments] == ["1", "1"]


def test_a_process_that_hangs_is_ended(study: Studied) -> None:
    machine = Machine({1: 1.0, 2: 1.5}, compiles=5.0)
    machine.hangs = True
    made = study(machine, {"ends": 20, "late": 500, "then": 20}, 100.0, 2)
    assert [process.code for process in machine.processes] == [-9, -9, -9]
    assert machine.processes[2].begin - 1000 < 40  # the first one's place is free at once
    assert 115 < machine.now - 1000 < 125  # there are 20 seconds to save
    assert [member.name for member in made.waiting] == ["late"]


def test_a_failure_is_told_and_costs_the_others_nothing(
    study: Studied, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine({1: 1.0, 2: 1.5})

    def fail() -> None:
        machine.processes[0].code = 1

    machine.hooks.append((50.0, fail))
    made = study(machine, {"a": 100, "b": 100}, 400.0, 2)
    assert (made.failed, completed(machine), len(machine.processes)) == (1, ["b"], 2)
    assert "a: FAILED: code 1, " in capsys.readouterr().out


def test_ctrl_c_saves_all_and_the_archive_is_made(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine({1: 1.0, 2: 1.5})
    jobs = [FakeJob("a", 300), FakeJob("b", 300)]
    for name in ("last.pt", ".lock", ".run.json.host.1.tmp", "run.json"):
        (jobs[0].directory / name).write_text(name)

    def interrupt() -> None:
        raise KeyboardInterrupt

    machine.hooks.append((90.0, interrupt))
    monkeypatch.setattr(script, "time", machine)
    monkeypatch.setattr(script, "JobProcess", machine.process)
    monkeypatch.setattr(script, "is_recorded", lambda job: False)
    monkeypatch.setattr(script, "list_jobs", lambda *of: jobs)
    monkeypatch.setattr(script, "find", lambda trainer: None)
    to = Path("new", "study.tar.gz")
    assert script.main(["--minutes", "20", "--at-once", "2", "--to", str(to)]) == 130
    assert [process.stops for process in machine.processes] == [1, 1]
    shown = capsys.readouterr().out
    assert "left: a, b" in shown
    with tarfile.open(to) as archive:  # without weights, locks and what is half written
        kept = ["a/seed=0/metrics.jsonl", "a/seed=0/run.json", "b/seed=0/metrics.jsonl"]
        assert archive.getnames() == kept
    assert [path.name for path in to.parent.iterdir()] == [to.name]


# The command


def test_the_order_has_every_cell_once_and_then_the_next_seed(script: Any) -> None:
    assert {path.stem for path in (ROOT / "conf" / "cell").glob("*.yaml")} == set(script.CELLS)
    jobs = script.list_jobs(script.CELLS, [0, 1], [])
    names = [script.Member(job).name for job in jobs]
    assert names == [f"cell={cell} seed={seed}" for seed in (0, 1) for cell in script.CELLS]
    short = script.list_jobs(script.CELLS, [0], TINY)
    assert len(short) == 7  # of equal length, lr_0.01 and baseline are one


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--cells", "lr_1"], 2, "invalid choice: 'lr_1' (choose from 'lr_0.01', "),
        (["--minutes", "0.4"], 2, "--minutes=0.4: must be 0.5 to 100000"),
        (["--minutes", "1e9"], 2, "--minutes=1000000000.0: must be 0.5 to 100000"),
        (["--minutes", "nan"], 2, "--minutes=nan: must be 0.5 to 100000"),
        (["--minutes", "soon"], 2, "argument --minutes: invalid float value: 'soon'"),
        (["--to", "study.zip"], 2, "--to=study.zip: must be a file *.tar.gz"),
        (["--to", "file/study.tar.gz"], 1, "--to=file/study.tar.gz can't be written: "),
        (["--to", f"{240 * 'x'}.tar.gz"], 1, "x.tar.gz can't be written: "),  # nor beside it
        (["--at-once", "0"], 2, "--at-once=0: must be 1 or more"),
        (["--seeds", "-1"], 2, "seed=-1: must be"),
        (["--", "optimizer.lrr=1"], 2, "optimizer.lrr is not a key"),
        (["--", "optimizer.lr=1,2"], 2, "optimizer.lr=1,2 has several values"),
        (["--", "seed=1"], 2, "seed=…: must be left to --cells and --seeds"),
        (["--", "trainer.device=cuda:99"], 2, "trainer.device=cuda:99 is not here"),
        (["--", "data.root=none", "data.download=false"], 1, "there is no CIFAR-10 in "),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_trained(
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    Path("file").write_text("")
    monkeypatch.setattr(script, "JobProcess", None)
    usual = ["--minutes", "5", "--to", "study.tar.gz", "--cells", "cosine", "--seeds", "0"]
    assert script.main([*usual, *arguments]) == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert not list(Path().glob("*.tar.gz"))


def test_a_committed_record_counts_in_the_precision_of_this_machine(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = script.list_jobs(["lr_0.01"], [0], [])
    assert script.is_recorded(job)  # on a CPU: in that with which the run's record begins
    fp32 = SimpleNamespace(precision="fp32")
    monkeypatch.setattr(script, "resolve", lambda *of: fp32)
    assert not script.is_recorded(job)
    (other,) = script.list_jobs(["lr_0.01"], [1], [])
    assert not script.is_recorded(other)


def test_a_run_is_trained_packed_and_not_trained_again(
    script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--minutes", "9", "--to", "study.tar.gz", "--cells", "cosine", "--seeds", "3"]
    command += ["--", *TINY]
    assert script.main(command) == 0
    shown = capsys.readouterr().out
    assert "1 runs, 0 recorded before" in shown
    assert "cell=cosine seed=3: completed (val " in shown
    assert ", 2 of 2 epochs, " in shown
    with tarfile.open("study.tar.gz") as archive:
        names = {Path(name).name for name in archive.getnames()}
    assert {"run.json", "metrics.jsonl", "predictions.npz", "config.yaml"} <= names
    assert not [name for name in names if name.endswith((".pt", ".lock"))]

    Path("study.tar.gz").unlink()
    assert script.main(command) == 0
    assert "1 runs, 1 recorded before" in capsys.readouterr().out
    with tarfile.open("study.tar.gz") as archive:  # it is carried again
        assert {Path(name).name for name in archive.getnames()} == names


# The kit

linux = pytest.mark.skipif(shutil.which("setsid") is None, reason="needs Linux's shell tools")


def kit(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`kit.sh` on a made-up machine that has the packages already."""
    (folder / "w" / "site").mkdir(parents=True, exist_ok=True)
    where = {"PATH": os.environ["PATH"], "W": str(folder / "w"), "OUT": str(folder / "out")}
    script = [str(ROOT / "experiments" / "gpu" / "kit.sh"), *command.split()]
    return subprocess.run(
        ["bash", *script],
        cwd=folder,
        env=where | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@linux
def test_the_kit_joins_the_data_and_gives_back_small_files(tmp_path: Path) -> None:
    parts, w = tmp_path / "build" / "kit" / "data", tmp_path / "w"
    parts.mkdir(parents=True)
    for name in ("part.aa", "part.ab"):  # each comes with a command, the second twice
        (parts / name).write_text(name)
        assert kit("data", tmp_path).returncode == 0
        (parts / "part.aa").unlink(missing_ok=True)
    assert kit("data", tmp_path).returncode == 0
    assert (w / "data" / "cifar-10-python.tar.gz").read_text() == "part.aapart.ab"

    content = os.urandom(1 << 20) * 17
    for cell in ("cosine-1", "baseline-2"):
        (w / "runs" / cell / "seed=0").mkdir(parents=True)
        (w / "runs" / cell / "seed=0" / "last.pt").write_text(cell)
    (w / "study.tar.gz").write_bytes(content)
    (w / "study.log").write_text("left: nothing")
    with subprocess.Popen(["true"]) as ended:
        pass
    (w / "study.pid").write_text(str(ended.pid))
    done = kit("collect 30", tmp_path, WEIGHTS="baseline-*")
    assert done.returncode == 0, done.stderr
    assert "left: nothing" in done.stdout
    back = sorted((tmp_path / "out").iterdir())
    assert [x.name for x in back] == [
        *("last.pt.aa", "study.log", "study.tar.gz.aa", "study.tar.gz.ab"),
    ]
    assert back[0].read_text() == "baseline-2"
    assert b"".join(path.read_bytes() for path in back[2:]) == content
    assert max(path.stat().st_size for path in back) < 16 << 20


@linux
def test_the_kit_says_what_it_can_do(tmp_path: Path) -> None:
    page = (ROOT / "experiments" / "gpu" / "README.md").read_text()
    named = set(re.findall(r"kit\.sh (\w+)", page))
    wrong = kit("start", tmp_path)
    assert wrong.returncode == 2
    assert named == set(re.findall(r"(?:kit\.sh|\|) (\w+)", wrong.stdout))
    assert "OUT: set it" in kit("look", tmp_path, OUT="").stderr
