"""The launcher as Hydra uses it: options, how many jobs at once, plan, what it gives back."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hydra.errors import HydraException
from omegaconf import DictConfig

from hydra_plugins.local_pool import AtOnce, Job, JobSource, Outcome, SweepFailed
from hydra_plugins.local_pool.launcher import LocalPool, visible_devices

from .conftest import ROOT
from .hydra_toy import Sweep
from .toys import work

WORK = """
import json, os, sys, time
start = time.time()
time.sleep(0.5)
seen = [os.environ["OMP_NUM_THREADS"], os.environ.get("A_WORD"), start, time.time()]
open(sys.argv[1], "w").write(json.dumps(seen))
"""


class Port(Job):
    """A job for each `first.port`, which must be below 10."""

    asked: ClassVar[list[tuple[list[str], int]]] = []
    share = AtOnce(1)

    def __init__(self, config: DictConfig, overrides: Sequence[str]) -> None:
        super().__init__(config, overrides)
        self.path = Path(f"port={config.first.port}")
        if config.first.port >= 10:
            raise ValueError("ports are below 10")

    @property
    def key(self) -> str:
        return str(self.path)

    label = key

    def command(self) -> list[str]:
        return [sys.executable, "-S", "-c", WORK, str(self.path)]

    def outcome(self) -> Outcome | None:
        return Outcome(self.config.first.port, "done") if self.path.is_file() else None

    @classmethod
    def cpus(cls) -> int:
        return 4

    @classmethod
    def at_once(cls, jobs: Sequence[Job], cpus: int) -> AtOnce:
        cls.asked.append(([job.key for job in jobs], cpus))
        return cls.share

    @classmethod
    def answer(cls, jobs: Sequence[Job]) -> None:
        print("the answer:", *[job.key for job in jobs])


class ForkedPort(Port):
    """One that can be forked."""

    entry = f"{__name__}:serve"

    def handed(self) -> str:
        return f"{self.path} ends\n"


def serve() -> int:
    return work()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Port, "asked", [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def options(**changed: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "devices": "auto", "jobs_per_device": "auto", "threads": 0, "minutes": 0.0,
        "progress": "plain", "plan": False, "job": f"{__name__}.Port", "env": {},
    }  # fmt: skip
    return values | changed


def make_launcher(sweep: Sweep, **changed: Any) -> LocalPool:
    launcher = LocalPool(**options(**changed))
    config, context = sweep()
    launcher.setup(hydra_context=context, task_function=lambda config: None, config=config)
    return launcher


def ports(*numbers: int) -> list[list[str]]:
    return [[f"first.port={number}"] for number in numbers]


def read_seen(port: int) -> list[Any]:
    return list(json.loads(Path(f"port={port}").read_text()))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"jobs_per_device": 0}, "jobs_per_device=0: must be auto, or 1 to 1024"),
        ({"jobs_per_device": "many"}, "jobs_per_device=many: must be"),
        ({"devices": [0, 0]}, "different device numbers"),
        ({"devices": []}, "different device numbers"),
        ({"devices": 3}, "a list of different device numbers"),
        ({"threads": -1}, "threads=-1: must be 0 to 1024"),
        ({"minutes": -1}, "minutes=-1: must be 0 or more"),
        ({"minutes": float("inf")}, "minutes=inf: must be"),
        ({"progress": "loud"}, "auto, live, plain, quiet"),
    ],
)
def test_options_out_of_range_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(HydraException, match=rf"hydra\.launcher\..*{said}"):
        LocalPool(**options(**changed))


def test_cpus_are_those_of_the_process_and_no_more_than_openmp_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    for said, cpus in (("", 3), ("2", 2), ("8", 3), ("0", 3), ("2,1", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert Job.cpus() == cpus
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert Job.cpus() == 5
    assert Job.at_once([], 5) == AtOnce(1, 0)


def test_what_is_launched_comes_back_in_order_and_equal_jobs_are_one(
    sweep: Sweep,
    capfd: pytest.CaptureFixture[str],
) -> None:
    launcher = make_launcher(sweep, env={"A_WORD": "said"})
    results = launcher.launch(ports(3, 4, 3), 0)
    assert [result.return_value for result in results] == [3, 4, 3]
    out = capfd.readouterr().out
    assert "2 runs: 0 done before, 2 to do, 1 at once" in out
    assert "the answer: port=3 port=4" in out
    assert [read_seen(3)[:2], read_seen(4)[:2]] == [["4", "said"]] * 2
    assert [r.return_value for r in make_launcher(sweep).launch(ports(3, 4), 0)] == [3, 4]
    assert "2 done before, 0 to do" in capfd.readouterr().out


def test_the_number_at_once_is_asked_for_at_the_start_and_sets_the_threads(
    sweep: Sweep,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Port, "share", AtOnce(2, 3))
    Path("port=1").write_text("")
    make_launcher(sweep).launch(ports(1, 2, 3, 4, 5, 6), 0)
    assert Port.asked == [([f"port={n}" for n in (2, 3, 4, 5, 6)], 4)]
    seen = [read_seen(port) for port in (2, 3, 4, 5, 6)]
    assert {threads for threads, *_ in seen} == {"2"}
    at_once = [sum(s <= mine < e for _, _, s, e in seen) for _, _, mine, _ in seen]
    assert max(at_once) == 3  # the last ones
    assert max(at_once[:2]) == 2
    assert "5 to do, 2 at once" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("changed", "numbers", "said"),
    [
        ({"devices": [0]}, (1, 2), "1 at once"),
        ({"threads": 2}, (1, 2), "1 at once"),
        ({}, (1,), "1 at once"),
        ({"jobs_per_device": 2}, (1, 2), "2 at once"),
        ({"jobs_per_device": 2, "devices": [0, 1]}, (1, 2), "4 at once"),
    ],
)
def test_nothing_is_asked_where_the_number_is_settled(
    sweep: Sweep,
    capfd: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    numbers: tuple[int, ...],
    said: str,
) -> None:
    make_launcher(sweep, **changed).launch(ports(*numbers), 0)
    assert Port.asked == []
    assert said in capfd.readouterr().out
    threads = str(changed.get("threads", 4 // min(len(numbers), int(said[0]))))
    assert read_seen(1)[0] == threads


def test_the_plan_says_what_would_be_done_and_does_nothing(
    sweep: Sweep,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Port, "share", AtOnce(2))
    before = set(os.listdir())
    with pytest.raises(SystemExit) as ended:
        make_launcher(sweep, plan=True).launch(ports(3, 4), 0)
    assert ended.value.code == 0
    assert capfd.readouterr().out.splitlines() == ["port=3", "port=4", "2 jobs on 2 × 2 threads"]
    assert set(os.listdir()) == before


def test_the_whole_grid_is_refused_with_one_bad_job(sweep: Sweep) -> None:
    before = set(os.listdir())
    with pytest.raises(ValueError, match="below 10"):
        make_launcher(sweep).launch(ports(3, 10), 0)
    assert set(os.listdir()) == before


def test_a_failure_is_raised_where_its_result_is_asked_for(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("port=4").mkdir()
    good, bad = make_launcher(sweep, progress="quiet").launch(ports(3, 4), 0)
    assert re.fullmatch(r"failed: port=4: .+\n", capfd.readouterr().out)  # quiet, and yet said
    assert good.return_value == 3
    with pytest.raises(SweepFailed, match="1 of 2 runs failed"):
        _ = bad.return_value


@pytest.mark.skipif(sys.platform != "linux", reason="no fork server here")
def test_several_jobs_on_a_cpu_are_forked_others_are_programs(sweep: Sweep) -> None:
    job = {"job": f"{__name__}.ForkedPort"}
    make_launcher(sweep, **job).launch(ports(1, 2), 0)
    make_launcher(sweep, **job).launch(ports(3), 0)
    make_launcher(sweep, **job, devices=[0]).launch(ports(4, 5), 0)
    seen = [Path(f"port={port}.seen").exists() for port in (1, 2, 3, 4, 5)]
    assert seen == [True, True, False, False, False]
    environment = json.loads(Path("port=1.seen").read_text())["environment"]
    assert environment["OMP_NUM_THREADS"] == "4"


def test_a_source_s_jobs_are_run_until_it_has_none(sweep: Sweep) -> None:
    class Ports(JobSource):
        kind, total, before = Port, 3, 1

        def __init__(self, launcher: LocalPool) -> None:
            from hydra_plugins.local_pool._grid import make_jobs

            assert launcher.config is not None
            assert launcher.context is not None
            self.jobs = make_jobs(Port, launcher.config, launcher.context, ports(1, 2))
            self.ends: list[Any] = []

        def next(self) -> Job | None:
            return self.jobs.pop(0) if self.jobs else None

        def label(self, job: Job) -> str:
            return job.label

        def stop(self, job: Job) -> str:
            return ""

        def ended(self, job: Job, outcome: Outcome) -> None:
            self.ends.append(outcome.value)

        def stopped(self, job: Job) -> None:
            raise AssertionError

    launcher = make_launcher(sweep, jobs_per_device=2)
    source = Ports(launcher)
    launcher.search(source)
    assert sorted(source.ends) == [1, 2]


def test_devices_are_those_this_process_may_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert visible_devices("auto") == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_devices("auto") == ["2", "5"]
    assert visible_devices([7]) == ["7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", " GPU-1f , MIG-2e,3")
    assert visible_devices("auto") == ["GPU-1f", "MIG-2e", "3"]
    for none in ("", "-1", "NoDevFiles", "none", "x", ",0", "-1,0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert visible_devices("auto") == [""]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,-1,1")  # as CUDA reads it: only the first
    assert visible_devices("auto") == ["0"]


@pytest.mark.parametrize("said", ["abc", "", "0", "-1", "1.5", "²", "9" * 5000, "1,2"])
def test_threads_that_are_no_number_are_no_limit(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    free = Job.cpus()
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert Job.cpus() == free


def test_the_plugins_and_these_tests_know_nothing_of_the_project() -> None:
    project = "_".join(["resnet", "cifar"])
    folders = [ROOT / "hydra_plugins", Path(__file__).parent]
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.partition(".")[0] == project], path
        assert project not in path.read_text(), path


def test_the_readme_s_example_works_as_written(tmp_path: Path) -> None:
    text = (ROOT / "hydra_plugins" / "README.md").read_text()
    for name, language in (("program.py", "python"), ("config.yaml", "yaml")):
        block = text.split(f"```{language}\n# {name}\n")[1].split("```")[0]
        (tmp_path / name).write_text(block)
    line = next(line for line in text.splitlines() if line.startswith("python program.py -m"))
    command = [sys.executable, *line.partition(" #")[0].split()[1:]]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for said in ("3 runs: 3 done", "3 runs: 3 done before, 0 to do"):
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    assert not (tmp_path / "multirun").exists()
