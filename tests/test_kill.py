"""SIGKILL at arbitrary moments, and two processes on one run. Real processes, real signals."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY

from resnet_cifar.config import compose
from resnet_cifar.identity import run_directory

# A forked copy of a process that has torch loaded already: a run costs half a second, not four.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["resnet_cifar.run", "tests.test_kill"])

MANY = [*TINY, "trainer.epochs=4", "trainer.checkpoint_seconds=0.02"]


def train_in(folder: str, overrides: list[str], log: str) -> None:
    """What a process does: `python train.py <overrides>` in `folder`, its output in `log`."""
    os.chdir(folder)
    os.environ["HYDRA_MAIN_MODULE"] = "__main__"  # train.py is a script, not a module here
    with open(log, "w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        sys.path.insert(0, str(ROOT))
        import train
        from resnet_cifar import cli

        sys.argv = ["train.py", *overrides]
        train.register()
        code = cli.guard(train.main)
    os._exit(code)


def start(folder: Path, overrides: list[str], log: str = "log"):
    process = CONTEXT.Process(target=train_in, args=(str(folder), overrides, log))
    process.start()
    return process


def metrics(folder: Path, overrides: list[str]) -> list[dict]:
    text = (folder / run_directory(compose(overrides)) / "metrics.jsonl").read_text()
    parsed = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("speed/")} for line in parsed]


def campaign(tmp_path: Path, kills: int, seed: int) -> None:
    """Kill a run while it trains, again and again: it ends with the bits of an undisturbed one.

    A run that gets through between two kills is compared, and the next one begins.
    """
    for name in ("warm-up", "undisturbed"):  # the first also starts the server that forks
        (tmp_path / name).mkdir()
        began = time.monotonic()
        process = start(tmp_path / name, MANY)
        process.join(120)
        assert process.exitcode == 0, (tmp_path / name / "log").read_text()
        whole = time.monotonic() - began

    source = random.Random(seed)
    made = lives = 0
    while True:
        folder = tmp_path / f"disturbed-{lives}"
        folder.mkdir(exist_ok=True)
        process = start(folder, MANY)
        process.join(source.uniform(0.1, 0.9) * whole if made < kills else 120)
        if process.is_alive():
            process.kill()
            process.join()
            made += 1
            record = folder / run_directory(compose(MANY)) / "run.json"
            if record.exists():
                json.loads(record.read_text())  # whole at every instant
            continue
        assert process.exitcode == 0, (folder / "log").read_text()
        assert metrics(folder, MANY) == metrics(tmp_path / "undisturbed", MANY)
        lives += 1
        if made >= kills:
            return


def test_three_kills(tmp_path: Path) -> None:
    campaign(tmp_path, kills=3, seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(int(os.environ.get("SOAK_CAMPAIGNS", "3"))))
def test_twenty_kills(tmp_path: Path, seed: int) -> None:
    campaign(tmp_path, kills=20, seed=seed)


def test_two_processes_on_one_run_one_trains(tmp_path: Path) -> None:
    both = [start(tmp_path, MANY, f"log{i}") for i in range(2)]
    for process in both:
        process.join(120)
    logs = sorted((tmp_path / f"log{i}").read_text() for i in range(2))
    assert [process.exitcode for process in both] == [0, 0], logs
    record = json.loads((tmp_path / run_directory(compose(MANY)) / "run.json").read_text())
    assert record["status"] == "completed"
    assert len(record["sessions"]) == 1
    assert sum("epoch 4/4" in log for log in logs) == 1
    assert sum("completed meanwhile" in log or "completed before" in log for log in logs) == 1


def test_the_waiting_process_takes_over_when_the_first_is_killed(tmp_path: Path) -> None:
    long = [*MANY, "trainer.epochs=12"]
    first = start(tmp_path, long, "log0")
    metrics_file = tmp_path / run_directory(compose(long)) / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics_file.exists() and metrics_file.read_text().count("\n") >= 1):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGSTOP)  # holds its lock, and does not end before its time
    second = start(tmp_path, long, "log1")
    while (
        "waiting" not in (tmp_path / "log1").read_text() if (tmp_path / "log1").exists() else True
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.kill()
    second.join(120)
    assert second.exitcode == 0
    assert len(metrics(tmp_path, long)) == 12


@pytest.mark.parametrize("how", [[], ["-m", "seed=0"]])
def test_a_run_whose_reader_goes_away_is_trained_all_the_same(
    tmp_path: Path, how: list[str]
) -> None:
    """`python train.py | head -1`, or a launcher that was killed: nobody reads standard output."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(ROOT / "train.py"), *TINY, *how]
    ended = subprocess.run(
        command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120
    )
    os.close(writer)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    record = json.loads((tmp_path / run_directory(compose(TINY)) / "run.json").read_text())
    assert record["status"] == "completed"
