"""SIGKILL at arbitrary moments, and two processes on one run. Real processes, real signals."""

import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, TINY
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from test_writer import SELDOM, whole

from resnet_cifar.config.compose import compose
from resnet_cifar.identity import run_directory
from resnet_cifar.record.checkpoint import load_weights
from resnet_cifar.record.integrity import damage
from resnet_cifar.record.layout import SUMMED, leftovers
from resnet_cifar.record.schema import read_record
from resnet_cifar.sweep.job import RunJob
from resnet_cifar.training.interrupt import WATCH_PARENT

# A forked copy of a process that has torch loaded already: a run costs half a second, not four.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([*RunJob.preload, "tests.test_kill"])

MANY = [*TINY, "trainer.epochs=4", "trainer.checkpoint_seconds=0.02"]


def train_in(folder: str, overrides: list[str], log: str, die_at: int | None = None) -> None:
    """What a process does: `python train.py <overrides>` in `folder`, its output in `log`.

    Args:
        die_at: it is killed before its n-th rename or fsync.
    """
    os.chdir(folder)
    calls = itertools.count()

    def guarded(original: Any) -> Any:
        def step(*args: Any) -> Any:
            if next(calls) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args)

        return step

    os.replace, os.fsync = guarded(os.replace), guarded(os.fsync)
    with open(log, "w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        sys.path.insert(0, str(ROOT))
        from resnet_cifar.cli import train as training

        sys.argv = ["train.py", *overrides]
        code = training.main()
    Path(f"{log}.calls").write_text(str(next(calls)))
    os._exit(code)


def start(folder: Path, overrides: list[str], log: str = "log", die_at: int | None = None):
    process = CONTEXT.Process(target=train_in, args=(str(folder), overrides, log, die_at))
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


# The best epoch is one between checkpoints, and then one long before the checkpoint.
PROBED = [*TINY, *SELDOM, "probe=full"]


def everything(folder: Path) -> dict[str, Any]:
    """What a finished run must have, in a form that two equal runs share."""
    run = folder / run_directory(compose(PROBED))
    record = read_record(run)
    assert record is not None
    assert record.status == "completed"
    assert damage(run, record) == []
    assert set(SUMMED) == set(record.files)
    assert record.best is not None
    assert leftovers(run) == []
    assert not (run / "last.previous.pt").exists()
    last, best = (whole(run / name) for name in ("last.pt", "best.pt"))
    assert not any(name.startswith((".optimizer", ".best_weights")) for name in last)
    assert (last[".epoch"], best[".epoch"]) == (record.epochs, record.best["epoch"]) == (5, 2)
    events = EventAccumulator(str(run)).Reload()
    heat = [event.step for event in events.Tensors("probe/layers_by_epochs")]
    assert "_hparams_/session_end_info" in events.summary_metadata
    with np.load(run / "predictions.npz") as stored:
        predictions = {name: stored[name].tobytes() for name in stored.files}
    return {
        "metrics": metrics(folder, PROBED),
        "probe": (run / "probe.jsonl").read_text(),
        "predictions": predictions,
        "last": last,
        "best": best,
        "the best": record.best,
        "epochs in TensorBoard": [event.step for event in events.Tensors("accuracy/val")],
        "heat map": heat,
    }


def killed_at_every_write(tmp_path: Path, chosen: Callable[[int], Iterable[int]]) -> None:
    """Killed before a rename or fsync, and started again: nothing is missing or different."""
    (tmp_path / "undisturbed").mkdir()
    process = start(tmp_path / "undisturbed", PROBED)
    process.join(120)
    assert process.exitcode == 0, (tmp_path / "undisturbed" / "log").read_text()
    wanted = everything(tmp_path / "undisturbed")
    count = int((tmp_path / "undisturbed" / "log.calls").read_text())
    assert count > 20
    for at in chosen(count):
        folder = tmp_path / f"killed-{at}"
        folder.mkdir()
        process = start(folder, PROBED, die_at=at)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, (at, (folder / "log").read_text())
        run = folder / run_directory(compose(PROBED))
        if (record := read_record(run)) is not None:
            assert damage(run, record) == [], at  # what it left can be looked at
            for name, weights in (("last.pt", "last"), ("best.pt", "best")):
                if (run / name).exists():
                    assert load_weights(run, weights, record)["epoch"] <= len(
                        metrics(folder, PROBED)
                    )
        process = start(folder, PROBED)
        process.join(120)
        assert process.exitcode == 0, (at, (folder / "log").read_text())
        found = everything(folder)
        for name in wanted:
            assert found[name] == wanted[name], (at, name)


def test_killed_at_some_writes(tmp_path: Path) -> None:
    """One in the middle, and those at the end, where a run may look finished and is not."""
    source = random.Random(0)
    killed_at_every_write(
        tmp_path, lambda n: [source.randrange(n // 2), *source.sample(range(n - 12, n), 3)]
    )


@pytest.mark.soak
def test_killed_at_every_write(tmp_path: Path) -> None:
    killed_at_every_write(tmp_path, range)


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


def watched(standard_input: Connection, folder: str, overrides: list[str], log: str) -> None:
    """Train as a launcher's job does: when standard input closes, the launcher is gone."""
    sys.stdin = open(standard_input.fileno(), closefd=False)  # noqa: SIM115 (until it ends)
    os.environ[WATCH_PARENT] = "1"
    train_in(folder, overrides, log)


def test_a_job_saves_and_ends_when_its_launcher_is_gone(tmp_path: Path) -> None:
    long = [*MANY, "trainer.epochs=400"]
    theirs, ours = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=watched, args=(theirs, str(tmp_path), long, "log"))
    process.start()
    theirs.close()
    run = tmp_path / run_directory(compose(long))
    deadline = time.monotonic() + 60
    while not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    ours.close()
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM, (tmp_path / "log").read_text()
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"


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
