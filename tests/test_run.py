"""Whole runs: what they leave, that they repeat, resume, skip, diverge and fail as promised."""

import contextlib
import copy
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
import torch
from conftest import TINY, Program, Trained
from made_up import float16_ties, make_run
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

from resnet_cifar.compute import device
from resnet_cifar.config.compose import compose
from resnet_cifar.config.saved import load, reproduce_command
from resnet_cifar.config.schema import Config
from resnet_cifar.data.augmentation import TRAINING, VALIDATION, Stream, generator
from resnet_cifar.data.datasets import Images
from resnet_cifar.errors import UserError, describe
from resnet_cifar.identity import run_directory
from resnet_cifar.model.resnet import ResNet
from resnet_cifar.record import checkpoint
from resnet_cifar.record.layout import METRICS, RUN
from resnet_cifar.record.recorder import Recorder
from resnet_cifar.record.schema import Session, objective, read_record, seal
from resnet_cifar.runs.table import load_runs
from resnet_cifar.sweep.plan import recorded_speeds
from resnet_cifar.training import engine
from resnet_cifar.training.engine import Engine
from resnet_cifar.training.live import Display
from resnet_cifar.training.run import known_precision

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
    assert session["precision"] == "fp32"
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


def test_same_configuration_same_bits(program: Program, trained: Trained) -> None:
    program(*TINY)
    assert lines(directory()) == lines(trained())
    assert lines(trained("seed=1")) != lines(trained())


@contextlib.contextmanager
def watch_forward(act: Callable[[nn.Module, Tensor], None]) -> Iterator[None]:
    """Call `act(network, images)` before every forward pass of a network."""

    def hook(module: nn.Module, args: tuple[Tensor]) -> None:
        if isinstance(module, ResNet):
            act(module, args[0])

    handle = register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_cells_share_their_draws(program: Program) -> None:
    """Paired by seed: the first update of two cells sees the same weights and the same images."""
    runs: list[list[tuple[bytes, bytes]]] = []

    def note(network: nn.Module, x: Tensor) -> None:
        runs[-1].append((x.numpy().tobytes(), network.stem.weight.detach().numpy().tobytes()))

    with watch_forward(note):
        for cell in (
            [],
            ["optimizer.lr=0.1", "scheduler=cosine", "norm=detached_batchnorm"],
            ["seed=1"],
        ):
            runs.append([])
            program(*TINY, *cell, "trainer.epochs=1")
    first, other, other_seed = (run[0] for run in runs)
    assert first == other
    assert first[0] != other_seed[0]
    assert first[1] != other_seed[1]


def test_a_finished_run_is_skipped(program: Program) -> None:
    program(*TINY)
    before = {path: path.read_bytes() for path in directory().iterdir()}
    outcome = program(*TINY)
    assert outcome.code == 0
    assert "completed before, skipped" in outcome.out
    assert {path: path.read_bytes() for path in directory().iterdir()} == before


def interrupt_at(patch: pytest.MonkeyPatch, epoch: int, step: int, number: int) -> None:
    """Deliver a signal right after the given update (epoch counted from 1, step from 0)."""
    original = Display.step

    def show_and_signal(self: Display, at_epoch: int, done: int, *speed: float) -> None:
        original(self, at_epoch, done, *speed)
        if (at_epoch, done) == (epoch, step + 1):
            os.kill(os.getpid(), number)

    patch.setattr(Display, "step", show_and_signal)


@pytest.fixture
def hangup_ends_a_process() -> Iterator[None]:
    """As in a terminal, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup_ends_a_process")
@pytest.mark.parametrize(
    ("epoch", "step", "number", "precision"),
    [
        (1, 0, signal.SIGTERM, "fp32"),
        (2, 1, signal.SIGINT, "fp32"),
        (2, 1, signal.SIGTERM, "bf16"),
        (2, 3, signal.SIGHUP, "fp32"),
    ],
)
def test_interrupted_and_resumed_equals_undisturbed(
    program: Program, trained: Trained, epoch: int, step: int, number: int, precision: str
) -> None:
    options = [f"trainer.precision={precision}"]
    undisturbed = trained(*options)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, epoch, step, number)
        stopped = program(*TINY, *options)
    assert stopped.code == 128 + number
    assert f"step {step + 1}" in stopped.out  # answered within the step
    run = directory(*options)
    assert record(run)["status"] == "interrupted"
    assert len(lines(run)) == epoch - 1
    outcome = program(*TINY, *options)
    assert outcome.code == 0
    assert f"resumed at epoch {epoch} of 2, step {step + 1} of 4" in outcome.out
    assert lines(run) == lines(undisturbed)
    ours, theirs = (
        torch.load(path / "last.pt", weights_only=True)["model"] for path in (run, undisturbed)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    trained = [session["images_trained"] for session in record(run)["sessions"]]
    before = 64 * (epoch - 1) + 16 * (step + 1)
    assert trained == [before, 128 - before]


def test_a_run_that_stops_again_before_its_next_epoch_keeps_its_best(program: Program) -> None:
    for step in (0, 1):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, 2, step, signal.SIGTERM)
            stopped = program(*TINY)
        assert "the same command goes on" in stopped.out
        assert record(directory())["best"]["epoch"] == 1


def test_a_rerun_that_stops_says_how_it_goes_on(program: Program) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2, 0, signal.SIGTERM)
        stopped = program(*TINY, "rerun=true")
    assert "the same command without rerun=true goes on" in stopped.out
    assert "resumed at epoch 2" in program(*TINY).out


@pytest.mark.parametrize("root", ["two words", "a\x07bell", "two\nlines: ["])
def test_any_output_root_leaves_a_configuration_that_can_be_read(
    program: Program, root: str
) -> None:
    assert program(*TINY, f"output_root='{root}'").code == 0
    (path,) = Path(root).glob("*/seed=0/config.yaml")
    assert load(path).output_root == root
    command = path.read_text().partition("\n")[0].partition("runs command ")[2]
    assert shlex.split(command) == [str(path.parent)] or not root.isprintable()


def test_logits_that_float16_can_t_hold_are_kept_as_its_largest(tmp_path: Path) -> None:
    record = make_run(tmp_path, TINY)
    logits = {view: torch.tensor([[1e7, -1e7]]) for view in ("val", "val_augmented")}
    writer = SimpleNamespace(directory=record)
    Recorder.predictions(writer, logits, torch.tensor([1]), np.array([7]))
    with np.load(record / "predictions.npz") as stored:
        assert stored["logits_val"].tolist() == [[65504, -65504]]


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("Engine.step", RuntimeError("gcc was killed")),
        ("Engine.step", KeyboardInterrupt()),
        ("Engine.step", SystemExit(1)),
        ("Engine.step", OSError(28, "No space left on device")),
        ("Engine.validate", UserError("in words")),
        ("checkpoint.save_last", OSError(28, "No space left on device")),
        ("run.device.compiled", RuntimeError("gcc was killed")),
    ],
    ids=str,
)
def test_a_failure_after_a_signal_is_an_interruption(
    program: Program, place: str, error: BaseException
) -> None:
    """A compiler's processes get the signal as well; what it raises then is no failure."""
    of, _, name = place.rpartition(".")
    owner = {"Engine": Engine, "run.device": device, "checkpoint": checkpoint}[of]

    def fail(*of: Any, **named: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fail)
        outcome = program(*TINY)
    assert outcome.code == 143
    assert outcome.err == f"interrupted: {describe(error)}\n"
    run = directory()
    if of != "run.device":  # its record was open
        assert record(run)["status"] == "interrupted"
        assert record(run)["error"] is None
        assert f": {describe(error)}; what the last checkpoint has is kept" in outcome.out
        assert "Traceback" in (run / "train.log").read_text()
    else:
        assert not (run / "run.json").exists()
    assert program(*TINY).code == 0
    assert record(run)["status"] == "completed"


@pytest.mark.parametrize(
    ("step", "parts", "rate"),
    [
        (0, [(100, 50.0)], 2),  # nothing else is known
        (0, [(100, 50.0), (20, 1.0)], 120 / 51),  # little is
        (0, [(100, 50.0), (100, 10.0)], 10),
        (0, [(100, 50.0), (100, 10.0), (100, 30.0)], 5),
        (7, [(16, 1.0), (100, 50.0), (100, 10.0), (100, 10.0)], 10),  # of one that was interrupted
        (7, [(0, 0.0), (100, 50.0), (100, 10.0)], 10),  # with only its validation left
        (7, [(0, 0.0)], None),
    ],
)
def test_a_session_s_speed_is_without_its_first_epoch(
    step: int, parts: list[tuple[int, float]], rate: float | None
) -> None:
    recorder = Recorder.__new__(Recorder)
    recorder.session = Session("2026-01-01", "CPU", "cpu", step=step, matmul_flops_per_second=1e3)
    recorder.record = mock.Mock(multiply_accumulates=5)
    recorder._trained = []
    for images, seconds in parts:
        recorder.trained(images, seconds)
    assert recorder.session.images_trained == sum(images for images, _ in parts)
    assert recorder.session.images_per_second == (rate and round(rate, 1))
    assert recorder.session.share_of_matmul_rate == (rate and round(30 * rate / 1e3, 3))
    assert msgspec.json.encode(recorder.session)


def test_a_failure_without_a_signal_is_one(program: Program) -> None:
    def fail(*of: Any) -> None:
        raise RuntimeError("gcc failed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", fail)
        assert program(*TINY).code == 1
    assert record(directory())["status"] == "failed"
    assert record(directory())["error"] == "RuntimeError: gcc failed"


def test_a_run_under_nohup_goes_on(program: Program) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, 1, 1, signal.SIGHUP)
            assert program(*TINY).code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_interrupted_in_validation(program: Program, trained: Trained) -> None:
    def signal_in_validation(network: nn.Module, x: Tensor) -> None:
        if not network.training:
            os.kill(os.getpid(), signal.SIGTERM)

    with watch_forward(signal_in_validation):
        assert program(*TINY).code == 128 + signal.SIGTERM
    assert program(*TINY).code == 0
    assert lines(directory()) == lines(trained())
    first = json.loads((directory() / METRICS).read_text().splitlines()[0])
    assert first["speed/images_per_second"] is None  # only its validation was left to do


def test_other_optimizers_resume_too(program: Program, trained: Trained) -> None:
    extra = ["optimizer=adamw", "scheduler=one_cycle", "norm=detached_batchnorm"]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2, 2, signal.SIGTERM)
        program(*TINY, *extra)
    program(*TINY, *extra)
    assert lines(directory(*extra)) == lines(trained(*extra))


def test_a_damaged_checkpoint_is_told_apart_and_the_one_before_used(
    program: Program, trained: Trained
) -> None:
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
    assert lines(directory()) == lines(trained())


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


def test_bf16_runs_on_any_cpu_and_is_recorded(trained: Trained) -> None:
    wrote = record(trained("trainer.precision=bf16"))
    assert wrote["sessions"][0]["precision"] == "bf16"
    assert wrote["config"]["trainer.precision"] == "bf16"


def test_nothing_leaks_into_the_next_run(program: Program) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    program(*TINY)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_learning_is_learning(trained: Trained) -> None:
    """64 images without augmentation are learnt by heart: gradients, labels and images agree."""
    more = ["model.width=8", "trainer.epochs=20", "optimizer.lr=0.05"]
    losses = [line["loss/train"] for line in lines(trained(*more, "augmentation=none"))]
    assert losses[-1] < 0.6 * losses[0]


# The loop, update by update -----------------------------------------------------------------------


LOOP = [
    *TINY,
    "data.train_size=40",  # batches of 16, 16 and 8
    "trainer.augmented_val_every=2",
    "trainer.epochs=3",
    "norm.eps=0.5",  # at 1e-5, a channel that hardly varies multiplies rounding by 300
    "scheduler=cosine",
    "optimizer.lr=0.05",
    "regularization.weight_decay=0.01",
    "regularization.decay_norm_and_bias=false",
    "regularization.label_smoothing=0.1",
    "regularization.ema_decay=0.7",
]


def views(config: Config, images: Images, stream: Stream | None, epoch: int = 0) -> Iterator[Any]:
    """Each image of a view and its label, as torchvision would give them."""
    draws = config.augmentation.clean(len(images.labels))
    if stream is not None:
        draws = config.augmentation.draws(config.seed, stream, epoch, len(images.labels))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in config.data.NORMALISATION)
    for position, at in enumerate(draws.order.tolist()):
        top, left = draws.offset[position].tolist()
        image = F.pad(torch.from_numpy(images.pixels[at]).permute(2, 0, 1), (4,) * 4)
        image = image[:, top : top + 32, left : left + 32]
        image = image.flip(2) if draws.flip[position] else image
        yield (image.float() / 255 - mean) / std, int(images.labels[at])


def stacked(*arguments: Any) -> tuple[Tensor, Tensor]:
    images, labels = zip(*views(*arguments), strict=True)
    return torch.stack(images), torch.tensor(labels)


def plain_loop(config: Config) -> list[dict[str, float]]:
    """The metrics of a run by PyTorch's own parts alone, a network in training as in a tutorial."""
    train, val = config.data.load()
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator(config.seed, "initialisation").get_state())
        network = config.build_model()
    parameters = list(network.parameters())
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in parameters if p.ndim == 1]},
        ],
        lr=config.optimizer.lr,
        momentum=0.9,
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
    weights: list[list[Tensor]] = []
    history = []

    def score(net: nn.Module, x: Tensor, y: Tensor, name: str) -> dict[str, float]:
        with torch.no_grad():
            logits = net.eval()(x)
        right = (logits.argmax(1) == y).double().mean().item()
        return {f"accuracy/{name}": right, f"loss/{name}": F.cross_entropy(logits, y).item()}

    for epoch in (1, 2, 3):
        x, y = stacked(config, train, TRAINING, epoch)
        batches = [(x[i : i + 16], y[i : i + 16]) for i in (0, 16, 32)]
        loss_sum, right = 0.0, 0
        network.train()
        for images, labels in batches:
            logits = network(images)
            loss = smooth(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            weights.append([p.detach().double() for p in parameters])
            loss_sum += loss.item() * len(labels)
            right += int((logits.argmax(1) == labels).sum())
        line = {"epoch": epoch, "step": 3 * epoch, "lr": optimizer.param_groups[0]["lr"]}
        line |= {"loss/train": loss_sum / 40, "accuracy/train": right / 40}
        scheduler.step()
        line |= score(network, *stacked(config, val, None), "val")
        if epoch >= 2:
            line |= score(network, *stacked(config, val, VALIDATION, epoch), "val_augmented")
        shares = [0.7 ** (len(weights) - 1 - age) for age in range(len(weights))]
        averaged = copy.deepcopy(network).train()
        for position, parameter in enumerate(averaged.parameters()):
            total = sum(s * w[position] for s, w in zip(shares, weights, strict=True))
            parameter.data.copy_(total / sum(shares))
        for norm in (m for m in averaged.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.reset_running_stats()
            norm.momentum = None  # the mean over the batches
        with torch.no_grad():
            for images, _ in batches:
                averaged(images)
        history.append(line | score(averaged, *stacked(config, val, None), "val_ema"))
    return history


def test_a_run_is_the_plain_loop(trained: Trained) -> None:
    """Batches, a smaller last one, momentum, weight decay, schedule, losses, views, averages."""
    ours, plain = lines(trained(*LOOP)), plain_loop(compose(LOOP))
    assert [line.keys() for line in ours] == [line.keys() for line in plain]
    for line, expected in zip(ours, plain, strict=True):
        assert line == pytest.approx(expected, rel=1e-5), line["epoch"]


def test_the_first_of_equal_epochs_is_the_best(trained: Trained) -> None:
    run = trained("norm=none", "optimizer.lr=1e-12", "trainer.epochs=3")
    assert len({line["accuracy/val"] for line in lines(run)}) == 1
    assert record(run)["best"]["epoch"] == 1
    assert torch.load(run / "best.pt", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["trainer.checkpoint_epochs=2"], [(1, 0), (2, 0), (4, 0)]),
        (["trainer.checkpoint_epochs=9", "trainer.checkpoint_seconds=0", "trainer.epochs=1"],
         [(0, 1), (0, 2), (0, 3), (0, 4), (1, 0)]),
    ],
)  # fmt: skip
def test_checkpoints_are_written_when_due(
    program: Program, options: list[str], expected: list[tuple[int, int]]
) -> None:
    """After the first epoch and those that are due, and after any update once it has been long
    enough. Not because an epoch is better; and the last one's has weights alone.
    """
    saved: list[tuple[int, int]] = []
    original = checkpoint.save_last

    def note(run: Path, state: dict[str, Any]) -> None:
        saved.append((state["epoch"], state["step"]))
        original(run, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_last", note)
        still = ["norm=none", "optimizer.lr=1e-12", "trainer.epochs=5"]
        assert program(*TINY, *still, *options).code == 0
    assert saved == expected


def test_the_live_line_shows_speed_and_time_left(program: Program) -> None:
    """By a clock that goes on by half a second at each look; also within a resumed epoch."""
    shown: list[tuple[int, int, float, float]] = []

    def show(_: Display, *numbers: Any) -> None:
        shown.append(numbers)
        if len(shown) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    ticks = itertools.count(0.0, 0.5)
    clock = SimpleNamespace(perf_counter=lambda: next(ticks), monotonic=time.monotonic)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "time", clock)
        patch.setattr(Display, "step", show)
        assert program(*TINY).code == 143
        assert program(*TINY).code == 0
    # 4 updates in each of 2 epochs, 16 images in half a second at each.
    assert shown == [
        (epoch, step, 32.0, pytest.approx((8 - 4 * (epoch - 1) - step) / 2))
        for epoch in (1, 2)
        for step in (1, 2, 3, 4)
    ]


# Neighbours ---------------------------------------------------------------------------------------


def make_odd(kind: str, directory: Path) -> None:
    """Put something that is no record in the place of a run's."""
    path = directory / RUN
    content = path.read_text()
    path.unlink()
    if kind == "gone":
        shutil.rmtree(directory)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "looped cell":
        shutil.rmtree(directory.parent)
        directory.parent.symlink_to(directory.parent.name)
    elif kind == "a file":
        shutil.rmtree(directory)
        directory.write_text(content)
    else:
        odd = json.loads(content)
        odd["version"] = 99 if kind == "later" else odd["version"]
        odd["sessions"][0]["images_trained"] = 10**400  # no float can hold it
        texts = {"truncated": content[:100], "text": "hello", "empty": "", "deep": "[" * 99_999}
        path.write_text(texts.get(kind, json.dumps(seal(odd))))


ODD = ("gone", "pipe", "directory", "loop", "looped cell", "a file", "later", "large", "truncated",
       "text", "empty", "deep")  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_neighbour_stops_no_new_run(kind: str, tmp_path: Path) -> None:
    """Nothing that training reads of other runs: precisions, speeds."""
    setting = ["data=synthetic", "model.width=8"]
    for epochs in (1, 2):
        shorter = make_run(tmp_path, [*setting, f"trainer.epochs={epochs}"])
    make_odd(kind, shorter)
    config = compose([*setting, "trainer.epochs=3", f"output_root={tmp_path}"])
    assert known_precision(config, None) is None
    assert recorded_speeds(config) == [100.0]
    table = load_runs(tmp_path)
    assert len(table) == 1
    assert len(table.attrs["skipped"]) == int(kind not in ("gone", "a file"))


@pytest.mark.parametrize("variable", ["", "HOME"])
def test_a_directory_that_utf_8_cannot_hold_is_refused_first(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    if variable:
        monkeypatch.setenv(variable, f"{tmp_path}/\udcff")
    for sweep in ([], ["-m"]):
        ended = program(*TINY, f"output_root={'~/runs' if variable else chr(0xDCFF)}", *sweep)
        assert ended.code == 2
        assert "text in UTF-8" in ended.err
        assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
