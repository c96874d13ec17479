"""Sweeps as people start them: real processes, real signals, one study however often disturbed."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY, Program

from hydra_plugins.local_pool.launcher import LocalPoolConf
from resnet_cifar.files import is_held
from resnet_cifar.record.schema import FINAL
from resnet_cifar.sweep.job import RunJob

# Two cells × two seeds, 4 epochs of 4 updates each.
GRID = [
    *TINY,
    *("-m", "optimizer.lr=0.01,0.1", "seed=0,1"),
    *("trainer.epochs=4", "trainer.checkpoint_seconds=0.02"),
]
RUNS = 4
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(folder: Path, *arguments: str, log: str = "log") -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    with open(folder / log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=folder,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def finish(folder: Path, *arguments: str) -> str:
    process = start(folder, *arguments, log="last")
    code = process.wait(180)
    text = (folder / "last").read_text()
    (folder / "last").unlink()
    assert code == 0, text
    return text


def results(folder: Path) -> dict[str, list[dict]]:
    """Every run's metrics, without times and speeds."""
    found = {}
    for path in sorted((folder / "outputs").glob("*/*/metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found[str(path.parent.relative_to(folder))] = [
            {k: v for k, v in line.items() if not k.startswith("speed/")} for line in lines
        ]
    return found


def records(folder: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted((folder / "outputs").glob("*/*/run.json"))]


def children(parent: int) -> list[int]:
    """The processes a process has started and that still are, and theirs: the forked jobs."""
    with contextlib.suppress(OSError):
        own = [
            int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        ]
        return [pid for child in own for pid in (child, *children(child))]
    return []


def jobs_of(sweep: int) -> list[int]:
    """The processes of a sweep that train: those that share the fork server's program, all but
    the first, which is the server; else programs of their own. Not what they start."""
    found = children(sweep)
    programs = {}
    for pid in found:
        with contextlib.suppress(OSError):  # it has ended since
            programs[pid] = Path(f"/proc/{pid}/cmdline").read_text()
    forked = [pid for pid, program in programs.items() if "multiprocessing.forkserver" in program]
    started = [pid for pid, program in programs.items() if "import train_handed" in program]
    return [*forked[1:], *started]


def state(pid: int) -> str:
    """R, S, T (stopped), Z (dead, its parent has not noticed), …; Z, too, when there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return "Z"


def alive(pid: int) -> bool:
    return state(pid) != "Z"


def killed(pid: int) -> bool:
    """SIGKILL; whether that is what it died of: it had not ended by itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: state(pid) in "TZ", "it neither stopped nor ended", 30)
        stopped = state(pid) == "T"
        os.kill(pid, signal.SIGKILL)
        return stopped
    return False


def wait_for(condition, what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    text = finish(folder, *GRID)
    assert f"{RUNS} runs: {RUNS} done" in text
    assert "lr=0.1 seed=1: started" in text
    assert " points ahead of lr=0." in text
    assert "python -m resnet_cifar report outputs\n" in text
    return folder


def test_a_sweep_and_the_same_again(undisturbed: Path) -> None:
    before = results(undisturbed)
    assert len(before) == RUNS
    assert [record["status"] for record in records(undisturbed)] == ["completed"] * RUNS
    began = time.monotonic()
    text = finish(undisturbed, *GRID)
    assert text.count("skipped, completed") == RUNS
    assert "started" not in text
    assert time.monotonic() - began < 30
    assert results(undisturbed) == before
    # Hydra has left nothing of its own.
    assert {path.name for path in undisturbed.iterdir()} <= {"outputs", "log"}


def test_a_failed_run_is_named_and_tried_again(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run directory that can't be written: the others are trained, the next time it is too."""
    grid = [*TINY, "-m", "seed=0,1", "trainer.epochs=1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    outcome = program("--plan", *grid)
    assert outcome.code == 0
    cell = next(line for line in outcome.out.splitlines() if "lr0.01" in line).split()[0]
    (tmp_path / "outputs" / cell).mkdir(parents=True)
    obstacle = tmp_path / "outputs" / cell / "seed=0"
    obstacle.write_text("a file where a directory should be")

    process = start(tmp_path, *grid)
    assert process.wait(120) == 1
    text = (tmp_path / "log").read_text()
    assert "2 runs: 1 done, 1 failed" in text
    assert f"failed: seed=0: outputs/{cell}/seed=0 can't be written" in text
    assert text.splitlines()[-1] == "error: 1 of 2 runs failed: see above"
    obstacle.unlink()
    text = finish(tmp_path, *grid)
    assert text.count("skipped") == 1
    assert "2 runs: 2 done" in text


def test_the_grid_is_refused_whole(program: Program, tmp_path: Path) -> None:
    """The first configuration is fine, the last is not: nothing has been started."""
    outcome = program(*TINY, "-m", "optimizer.lr=0.01,0.1,-1")
    assert outcome.code == 2
    assert "optimizer.lr=-1" in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("hydra.launcher.jobs_per_device=0", "hydra.launcher.jobs_per_device=0"),
        ("hydra.launcher.devices=[0,0]", "different device numbers"),
        ("hydra.launcher.devices=3", "a list of different device numbers"),
        ("hydra.launcher.threads=-1", "hydra.launcher.threads=-1"),
        ("hydra.launcher.progress=loud", "auto, live, plain, quiet"),
        ("hydra.launcher.job=nowhere.Job", "nowhere"),
        ("hydra/launcher=cloud", "hydra/launcher=cloud is not an option"),
        ("seed=range(0,-3)", "seed=range(0,-3): must give a value"),
        ("optimizer.lr=interval(0,1)", "a grid has no interval"),
        ("experiment=learning_rate,search", "experiment=search is not a grid"),
    ],
)
def test_a_launcher_that_can_t_be(program: Program, tmp_path: Path, typed: str, said: str) -> None:
    outcome = program(*TINY, "-m", "seed=0,1", typed)
    assert outcome.code != 0
    assert said in outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_single_run_refuses_them_too(program: Program, tmp_path: Path) -> None:
    outcome = program(*TINY, "hydra.launcher.minutes=-1")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "hydra.launcher.minutes=-1.0: must be 0 or more" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_several_experiments_are_the_union_of_their_grids(program: Program) -> None:
    # The two share their cell of 0.01, constant.
    grid = [*TINY, "-m", "experiment=learning_rate,schedule", "seed=0,1"]
    outcome = program(*grid, "hydra/launcher=local", "hydra.launcher.plan=true")
    assert outcome.code == 0, outcome.err
    assert "4 cells" in outcome.out
    rows = [line.split() for line in outcome.out.splitlines() if line.startswith("lr")]
    assert [row[1] for row in rows] == ["2"] * 4


QUESTION = """# @package _global_
optimizer: {lr: 0.05}
output_root: "o/${hydra:runtime.choices.scheduler}/${now:%H-%M-%S}"
hydra:
  mode: MULTIRUN
  sweeper:
    params: {seed: "0,1"}
"""


def test_a_job_has_what_was_checked_and_what_it_was_given(tmp_path: Path) -> None:
    """The question comes from a directory that is gone before a job starts.

    Each job has a GPU's number before CUDA is asked for one, and its threads.
    """
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    file = tmp_path / "mine" / "experiment" / "question.yaml"
    file.write_text(QUESTION)
    free = [override for override in TINY if not override.startswith("trainer.threads")]
    free += ["trainer.epochs=1", "data.train_size=16"]  # four threads on two cores take long
    given = ["hydra.launcher.devices=[3,7]", "hydra.launcher.threads=2"]
    process = start(tmp_path, "-cd=mine", "experiment=question", *free, *given)
    log = tmp_path / "log"
    wait_for(lambda: "to do" in log.read_text() or process.poll() is not None, "it didn't start")
    file.unlink()
    assert process.wait(120) == 0, log.read_text()
    assert "2 runs: 2 done" in log.read_text()
    assert "started on GPU 3" in log.read_text()
    runs = sorted(tmp_path.glob("o/constant/*/*/seed=*"))
    assert [path.name for path in runs] == ["seed=0", "seed=1"]
    assert len({path.parent for path in runs}) == 1  # one moment, one cell
    found = [json.loads((run / "run.json").read_text()) for run in runs]
    assert found[0]["config"]["optimizer.lr"] == 0.05
    sessions = [record["sessions"][0] for record in found]
    assert {session["visible_devices"] for session in sessions} == {"3", "7"}
    assert [session["threads"] for session in sessions] == [2, 2]


def test_interrupted_twice_and_gone_on(undisturbed: Path, tmp_path: Path) -> None:
    """By Ctrl-C, then by SIGTERM: each time all jobs save and end, and the next start goes on."""
    long = [*GRID, "hydra.launcher.jobs_per_device=2"]

    def epochs() -> int:
        return sum(record["epochs_done"] for record in records(tmp_path))

    for number in (signal.SIGINT, signal.SIGTERM):
        before = epochs()
        process = start(tmp_path, *long)
        wait_for(lambda before=before: epochs() > before, "no epoch was trained")
        jobs = children(process.pid)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        # multiprocessing's own helper of two lines ends when the sweep has.
        wait_for(lambda jobs=jobs: not any(map(alive, jobs)), "a job outlived its sweep", 5)
        text = (tmp_path / "log").read_text()
        assert text.splitlines()[-1] == "interrupted; the same command goes on"
        assert all(record["status"] in ("interrupted", *FINAL) for record in records(tmp_path))
    finish(tmp_path, *long)
    assert results(tmp_path) == results(undisturbed)


def test_two_sweeps_at_once_share_the_work(undisturbed: Path, tmp_path: Path) -> None:
    both = [start(tmp_path, *GRID, log=f"log{i}") for i in range(2)]
    texts = []
    for i, process in enumerate(both):
        code = process.wait(180)
        texts.append((tmp_path / f"log{i}").read_text())
        assert code == 0, texts
    assert all(f"{RUNS} runs: {RUNS} done" in text for text in texts)
    assert results(tmp_path) == results(undisturbed)
    # Every run was trained once, in one session, by one of the two.
    assert [len(record["sessions"]) for record in records(tmp_path)] == [1] * RUNS
    assert sum(text.count("] completed: ") for text in texts) == RUNS


def moments(seed: int, count: int, whole: float) -> Iterator[tuple[float | None, str]]:
    """When to kill what: at first the sweep, its jobs at work, then after so many seconds."""
    source = random.Random(seed)
    for number in range(count):
        pause = source.uniform(0.15, 0.9) * whole
        yield (pause if number else None), ("sweep", "job", "both")[number % 3]


def still_runs(sweep: subprocess.Popen[bytes], pause: float | None, folder: Path) -> bool:
    """False if it has ended by itself before the moment to kill it."""
    if pause is None:
        wait_for(lambda: any(r["epochs_done"] for r in records(folder)), "no epoch was trained")
        return sweep.poll() is None
    with contextlib.suppress(subprocess.TimeoutExpired):
        sweep.wait(pause)
        return False
    return True


def campaign(undisturbed: Path, tmp_path: Path, kills: int, seed: int) -> None:
    """SIGKILL of the sweep, of a job, or of both, again and again: the same study in the end."""
    whole = 15.0  # seconds, about what the grid takes
    lives = 0
    for pause, victim in moments(seed, kills, whole):
        folder = tmp_path / f"life{lives}"
        process = start(folder, *GRID, "hydra.launcher.jobs_per_device=2")
        if not still_runs(process, pause, folder):
            assert process.returncode == 0
            assert results(folder) == results(undisturbed)
            lives += 1
            continue
        jobs, trained = children(process.pid), jobs_of(process.pid)
        if victim != "job":
            process.kill()
            process.wait()
        for pid in jobs if victim == "both" else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victim == "job":
            failed = any(killed(pid) for pid in trained[:1])
            assert process.wait(180) == (1 if failed else 0)
        wait_for(lambda pids=jobs: not any(map(alive, pids)), "a job outlived its sweep", 20)
        if pause is None:  # its jobs saw that it was gone, and saved
            assert all(r["status"] in ("interrupted", *FINAL) for r in records(folder))
        # A process is a zombie some moments before its last thread has let go of its files.
        locks = list((folder / "outputs").glob("*/*/.lock"))
        wait_for(lambda files=locks: not any(map(is_held, files)), "a lock outlived its run", 5)
    folder = tmp_path / f"life{lives}"
    folder.mkdir(exist_ok=True)
    finish(folder, *GRID)
    assert results(folder) == results(undisturbed)


def test_three_kills(undisturbed: Path, tmp_path: Path) -> None:
    campaign(undisturbed, tmp_path, kills=3, seed=1)


@pytest.mark.soak
def test_twenty_kills(undisturbed: Path, tmp_path: Path) -> None:
    campaign(undisturbed, tmp_path, kills=20, seed=2)


def test_what_jobs_are_forked_from_has_only_imported() -> None:
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
        "import importlib, os, threading, torch\n"
        "asked = []\n"
        "torch._C._cuda_getDeviceCount = lambda: asked.append(1) or 0\n"
        f"for name in {list(RunJob.preload)}: importlib.import_module(name)\n"
        "print(len(os.listdir('/proc/self/task')), threading.active_count(), len(asked),"
        " torch.cuda.is_initialized(), 'torch._inductor.async_compile' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "0", "False", "False"]


def test_an_option_is_one_line_of_a_dataclass_and_one_of_yaml() -> None:
    values = yaml.safe_load((ROOT / "conf" / "hydra" / "launcher" / "local.yaml").read_text())
    fields = {field.name for field in dataclasses.fields(LocalPoolConf)} - {"_target_"}
    assert values.keys() - {"defaults"} == fields
