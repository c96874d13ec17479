"""Captured steps give the bits of steps that Python runs: the same body, and a graph of it.

No graph can be captured without a GPU. In its place a capture here notes every operation of the
body with the very tensors it was given, puts back what it changed, and repeats the operations at
each replay, as a CUDA graph does. So what is fixed at the capture and should not be shows as other
bits. Kernels, streams and memory are not seen: only a GPU shows those.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from conftest import TINY
from test_fake_cuda import AUGMENTATIONS, NORMS, OPTIMIZERS, together
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resnet_cifar.compute import captured, device
from resnet_cifar.compute.captured import Captured, CapturedStep, obstacle
from resnet_cifar.compute.epoch_sums import EpochSums
from resnet_cifar.compute.step import eval_batch
from resnet_cifar.config.compose import compose
from resnet_cifar.data.augmentation import TRAINING, CropFlip
from resnet_cifar.data.images import DeviceImages, View
from resnet_cifar.errors import Interrupted
from resnet_cifar.model import options as model_options
from resnet_cifar.optim import scheduler
from resnet_cifar.optim.optimizer_step import OptimizerStep
from resnet_cifar.record.schema import Session
from resnet_cifar.training import run as run_module
from resnet_cifar.training.engine import Engine
from resnet_cifar.training.interrupt import Interrupt
from resnet_cifar.training.notes import opening
from resnet_cifar.training.run import assemble

SCHEDULERS = [f"scheduler={option.NAME}" for option in scheduler.OPTIONS]
SURROUNDINGS = [
    "regularization.clip_norm=0.7",
    "regularization.ema_decay=0.9",
    "regularization.decay_norm_and_bias=false",
    "trainer.precision=bf16",
    "regularization.label_smoothing=0.1",
    "probe.epochs=1",
    "scheduler.warmup_epochs=1.3",
]
# Values that fit two blocks of width 4 and three epochs of three steps.
FITTING = {
    "norm=groupnorm": ["norm.groups=2"],
    "scheduler=step": ["scheduler.step_size=1", "scheduler.gamma=0.3"],
    "scheduler=milestones": ["scheduler.milestones=[1]"],
}
OVER_ALL_OPTIONS = [
    list(row) for row in together(SURROUNDINGS, OPTIMIZERS, SCHEDULERS, NORMS, AUGMENTATIONS)
]
OVER_ALL_OPTIONS += [
    ["optimizer.dampening=0.3", "trainer.deterministic=false"],
    ["optimizer.nesterov=true", "regularization.ema_decay=0.9", "regularization.clip_norm=0.7"],
    ["optimizer.momentum=0"],
]
EPOCHS = 3
READS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.item.default,
    # On CUDA, where algorithms have to be deterministic: versions of torch read the indices' range.
    torch.ops.aten.index_copy_.default,
    torch.ops.aten.index_put_.default,
)
SMALL = [
    *TINY,
    "data.train_size=20",
    "data.val_size=20",
    "model.width=4",
    "trainer.batch_size=8",
    "trainer.eval_batch_size=8",
    "trainer.augmented_val_every=2",
    f"trainer.epochs={EPOCHS}",
    "optimizer.lr=0.013",  # no power of two, nor is any other rate
    "regularization.weight_decay=0.0123",
]


class Graph:
    """In place of torch.cuda.CUDAGraph: the operations of a body, and the tensors they work on."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def pool(self) -> tuple[int, int]:
        return (0, 1)

    def replay(self) -> None:
        with torch.no_grad():
            for operation, args, kwargs, out in self.operations:
                before = {t.untyped_storage()._cdata for t in tensors((args, kwargs))}
                again = operation(*args, **kwargs)
                for theirs, new in zip(tensors(out), tensors(again), strict=True):
                    if theirs.untyped_storage()._cdata not in before:
                        theirs.copy_(new)


class Capture(TorchDispatchMode):
    """In place of torch.cuda.graph: fills a Graph, and leaves no value changed."""

    at_end: Exception | None = None  # raised at the end of a capture
    running = False

    def __init__(
        self, graph: Graph, pool: Any, stream: Any, capture_error_mode: str = "global"
    ) -> None:
        super().__init__()
        self.graph, self.kept = graph, {}
        self.made: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        for tensor in tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.made and storage._cdata not in self.kept:
                self.kept[storage._cdata] = storage, storage.clone()
        out = func(*args, **kwargs)
        for tensor in tensors(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.kept:
                self.made[storage._cdata] = storage
        self.graph.operations.append((func, args, kwargs, out))
        return out

    def __enter__(self) -> Capture:
        Capture.running = True
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        Capture.running = False
        super().__exit__(*error)
        for storage, values in self.kept.values():
            storage.copy_(values)
        if self.at_end:
            raise self.at_end


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


Build = Callable[..., Engine]


@pytest.fixture
def build(_repeated_work_once: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Build:
    """`build("graph", "optimizer=adamw")`: an engine whose steps are captured, in emulation.

    On "host" they are not, which is what a CPU does; on "body" Python runs the captured body.
    """
    monkeypatch.setattr(device, "matmul_rate", lambda _: 1e12)
    monkeypatch.setattr(run_module, "Recorder", mock.MagicMock())
    monkeypatch.setattr(model_options.ResNet18, "BLOCKS", (1, 1))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(captured, "WARM_UP", 1)
    original = Captured.__init__

    def built(driver: str, *overrides: str) -> Engine:
        def able(self: Captured, *arguments: Any) -> None:
            original(self, *arguments)
            self._able = driver == "graph"

        monkeypatch.setattr(Captured, "__init__", able)  # of the engine that is built last
        monkeypatch.setattr(captured, "obstacle", lambda *_: "" if driver == "host" else None)
        fitting = [each for option in overrides for each in FITTING.get(option, [])]
        config = compose([*SMALL, *overrides, *fitting])
        compute, split = device.resolve(config.trainer), config.data.load()
        engine = assemble(config, tmp_path / "none", compute, split, mock.MagicMock(), Interrupt())
        return engine

    return built


def train(engine: Engine, stop_at: tuple[int, int] | None = None) -> list[Any]:
    """All that is reached from where `engine` stands: metrics, logits, weights, its whole state.

    `stop_at` is an epoch and an update of it; then it stands in the middle of that epoch.
    """

    def stop() -> None:
        if (engine.state.epoch + 1, engine.state.step) == stop_at:
            raise Interrupted(2)

    engine.stop_if_interrupted = stop
    reached: list[Any] = []
    while engine.state.epoch < EPOCHS:
        epoch = engine.state.epoch + 1
        metrics = engine.train_epoch(epoch)
        reached.append({key: value for key, value in metrics.items() if "speed" not in key})
        reached.append(engine.validate(epoch))
        engine.examine(epoch)
        if epoch == EPOCHS:
            reached.append(copy.deepcopy(engine.state.dump()))
        engine.state.end_epoch()
    return reached


def same(first: Any, second: Any) -> bool:
    """True where all numbers are the same to the last bit."""
    pairs = zip(tree_leaves(first), tree_leaves(second), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("options", OVER_ALL_OPTIONS, ids=" ".join)
def test_captured_steps_have_the_bits_of_others(build: Build, options: list[str]) -> None:
    expected = train(build("host", *options))
    assert same(expected, train(build("body", *options)))
    engine = build("graph", *options)
    assert same(expected, train(engine))
    assert sorted(engine._captured_step._graphs) == [4, 8]
    assert {4, 8} <= {size for each in engine._validation.values() for size in each._graphs}
    average = engine.state.optimizer_step.average
    assert average is None or average.updates == EPOCHS * engine.steps
    engine.display.say.assert_not_called()


def stopped(engine: Engine, epoch: int, step: int) -> dict[str, Any]:
    """What `engine` saves after an update in the middle of an epoch."""
    with pytest.raises(Interrupted):
        train(engine, (epoch, step))
    return copy.deepcopy(engine.state.dump())


@pytest.mark.parametrize("drivers", [("graph", "graph"), ("graph", "host"), ("host", "graph")])
@pytest.mark.parametrize("options", [["optimizer=adamw", "regularization.ema_decay=0.9"], []])
def test_a_run_goes_on_with_captured_steps_and_without(
    build: Build, drivers: tuple[str, str], options: list[str]
) -> None:
    """From the middle of an epoch; checkpoints hold what they always did."""
    first, second = drivers
    expected = train(build("host", *options))
    saved = stopped(build(first, *options), 2, 2)
    usual = stopped(build("host", *options), 2, 2)
    assert same(saved, usual)
    for group, like in zip(
        saved["optimizer"]["param_groups"], usual["optimizer"]["param_groups"], strict=True
    ):
        assert list(group) == list(like)
        assert type(group["lr"]) is float
    engine = build(second, *options)
    engine.state.restore(saved)
    assert same(train(engine), expected[2:])


def frozen(what: str, patch: pytest.MonkeyPatch) -> None:
    """Make `what` a constant of the capture, which nothing about a batch may be."""
    keep, call = EpochSums.keep, Captured.__call__
    now = {}

    def noted(self: Captured, view: View, number: int) -> Any:
        now["number"] = number
        return call(self, view, number)

    def by_host(self: Captured, size: int) -> Any:
        first = now["number"] * self._batch_size
        return self._body(self._view, slice(first, first + size), self._number)

    patch.setattr(Captured, "__call__", noted)
    if what == "the rate":
        patch.setattr(CapturedStep, "_run", Captured._run)
    elif what == "the positions":
        patch.setattr(Captured, "_run", by_host)
    elif what == "the number":
        patch.setattr(EpochSums, "keep", lambda self, _, *rest: keep(self, now["number"], *rest))
    else:
        patch.setattr(View, "tensors", lambda self: [])


@pytest.mark.parametrize("what", ["the rate", "the positions", "the number", "the view"])
def test_what_a_capture_freezes_is_seen(
    build: Build, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    options = ["scheduler=one_cycle"]
    expected = train(build("host", *options))
    frozen(what, monkeypatch)
    assert not same(expected, train(build("graph", *options)))


def test_an_average_in_the_graph_would_be_seen(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its share of an update is a number of the host's."""
    options = ["regularization.ema_decay=0.9"]
    expected = train(build("host", *options))
    step, follow = OptimizerStep.step, OptimizerStep.follow
    monkeypatch.setattr(OptimizerStep, "step", lambda *of: (step(*of), follow(of[0])))
    monkeypatch.setattr(OptimizerStep, "follow", lambda self: None)
    assert not same(expected, train(build("graph", *options)))


def read(x: Tensor) -> None:
    x.sum().item()


@pytest.mark.parametrize("fault", ["a read", "at the end", "after the backward pass"])
def test_a_capture_that_fails_is_said_and_the_run_goes_on(
    build: Build, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    options = ["regularization.clip_norm=0.7"]
    expected = train(build("host", *options))
    apply, clip = CropFlip.apply, nn.utils.clip_grad_norm_
    if fault == "a read":
        monkeypatch.setattr(
            CropFlip, "apply", lambda self, x, *of: (read(x), apply(self, x, *of))[1]
        )
    elif fault == "at the end":
        error = torch.OutOfMemoryError("CUDA out of memory")
        monkeypatch.setattr(Capture, "at_end", error)
    else:

        def refuse(*of: Any) -> Tensor:
            if Capture.running:
                raise ValueError("not here")
            return clip(*of)

        monkeypatch.setattr(nn.utils, "clip_grad_norm_", refuse)
    engine = build("graph", *options)
    assert same(expected, train(engine))
    said = [call.args[0] for call in engine.display.say.call_args_list]
    places = 1 if fault == "after the backward pass" else 3  # and two views of validation
    cause = {
        "a read": "RuntimeError: operation not permitted when stream is capturing",
        "at the end": "OutOfMemoryError: CUDA out of memory",
        "after the backward pass": "ValueError: not here",
    }
    line = "batches of 8 can't be captured in a CUDA graph and go on without, slower: "
    assert said == [line + cause[fault]] * places
    assert engine._captured_step._graphs == {}


class Stream:
    """In place of torch.cuda.Stream: notes what is done with it."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events

    def wait_stream(self, other: Stream) -> None:
        self.events.append(f"{self.name} waits for {other.name}")

    def __enter__(self) -> None:
        self.events.append(f"enter {self.name}")

    def __exit__(self, *_: object) -> None:
        self.events.append(f"leave {self.name}")


def test_python_s_batches_and_captures_are_on_a_stream_of_their_own(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    own, callers = Stream("own", events), Stream("caller's", events)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: callers)
    given: list[Any] = []

    def graph(*of: Any, **named: Any) -> Capture:
        given.append((of, named))
        return Capture(*of, **named)

    monkeypatch.setattr(torch.cuda, "graph", graph)
    engine = build("graph")
    captured_step = engine._captured_step
    captured_step._stream = own
    view = engine.train.draw_view(0, TRAINING, 1)
    for number in (0, 2):
        events.clear()
        captured_step(view, number)
        waits = ["own waits for caller's", "enter own", "leave own", "caller's waits for own"]
        assert events == waits
        events.clear()
        captured_step(view, number)
        assert events == ["enter own", "leave own"]
    (first, second), named = zip(*given, strict=True)
    assert first[1:] == (None, own)
    assert second[1:] == (captured_step._graphs[8][0].pool(), own)
    assert named == ({"capture_error_mode": "thread_local"},) * 2
    events.clear()
    monkeypatch.setattr(Capture, "at_end", RuntimeError("invalidated"))
    captured_step._graphs.clear()
    captured_step(view, 0)
    assert events == ["enter own", "leave own", *waits]


def test_validation_s_clean_view_is_made_once(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, made = DeviceImages.view, []

    def view(images: DeviceImages, draws: Any) -> View:
        made.append(images)
        return original(images, draws)

    monkeypatch.setattr(DeviceImages, "view", view)
    engine = build("host", "regularization.ema_decay=0.9")
    first, again = engine.validate(1), engine.validate(1)
    assert same(first, again)
    assert made.count(engine.val) == 1


# Where steps are captured ------------------------------------------------------------------------


def cuda() -> device.Compute:
    return device.Compute(torch.device("cuda"), "fake", "bf16", 1, compile=False)


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2))]


class Counted(torch.optim.SGD):
    """One's own, which counts on the host."""


class Own(OptimizerStep):
    def step(self, loss: Tensor) -> None:
        super().step(loss)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_optimizers_there_are_can_be_captured(optimizer: str) -> None:
    config = compose([optimizer])
    steps = OptimizerStep(config.optimizer.build([{"params": weights()}]))
    assert obstacle(config.trainer, cuda(), steps) is None
    off = compose([optimizer, "trainer.capture=off"])
    assert obstacle(off.trainer, cuda(), steps) == ""
    cpu = device.Compute(torch.device("cpu"), "real", "fp32", 1, compile=True)
    assert obstacle(config.trainer, cpu, steps) == ""
    unfused = OptimizerStep(config.optimizer.build([{"params": weights()}], fused=False))
    assert "may count on the host" in str(obstacle(config.trainer, cuda(), unfused))


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (lambda: OptimizerStep(torch.optim.Rprop(weights())), "Rprop may count on the host"),
        (lambda: OptimizerStep(Counted(weights(), fused=True)), "Counted may count on the host"),
        (lambda: OptimizerStep(torch.optim.NAdam(weights(), capturable=True)), None),
        (lambda: Own(torch.optim.SGD(weights(), fused=True)), "Own has a step of its own"),
        (
            lambda: OptimizerStep(
                torch.optim.SGD(weights(), fused=True), 0, None, GradScaler("cpu")
            ),
            "fp16",
        ),
    ],
)
def test_what_may_count_on_the_host_is_not_captured_and_the_run_says_so(
    steps: Callable[[], OptimizerStep], said: str | None
) -> None:
    config = compose([])
    why = obstacle(config.trainer, cuda(), steps())
    assert why is None if said is None else said in str(why)
    lines = opening(config, Path("run"), cuda(), Session("2026-01-01", "fake", "cuda"), why)
    assert ("captured" in lines[1]) == (said is None)
    expected = [] if said is None else [f"steps are not captured in CUDA graphs: {why}"]
    assert [line for line in lines[2:] if "graph" in line] == expected


def test_nothing_is_said_of_captures_on_a_cpu() -> None:
    config = compose([])
    cpu = device.Compute(torch.device("cpu"), "real", "fp32", 1, compile=False)
    assert "captured" not in "".join(
        opening(config, Path("run"), cpu, Session("2026-01-01", "real", "cpu"))
    )


@pytest.mark.parametrize(
    ("memory", "width", "images"), [(80, 64, 2500), (16, 64, 682), (16, 16, 2500), (1, 64, 100)]
)
def test_a_batch_of_validation_is_chosen_by_memory(
    monkeypatch: pytest.MonkeyPatch, memory: int, width: int, images: int
) -> None:
    network = nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, 8 * width, 3))
    gpu = mock.Mock(total_memory=memory * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    assert eval_batch(network, cuda()) == images
    cpu = device.Compute(torch.device("cpu"), "real", "fp32", 1, compile=False)
    assert eval_batch(network, cpu) == 500  # what it was before it could be chosen


def test_a_model_without_convolutions_has_a_layout_and_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = mock.Mock(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    assert eval_batch(nn.Linear(3, 10), cuda()) == 2500
    cpu = device.Compute(torch.device("cpu"), "real", "fp32", 1, compile=False)
    assert device.memory_format(cpu, nn.Linear(3, 10)) == torch.channels_last
