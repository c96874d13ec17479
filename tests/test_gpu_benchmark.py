"""The benchmark of a GPU: on a CPU, where nothing is captured; and its clock, with made-up work."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing.forkserver
import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from gpu_work import made_up

from benchmarks import gpu, streams
from resnet_cifar.compute import captured, device
from resnet_cifar.config.compose import compose
from resnet_cifar.training.engine import Engine
from resnet_cifar.training.interrupt import Interrupt
from resnet_cifar.training.live import Display
from resnet_cifar.training.run import assemble


@pytest.fixture(autouse=True)
def _processes_begin_anew() -> Iterator[None]:
    """They are forked from one that another test may have begun, with other imports."""
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    yield
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up work needs no torch, and no MPS of this machine's."""
    monkeypatch.setattr(gpu, "PRELOAD", ["gpu_work"])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def end_soon(pids: Sequence[int]) -> bool:
    """True when none of these processes is left; one that was killed may take a moment."""
    patience = time.monotonic() + 5
    while any(map(lives, pids)) and time.monotonic() < patience:
        time.sleep(0.02)
    return not any(map(lives, pids))


def gone(entries: Sequence[dict[str, Any]]) -> bool:
    """True when no process of these entries is left."""
    pids = [int(pid) for e in entries for note in e.get("notes", ()) for pid in note.split()[:2]]
    assert pids
    return end_soon(pids)


def start(tmp_path: Path, *words: str, seconds: float = 30) -> int:
    """The command with made-up work; its files go to `tmp_path`."""
    out = f"--out={tmp_path / 'new' / 'gpu.json'}"
    return gpu.main([f"--seconds={seconds}", "--each=0.1", out, *words], work=made_up)


def read(tmp_path: Path) -> list[dict[str, Any]]:
    found = json.loads((tmp_path / "new" / "gpu.json").read_text())
    entries: list[dict[str, Any]] = found["entries"]
    return entries


@pytest.mark.usefixtures("light")
def test_a_mode_that_fails_leaves_the_others_their_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "SHARE", 0.05)
    seen: list[int] = []
    write = gpu.write_json

    def write_and_read(path: Path, value: object) -> None:
        write(path, value)
        seen.append(sum(len(entry) for entry in read(tmp_path)))

    monkeypatch.setattr(gpu, "write_json", write_and_read)
    how = ["eager=hang", "captured-compiled=crash", "compiled=raise", "untuned=hang at the end"]
    words = ["--runs", "1", "2", "--", *(f"do.{each}" for each in how)]
    assert start(tmp_path, *words, seconds=80) == 0
    entries = {(e["mode"], e["runs"], e["by"]): e for e in read(tmp_path)}
    problems = {key: e.get("error") or e.get("skipped") for key, e in entries.items()}
    assert list(problems.items()) == [
        (("captured", 1, "processes"), None),
        (("captured", 2, "streams"), None),
        (("captured", 2, "processes"), None),
        (("captured-compiled", 1, "processes"), "its process died (exit code -11)"),
        (("captured-compiled", 2, "streams"), "not started: its mode failed alone"),
        (("captured-compiled", 2, "processes"), "not started: its mode failed alone"),
        (("compiled", 1, "processes"), "ValueError: out of memory"),
        (("compiled", 2, "processes"), "not started: its mode failed alone"),
        (("eager", 1, "processes"), "not done in its time, ended"),
        (("eager", 2, "processes"), "not started: its mode failed alone"),
        (("untuned", 1, "processes"), "not done in its time, ended"),
        (("untuned", 2, "streams"), None),
        (("untuned", 2, "processes"), None),
    ]
    alone, both = entries["captured", 1, "processes"], entries["captured", 2, "processes"]
    assert (alone["images_per_second"], both["images_per_second"]) == (100, 200)
    assert (alone["validation_images_per_second"], len(both["notes"])) == (1000, 2)
    assert (tmp_path / "new" / "gpu.captured.txt").read_text() == "kernels of captured"
    assert alone["machine"]["card"] == "a card"
    # What came before an entry failed is kept, and every figure was saved when it came.
    assert entries["untuned", 1, "processes"]["images_per_second"] == 100
    assert entries["eager", 1, "processes"]["first_epoch_seconds"] == [0.1]
    assert seen == sorted(seen)
    assert len(set(seen)) > 20
    assert gone(read(tmp_path))
    table = capsys.readouterr().out
    assert "| captured | 2 | processes | 200 | 100 to 100 | 1 | 0.1 |  | 5 | " in table
    assert "| compiled | 2 | processes |  |  |  |  |  |  | not started: its mode failed" in table
    assert table.count("\n| ") == 1 + len(entries)


@pytest.mark.usefixtures("light")
def test_it_ends_at_its_time(tmp_path: Path) -> None:
    begun = time.monotonic()
    assert start(tmp_path, "--modes", "compiled", "--", "do.compiled=hang", seconds=4) == 0
    assert 4 < time.monotonic() - begun < 8
    hung, *others = read(tmp_path)
    assert hung["error"] == "not done in its time, ended"
    assert len(others) == 2
    assert all("skipped" in entry for entry in others)
    assert gone([hung])


@pytest.mark.usefixtures("light")
def test_ctrl_c_leaves_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def press() -> None:
        while True:
            time.sleep(0.02)
            with contextlib.suppress(OSError, LookupError):
                if read(tmp_path)[1]["first_epoch_seconds"]:
                    return os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist ignores it
    threading.Thread(target=press, daemon=True).start()
    try:
        assert start(tmp_path, "--runs=1", "--", "do.captured-compiled=hang") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr()
    assert said.err == "interrupted\n"
    assert "| captured-compiled | 1 | processes |  |  |  | 0.1 |  |  | " in said.out
    whole, begun = read(tmp_path)
    assert whole["images_per_second"] == 100
    assert begun["error"] == "KeyboardInterrupt"
    assert gone([whole, begun])


CONTROL = """#!/bin/sh
echo "$@ $(test "$1" || cat)" >> "$CUDA_MPS_PIPE_DIRECTORY.log"
pid="$CUDA_MPS_PIPE_DIRECTORY/nvidia-cuda-mps-control.pid"
test "$1" && test -e "$0.broken" && exit 1
test "$1" && { sleep 100 & echo $! > "$pid"; exit 0; }
test -e "$0.works" && kill $(cat "$pid") && rm "$pid"
"""


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("how", ["works", "hangs", "broken"])
def test_mps_lives_as_long_as_its_entry(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a daemon that does not end when it is told to, or one that does not start."""
    control, broken = tmp_path / gpu.CONTROL, how == "broken"
    control.write_text(CONTROL)
    control.chmod(0o755)
    (tmp_path / f"{gpu.CONTROL}.{how}").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    daemons = []
    with contextlib.suppress(subprocess.CalledProcessError), gpu.folder(gpu.MPS) as place:
        daemons.append(int(Path(place, f"{gpu.CONTROL}.pid").read_text()))
        assert lives(daemons[0])
    assert len(daemons) == (not broken)
    assert end_soon(daemons)
    (log,) = tmp_path.glob("*.log")
    assert log.read_text() == "-d \n quit -t 2\n"

    assert start(tmp_path, "--modes=captured", "--runs=2") == 0
    streams, mps, processes = read(tmp_path)
    assert [entry.get("error", "")[:18] for entry in (streams, mps, processes)] == [
        *("", "CalledProcessError" if broken else "", "")
    ]
    # Runs of an entry go to one daemon, and the others' to none.
    places = [{note.split()[2] for note in e.get("notes", ())} for e in (streams, mps, processes)]
    assert [len(each) for each in places] == [1, 1 - broken, 1]
    assert len(list(tmp_path.glob("*.log"))) == 2
    assert all(Path(f"{each}.log").exists() for each in places[1])


@pytest.mark.parametrize(
    ("entry", "left", "reason"),
    [
        (gpu.Entry("captured", 3, "streams"), 7, None),
        (gpu.Entry("captured", 3, "streams"), 5, "not started: takes about 6 s, 5 s are left"),
        (gpu.Entry("compiled", 1, "processes"), 5, None),  # new: as long as the shortest, at least
        (gpu.Entry("compiled", 1, "processes"), 3, "not started: takes about 4 s, 3 s are left"),
        (gpu.Entry("eager", 2, "processes"), 99, "not started: its mode failed alone"),
        (gpu.Entry("captured-compiled", 3, "processes"), 13, None),  # as its last, not its longest
        (
            gpu.Entry("captured-compiled", 2, "MPS"),
            11,
            "not started: takes about 12 s, 11 s are left",
        ),
        (gpu.Entry("captured-compiled", 3, "processes"), 0, "not started: no time is left"),
    ],
)
def test_nothing_is_started_that_cannot_end(
    entry: gpu.Entry, left: float, reason: str | None
) -> None:
    figures = {"of_each": [1.0], "first_epoch_seconds": [3.0, 8.0]}
    before = [
        {"mode": "captured", "runs": 1, "seconds": 4.0, **figures},
        {"mode": "captured", "runs": 3, "seconds": 6.0, **figures},
        {"mode": "captured", "runs": 2, "seconds": 0.0, "skipped": "no time"},
        {"mode": "eager", "runs": 1, "seconds": 1.0, "error": "out of memory"},
        {"mode": "captured-compiled", "runs": 1, "seconds": 50.0, **figures},
        {"mode": "captured-compiled", "runs": 3, "seconds": 20.0, **figures},
        {"mode": "captured-compiled", "runs": 2, "seconds": 9.0, "error": "died"},
    ]
    assert gpu.reason_to_skip(entry, before, left) == reason


def test_order() -> None:
    """By modes, numbers in between and what matters least last; streams where it is captured."""
    modes = list(gpu.MODES)
    order = gpu.plan(modes, [2, 1, 3, 3], mps=True)
    assert len(order) == len(set(order)) == 5 + 2 * (3 * 3 + 2 * 2)
    assert order[:5] == [
        ("captured", 1, "processes"),
        ("captured", 3, "streams"),
        ("captured", 3, "MPS"),
        ("captured", 3, "processes"),
        ("captured-compiled", 1, "processes"),
    ]
    groups = [
        (mode, between)
        for (mode, between), _ in itertools.groupby(
            order, key=lambda entry: (entry.mode, entry.runs == 2)
        )
    ]
    main, extra = modes[:3], modes[3:]
    assert groups == [(m, two) for some in (main, extra) for two in (False, True) for m in some]
    assert {entry.mode for entry in order if entry.by == "streams"} == {
        *("captured", "captured-compiled", "untuned")
    }
    few = gpu.plan(modes, [2], mps=False)
    assert {entry.by for entry in few} == {"streams", "processes"}


SMALL = ("model.width=2", "trainer.batch_size=4")


def test_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of it with a tiny network; and in one line why it was not done."""
    out = tmp_path / "new" / "gpu.json"
    common = ["--seconds=200", "--each=0.2", "--modes=captured", f"--out={out}"]
    for words, message in (
        ([], "no CUDA device is here; --dry-run plays everything on the CPU"),
        (["--dry-run", "--", "model.width=0"], "model.width=0: must be 1 to 1024"),
    ):
        if words or not torch.cuda.is_available():
            assert gpu.main([*common, *words]) == 2
            said = capsys.readouterr()
            assert (said.out, said.err) == ("", f"error: {message}\n")
            assert not out.parent.exists()

    assert gpu.main([*common, "--dry-run", "--runs", "1", "2", "--", *SMALL]) == 0
    alone, streams, processes = read(tmp_path)
    assert not [e for e in (alone, streams, processes) if {"error", "skipped"} & e.keys()]
    assert [(e["runs"], e["by"]) for e in (alone, streams, processes)] == [
        *((1, "processes"), (2, "streams"), (2, "processes"))
    ]
    for entry in (alone, streams, processes):
        # Of whole epochs of 4 batches of 4.
        rates = [16 / statistics.median(epochs) for epochs in entry["epoch_seconds"]]
        assert entry["of_each"] == pytest.approx(rates)
        assert entry["images_per_second"] == pytest.approx(sum(rates))
        assert len(rates) == len(entry["first_epoch_seconds"]) == entry["runs"]
        assert not entry["notes"]
        assert entry["machine"].keys() >= {"card", "driver", "torch", "cudnn"}
    assert alone["validation_images_per_second"] > 0
    assert "aten::convolution" in (tmp_path / "new" / "gpu.captured.txt").read_text()


def test_runs_at_once_are_the_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads, captured steps (which Python runs here), three epochs: the same bits."""
    monkeypatch.setattr(captured, "obstacle", lambda *of: None)
    config = compose([*TINY, "model.width=8", "trainer.deterministic=false"])
    compute = device.resolve(config.trainer)
    split = config.data.load()

    def build() -> Engine:
        directory = Path(tempfile.mkdtemp(dir=tmp_path))
        return assemble(config, directory, compute, split, Display("quiet"), Interrupt())

    with device.settings(compute, deterministic=False):
        runs = [streams.StreamedRun(None, build) for _ in range(3)]
        *both, alone = runs
        counts = itertools.count()
        trained = streams.train_at_once(both, lambda: next(counts) >= 0)
        alone.train()
    assert [len(epochs) for epochs in trained] == [1, 1]
    assert [run.epoch for run in runs] == [streams.WARM_UP + 1] * 3
    for run in both:
        for mine, its in zip(
            *(r.engine.model.state_dict().values() for r in (run, alone)), strict=True
        ):
            assert torch.equal(mine, its)


def test_seconds_are_of_whole_epochs_in_which_all_train() -> None:
    """The last epoch, in which others may have stopped, does not count; the device's work does."""
    waited: list[str] = []

    class Slow:
        """An engine whose device is still at work when an epoch returns."""

        compute = property(lambda self: self)
        state = property(lambda self: self)

        def train_epoch(self, epoch: int) -> None:
            waited.append("launched")

        def end_epoch(self) -> None:
            pass

        def synchronize(self) -> None:
            if waited and waited[-1] == "launched":
                time.sleep(0.02)
                waited.append("done")

    run = streams.StreamedRun(None, Slow)  # type: ignore[arg-type]
    answers = iter([False, False, True])
    seconds = run.train_until(lambda: next(answers))
    assert len(seconds) == 2
    assert min(seconds) >= 0.02
    assert waited == ["launched", "done"] * (streams.WARM_UP + 3)
    assert len(run.train_until(lambda: True)) == 1
