"""A run's files are written by a thread of their own, while the next epoch trains.

Whole and in order, of the epoch that they are called by; and what goes wrong there ends the run.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Program, Trained
from test_run import interrupt_at, lines, watch_forward

from resnet_cifar import load_model
from resnet_cifar.config.compose import compose
from resnet_cifar.files import write_atomically
from resnet_cifar.identity import run_directory
from resnet_cifar.record import checkpoint
from resnet_cifar.record.integrity import damage
from resnet_cifar.record.lines import LinesFile
from resnet_cifar.record.schema import read_record
from resnet_cifar.record.tensorboard import Board
from resnet_cifar.training.engine import Engine
from resnet_cifar.training.live import Display

# Epochs 1 and 2 are better than those before, no later one is. last.pt: after 1, after 4.
SELDOM = ["trainer.epochs=5", "trainer.checkpoint_epochs=4", "seed=4", "optimizer.lr=0.05",
          "regularization.ema_decay=0.9"]  # fmt: skip


def whole(path: Path) -> dict[str, Any]:
    """Every part of a checkpoint, in a form that two equal ones share."""
    return parts_of(torch.load(path, weights_only=True))


def parts_of(state: dict[str, Any]) -> dict[str, Any]:
    parts: dict[str, Any] = {}

    def take(value: Any, name: str) -> None:
        if isinstance(value, (dict, list)):
            for key in value if isinstance(value, dict) else range(len(value)):
                take(value[key], f"{name}.{key}")
        else:
            tensor = isinstance(value, torch.Tensor)
            parts[name] = value.contiguous().numpy().tobytes() if tensor else value

    take(state, "")
    return parts


def assert_equal_runs(run: Path, undisturbed: Path) -> None:
    record = read_record(run)
    assert record is not None
    assert record.status == "completed"
    assert damage(run, record) == []
    assert lines(run) == lines(undisturbed)
    for name in ("last.pt", "best.pt"):
        assert whole(run / name) == whole(undisturbed / name), name
    assert (run / "predictions.npz").read_bytes() == (undisturbed / "predictions.npz").read_bytes()
    assert not (run / "last.previous.pt").exists()


def directory(*overrides: str) -> Path:
    return run_directory(compose([*TINY, *overrides]))


def stop(program: Program, epoch: int, step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, epoch, step, signal.SIGTERM)
        assert program(*TINY, *SELDOM).code == 143


def without_best_weights(path: Path) -> None:
    """Leave of a checkpoint what versions wrote that kept the best weights in best.pt alone."""
    state = checkpoint.load(path)
    del state["best_weights"]
    checkpoint.save(path, state)


MEANWHILE: dict[str, Callable[[Path], None]] = {
    "nothing": lambda run: None,
    "best.pt is lost": lambda run: (run / "best.pt").unlink(),
    # As on a GPU, where epochs that are trained again have other weights.
    "best.pt is of an epoch that is trained again": lambda run: shutil.copy(
        run / "last.pt", run / "best.pt"
    ),
    "an earlier version wrote last.pt": lambda run: without_best_weights(run / "last.pt"),
}


CASES = [(at, meanwhile) for at in ((2, 2), (3, 0), (5, 1)) for meanwhile in MEANWHILE]
# The first epoch without a better one, and one long after the best.
OFTEN = [((3, 0), "best.pt is lost"), *[((5, 1), name) for name in [*MEANWHILE][2:]]]


@pytest.mark.parametrize(
    ("at", "meanwhile"),
    [pytest.param(*case, marks=[pytest.mark.soak] * (case not in OFTEN)) for case in CASES],
    ids=str,
)
def test_the_best_weights_are_those_of_an_undisturbed_run(
    program: Program, trained: Trained, at: tuple[int, int], meanwhile: str
) -> None:
    """Of an epoch long before the checkpoint that is gone on from, too."""
    stop(program, *at)
    run = directory(*SELDOM)
    best = torch.load(run / "best.pt", weights_only=True)
    assert best["epoch"] == best["best"]["epoch"] == min(at[0] - 1, 2)
    MEANWHILE[meanwhile](run)
    assert program(*TINY, *SELDOM).code == 0
    assert_equal_runs(run, trained(*SELDOM))


def test_an_earlier_version_was_killed_between_last_pt_and_best_pt(
    program: Program, trained: Trained
) -> None:
    copies: list[bytes] = []
    original = checkpoint.save_last

    def keep(run: Path, state: dict[str, Any]) -> None:
        original(run, state)
        copies.append((run / "last.pt").read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_last", keep)
        stop(program, 2, 0)
    run = directory(*SELDOM)
    write_atomically(run / "last.pt", copies[0])  # after epoch 1, the best one so far
    without_best_weights(run / "last.pt")
    (run / "best.pt").unlink()
    assert program(*TINY, *SELDOM).code == 0
    assert_equal_runs(run, trained(*SELDOM))


def fail_in(epoch: int, before: Any = lambda: None) -> Any:
    step, steps = Engine.step, 4

    def fails(self: Engine, view: Any, at: int, of_run: int) -> None:
        if of_run == steps * (epoch - 1) + 2:
            before()
            raise RuntimeError("the cat walked over the keyboard")
        step(self, view, at, of_run)

    return fails


@contextlib.contextmanager
def writing(
    patch: pytest.MonkeyPatch, act: Callable[[], object]
) -> Iterator[tuple[dict[str, dict[str, Any]], list[str]]]:
    """While the files of the first epoch are written, `act` before last.pt.

    Yields copies of them, and the checkpoints' names in the order in which they are written.
    """
    save_last, save = checkpoint.save_last, checkpoint.save
    copies: dict[str, dict[str, Any]] = {}
    order: list[str] = []

    def slow(run: Path, state: dict[str, Any]) -> None:
        if (state["epoch"], state["step"]) == (1, 0):
            assert threading.current_thread() is not threading.main_thread()
            before = parts_of(state)
            act()
            assert parts_of(state) == before  # of this epoch, whatever is trained meanwhile
        save_last(run, state)

    def noted(path: Path, state: dict[str, Any], *rest: Any) -> None:
        save(path, state, *rest)
        order.append(path.name)
        if state["epoch"] == 1:
            copies.setdefault(path.name, whole(path))

    patch.setattr(checkpoint, "save_last", slow)
    patch.setattr(checkpoint, "save", noted)
    yield copies, order


def test_the_next_epoch_trains_while_an_epoch_is_written(
    program: Program, trained: Trained
) -> None:
    """What is written, histograms too, is of its epoch all the same."""
    shown, last_step, third_epoch = {}, threading.Event(), threading.Event()
    original = Display.step

    def step(self: Display, epoch: int, done: int, *speed: float) -> None:
        original(self, epoch, done, *speed)
        if (epoch, done) == (2, 4):
            last_step.set()
        if epoch == 3:
            third_epoch.set()

    def histograms(self: Board, network: torch.nn.Module, epoch: int) -> None:
        assert last_step.wait(30)
        shown[epoch] = {
            name: p.detach().numpy().tobytes() for name, p in network.named_parameters()
        }

    def act() -> None:
        assert last_step.wait(60)
        assert not third_epoch.wait(2)  # it can't begin before the first one is written

    seldom = ["trainer.checkpoint_epochs=9", "trainer.histogram_epochs=1"]
    with pytest.MonkeyPatch.context() as patch, writing(patch, act) as (copies, order):
        patch.setattr(Display, "step", step)
        patch.setattr(Board, "histograms", histograms)
        assert program(*TINY, *SELDOM, *seldom).code == 0
    assert_equal_runs(directory(*SELDOM), trained(*SELDOM))
    short = trained(*SELDOM, "trainer.epochs=1")  # the rate is constant
    first = whole(short / "last.pt")
    for name, copied in copies.items():
        weights = {key for key in first if key.startswith((".model.", ".ema."))}
        assert len(weights) > 100
        assert {key: copied[key] for key in weights} == {key: first[key] for key in weights}, name
    # The best weights are never in a file that a kill can take away before they are in another.
    assert order == ["last.pt", "best.pt", "best.pt", "last.pt"]
    assert set(shown) == {1, 2, 3, 4, 5}
    assert {f".model.{name}": value for name, value in shown[1].items()}.items() <= first.items()


def test_what_goes_wrong_in_training_leaves_the_writing_whole(program: Program) -> None:
    failed = threading.Event()
    with pytest.MonkeyPatch.context() as patch, writing(patch, lambda: failed.wait(60)):
        patch.setattr(Engine, "step", fail_in(2, failed.set))
        outcome = program(*TINY, *SELDOM)
    assert outcome.err == "error: RuntimeError: the cat walked over the keyboard\n"
    record = read_record(run := directory(*SELDOM))
    assert record is not None
    assert (record.status, record.epochs_done) == ("failed", 1)
    assert record.sessions[-1].images_trained == 64 + 32
    assert len(lines(run)) == 1
    last, best = (torch.load(run / name, weights_only=True) for name in ("last.pt", "best.pt"))
    assert last["epoch"] == best["epoch"] == 1
    for part in ("model", "ema"):  # weights that serve twice are written once
        for name, tensor in last[part].items():
            assert tensor.data_ptr() == last["best_weights"][part][name].data_ptr()


def test_a_second_signal_leaves_the_writing_whole(program: Program, trained: Trained) -> None:
    """The first one came while the first epoch was written, the second in waiting for that."""
    stopped, show = threading.Event(), Display.step

    def step(self: Display, epoch: int, done: int, *speed: float) -> None:
        show(self, epoch, done, *speed)
        if (epoch, done) == (2, 3):
            os.kill(os.getpid(), signal.SIGINT)
            stopped.set()

    def act() -> None:
        assert stopped.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch, writing(patch, act):
        patch.setattr(Display, "step", step)
        outcome = program(*TINY, *SELDOM)
    assert outcome.code == 130
    record = read_record(run := directory(*SELDOM))
    assert record is not None
    assert (record.status, record.epochs_done) == ("interrupted", 1)
    assert torch.load(run / "last.pt", weights_only=True)["epoch"] == 1
    assert program(*TINY, *SELDOM).code == 0
    assert_equal_runs(run, trained(*SELDOM))


def test_a_run_that_diverges_has_its_best_weights(program: Program, trained: Trained) -> None:
    train_epoch = Engine.train_epoch

    def diverge(self: Engine, epoch: int) -> dict[str, Any]:
        metrics = train_epoch(self, epoch)
        return metrics | ({"loss/train": float("nan")} if epoch == 4 else {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "train_epoch", diverge)
        assert program(*TINY, *SELDOM).code == 0
    record = read_record(run := directory(*SELDOM))
    assert record is not None
    assert (record.status, record.epochs_done, len(lines(run))) == ("diverged", 4, 4)
    assert damage(run, record) == []
    assert whole(run / "best.pt") == whole(trained(*SELDOM) / "best.pt")
    assert torch.load(run / "last.pt", weights_only=True)["epoch"] == 1
    assert load_model(run, "best").epoch == 2


def test_the_best_weights_of_a_run_that_goes_on_are_of_their_own_epoch(program: Program) -> None:
    """run.json is ahead of best.pt until it is written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", fail_in(3))
        assert program(*TINY, *SELDOM).code == 1
    record = read_record(run := directory(*SELDOM))
    assert record is not None
    assert record.best is not None
    assert (record.epochs_done, record.best["epoch"]) == (2, 2)
    for weights in ("best", "last", "ema"):
        model = load_model(run, weights)
        assert (model.epoch, model.metrics) == (1, {})


def test_nothing_is_written_after_what_failed(program: Program, trained: Trained) -> None:
    append = LinesFile.append

    def fails(self: LinesFile, *rows: dict[str, Any]) -> None:
        if rows and rows[0]["epoch"] == 4:
            raise FULL
        append(self, *rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LinesFile, "append", fails)
        assert "No space left on device" in program(*TINY, *SELDOM).err
    record = read_record(run := directory(*SELDOM))
    assert record is not None
    assert (record.status, record.epochs_done, len(lines(run))) == ("failed", 3, 3)
    assert torch.load(run / "last.pt", weights_only=True)["epoch"] == 1
    assert program(*TINY, *SELDOM).code == 0
    assert_equal_runs(run, trained(*SELDOM))


FULL = OSError(28, "No space left on device")
DENIED = PermissionError(13, "Permission denied")


def full_disk_at(program: Program, undisturbed: Path, at: Callable[[int], list[int]]) -> None:
    """A write fails, whichever: one line, nothing half-written, the run goes on to the same."""
    calls = 0
    fails_at = -1
    originals = {"fsync": os.fsync, "replace": os.replace}

    def guarded(name: str) -> Callable[..., Any]:
        def call(*of: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise FULL if name == "fsync" else DENIED
            return originals[name](*of)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in originals:
            patch.setattr(os, name, guarded(name))
        assert program(*TINY, *SELDOM).code == 0
        count = calls
        assert count > 30
        for fails_at in at(count):
            shutil.rmtree(directory(*SELDOM))
            calls = 0
            outcome = program(*TINY, *SELDOM)
            assert outcome.code == 1, fails_at
            assert outcome.err.count("\n") == 1, outcome.err
            assert "can't be written (" in outcome.err
            assert "what was there is intact" in outcome.err
            run = directory(*SELDOM)
            if (record := read_record(run)) is not None:
                if 5 < fails_at < count - 1:  # else the record itself could not be written
                    assert record.status == "failed", fails_at
                    assert "No space left" in outcome.err or "Permission denied" in outcome.err
                assert damage(run, record) == []
                assert len(lines(run)) >= record.epochs_done
            assert [path.name for path in run.iterdir() if path.suffix == ".tmp"] == []
            assert program(*TINY, *SELDOM).code == 0, fails_at
            assert_equal_runs(run, undisturbed)


def test_a_full_disk_at_some_writes(program: Program, trained: Trained) -> None:
    chosen = random.Random(0)
    full_disk_at(program, trained(*SELDOM), lambda n: sorted(chosen.sample(range(3, n), 2)))


@pytest.mark.soak
def test_a_full_disk_at_every_write(program: Program, trained: Trained) -> None:
    full_disk_at(program, trained(*SELDOM), lambda n: list(range(1, n + 1)))


@pytest.mark.soak
def test_a_signal_in_the_last_validation(program: Program, trained: Trained) -> None:
    batches = 0

    def signal_in_validation(network: torch.nn.Module, x: torch.Tensor) -> None:
        nonlocal batches
        batches += not network.training
        if not network.training and batches == 11:
            os.kill(os.getpid(), signal.SIGTERM)

    with watch_forward(signal_in_validation):
        assert program(*TINY, *SELDOM).code == 143
    assert program(*TINY, *SELDOM).code == 0
    assert_equal_runs(directory(*SELDOM), trained(*SELDOM))
