"""Whole runs: what they leave, that they repeat, resume, skip, diverge and fail as promised."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Program
from made_up import float16_ties

from resnet_cifar.config.compose import compose
from resnet_cifar.config.saved import load, reproduce_command
from resnet_cifar.identity import run_directory
from resnet_cifar.record.layout import METRICS, RUN
from resnet_cifar.record.schema import objective, read_record
from resnet_cifar.training import engine as engine_module
from resnet_cifar.training.engine import Engine, predict

EPOCH_KEYS = {
    "epoch",
    "step",
    "lr",
    "accuracy/train",
    "loss/train",
    "accuracy/val",
    "loss/val",
    "speed/images_per_second",
    "speed/epoch_seconds",
}


def directory(*overrides: str) -> Path:
    return run_directory(compose([*TINY, *overrides]))


def lines(path: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what may differ between two equal runs: times and speeds."""
    parsed = [json.loads(line) for line in (path / METRICS).read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("speed/")} for line in parsed]


def record(path: Path) -> dict[str, Any]:
    return json.loads((path / RUN).read_text())


def test_what_a_run_leaves(program: Program) -> None:
    outcome = program(*TINY, "trainer.augmented_val_every=2", "trainer.epochs=3")
    assert outcome.code == 0, outcome.err
    run = directory("trainer.epochs=3")
    left = {path.name for path in run.iterdir()}
    events = {name for name in left if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert left - events == {
        ".lock", "config.yaml", "run.json", "metrics.jsonl", "predictions.npz",
        "last.pt", "best.pt", "train.log",
    }  # fmt: skip

    parsed = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    assert [line["epoch"] for line in parsed] == [1, 2, 3]
    for line in parsed:
        augmented = {"accuracy/val_augmented", "loss/val_augmented"}
        assert set(line) == EPOCH_KEYS | (augmented if line["epoch"] in (2, 3) else set())
        assert 0 <= line["accuracy/val"] <= 1

    wrote = record(run)
    assert wrote["status"] == "completed"
    assert wrote["error"] is None
    assert wrote["cell"] == run.parent.name
    assert wrote["seed"] == 0
    assert wrote["epochs_done"] == wrote["epochs"] == 3
    assert wrote["final"] == parsed[-1]
    best = max(line["accuracy/val"] for line in parsed)
    assert wrote["best"]["accuracy/val"] == best
    assert wrote["config"]["model.width"] == 2
    (session,) = wrote["sessions"]
    assert session["images_per_second"] > 0
    assert session["precision"] in ("fp32", "bf16")
    assert session["threads"] == 1
    assert {"python", "torch", "hydra-core"} <= set(session["versions"])
    assert set(session["git"]) == {"commit", "uncommitted"}

    predictions = np.load(run / "predictions.npz")
    assert predictions["logits_val"].dtype == np.float16
    assert predictions["logits_val"].shape == predictions["logits_val_augmented"].shape == (32, 10)
    accuracy = (predictions["logits_val"].argmax(1) == predictions["labels"]).mean()
    ties = float16_ties(predictions["logits_val"])
    assert ties < 0.25
    assert accuracy == pytest.approx(parsed[-1]["accuracy/val"], abs=ties + 1e-9)

    last = torch.load(run / "last.pt", weights_only=True)
    assert "optimizer" not in last
    assert last["epoch"] == 3
    assert torch.load(run / "best.pt", weights_only=True)["epoch"] == wrote["best"]["epoch"]
    assert load(run / "config.yaml") == compose(
        [*TINY, "trainer.augmented_val_every=2", "trainer.epochs=3"]
    )
    log = (run / "train.log").read_text()
    assert "epoch 3/3" in log
    assert "completed" in outcome.out


def test_the_printed_command_trains_the_same_run(program: Program) -> None:
    import shlex

    program(*TINY)
    words = shlex.split(reproduce_command(load(directory() / "config.yaml")))
    again = program(*words[2:])
    assert "skipped" in again.out


def test_same_configuration_same_bits(program: Program) -> None:
    program(*TINY, "output_root=a")
    program(*TINY, "output_root=b")
    assert lines(directory("output_root=a")) == lines(directory("output_root=b"))
    program(*TINY, "output_root=a", "seed=1")
    assert lines(directory("output_root=a", "seed=1")) != lines(directory("output_root=b"))


def test_cells_share_their_draws(program: Program) -> None:
    """Paired by seed: the first update of two cells sees the same weights and the same images."""
    seen: list[tuple[bytes, bytes]] = []
    original = Engine.step

    def spy(self: Engine, view, step: int, lr: float) -> None:
        if step == 0 and self.state.epoch == 0:
            x, _ = self.train.batch(view, 0, 16)
            weight = self.state.model.stem.weight
            seen.append((x.numpy().tobytes(), weight.detach().numpy().tobytes()))
        original(self, view, step, lr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", spy)
        program(*TINY)
        program(*TINY, "optimizer.lr=0.1", "scheduler=cosine", "norm=detached_batchnorm")
        program(*TINY, "seed=1")
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[2][0]
    assert seen[0][1] != seen[2][1]


def test_a_finished_run_is_skipped(program: Program) -> None:
    program(*TINY)
    before = {path: path.read_bytes() for path in directory().iterdir()}
    outcome = program(*TINY)
    assert outcome.code == 0
    assert "completed before, skipped" in outcome.out
    assert {path: path.read_bytes() for path in directory().iterdir()} == before


def interrupt_at(patch: pytest.MonkeyPatch, epoch: int, step: int, number: int) -> None:
    """Deliver a signal right after the given update (epoch counted from 1)."""
    original = Engine.step

    def step_and_signal(self: Engine, draws, at: int, lr: float) -> None:
        original(self, draws, at, lr)
        if (self.state.epoch + 1, at) == (epoch, step):
            os.kill(os.getpid(), number)

    patch.setattr(Engine, "step", step_and_signal)


@pytest.fixture
def hangup_ends_a_process() -> Iterator[None]:
    """As in a terminal, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup_ends_a_process")
@pytest.mark.parametrize(
    ("epoch", "step", "number"),
    [(1, 0, signal.SIGTERM), (2, 1, signal.SIGINT), (2, 3, signal.SIGHUP)],
)
def test_interrupted_and_resumed_equals_undisturbed(
    program: Program, epoch: int, step: int, number: int
) -> None:
    program(*TINY, "output_root=undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, epoch, step, number)
        stopped = program(*TINY)
    assert stopped.code == 128 + number
    assert f"step {step + 1}" in stopped.out  # answered within the step
    run = directory()
    assert record(run)["status"] == "interrupted"
    assert len(lines(run)) == epoch - 1
    outcome = program(*TINY)
    assert outcome.code == 0
    assert f"resumed at epoch {epoch} of 2, step {step + 1} of 4" in outcome.out
    assert lines(run) == lines(directory("output_root=undisturbed"))
    ours, theirs = (
        torch.load(directory(f"output_root={root}") / "last.pt", weights_only=True)["model"]
        for root in ("outputs", "undisturbed")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert len(record(run)["sessions"]) == 2


def test_a_run_under_nohup_goes_on(program: Program) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, 1, 1, signal.SIGHUP)
            assert program(*TINY).code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_interrupted_in_validation(program: Program) -> None:
    program(*TINY, "output_root=undisturbed")
    original = predict

    def predict_and_signal(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "predict", predict_and_signal)
        assert program(*TINY).code == 128 + signal.SIGTERM
    assert program(*TINY).code == 0
    assert lines(directory()) == lines(directory("output_root=undisturbed"))


def test_other_optimizers_resume_too(program: Program) -> None:
    extra = ["optimizer=adamw", "scheduler=one_cycle", "norm=detached_batchnorm"]
    program(*TINY, *extra, "output_root=undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2, 2, signal.SIGTERM)
        program(*TINY, *extra)
    program(*TINY, *extra)
    assert lines(directory(*extra)) == lines(directory(*extra, "output_root=undisturbed"))


def test_a_damaged_checkpoint_is_told_apart_and_the_one_before_used(program: Program) -> None:
    program(*TINY, "output_root=undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2, 1, signal.SIGTERM)
        program(*TINY, "trainer.checkpoint_seconds=0")
    last = directory() / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 0xFF  # one byte, inside a tensor
    last.write_bytes(content)
    outcome = program(*TINY)
    assert outcome.code == 0
    assert "last.pt is damaged" in outcome.out
    assert lines(directory()) == lines(directory("output_root=undisturbed"))


def test_divergence_is_an_outcome(program: Program) -> None:
    wild = ["optimizer.lr=1e30"]
    outcome = program(*TINY, *wild)
    assert outcome.code == 0
    wrote = record(directory(*wild))
    assert wrote["status"] == "diverged"
    assert objective(read_record(directory(*wild))) == 0
    assert lines(directory(*wild))[-1]["loss/train"] is None  # JSON has no NaN
    assert "skipped" in program(*TINY, *wild).out


def test_a_failed_run_says_why_and_is_retried(program: Program) -> None:
    def broken(self: Engine, epoch: int) -> dict[str, Any]:
        raise RuntimeError("the cat walked over the keyboard")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "validate", broken)
        outcome = program(*TINY)
    assert outcome.code == 1
    assert outcome.err == "error: RuntimeError: the cat walked over the keyboard\n"
    wrote = record(directory())
    assert wrote["status"] == "failed"
    assert "the cat" in wrote["error"]
    assert "Traceback" in (directory() / "train.log").read_text()
    assert program(*TINY).code == 0
    assert record(directory())["status"] == "completed"
    assert record(directory())["error"] is None


def test_rerun_sets_the_old_run_aside(program: Program) -> None:
    program(*TINY)
    before = {path.name: path.read_bytes() for path in directory().iterdir()}
    outcome = program(*TINY, "rerun=true")
    assert outcome.code == 0
    beside = [path for path in directory().parent.iterdir() if path != directory()]
    (aside,) = beside
    assert re.fullmatch(r"seed=0\.\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d", aside.name)
    kept = {path.name: path.read_bytes() for path in aside.iterdir()}
    assert {k: v for k, v in kept.items() if k != ".lock"} == {
        k: v for k, v in before.items() if k != ".lock"
    }
    assert len(record(directory())["sessions"]) == 1
    assert lines(directory()) == lines(aside)


def test_bf16_and_compile_are_options_of_execution(program: Program) -> None:
    """bf16 runs on any CPU when asked for, and is recorded."""
    assert program(*TINY, "trainer.precision=bf16").code == 0
    wrote = record(directory("trainer.precision=bf16"))
    assert wrote["sessions"][0]["precision"] == "bf16"
    assert wrote["config"]["trainer.precision"] == "bf16"


def test_nothing_leaks_into_the_next_run(program: Program) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    program(*TINY)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_learning_is_learning(program: Program) -> None:
    """64 images without augmentation are learnt by heart: gradients, labels and images agree."""
    more = ["model.width=8", "trainer.epochs=20", "optimizer.lr=0.05"]
    more += ["augmentation.crop_padding=0", "augmentation.flip_probability=0"]
    program(*TINY, *more)
    losses = [line["loss/train"] for line in lines(directory(*more))]
    assert losses[-1] < 0.6 * losses[0]
