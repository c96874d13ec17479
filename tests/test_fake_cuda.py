"""What would run on a GPU, traced without one.

Fake tensors carry shapes, dtypes and devices, and nothing to compute with. An epoch and a
validation are traced on `cuda:0`, with every norm, optimizer, augmentation and precision there is.
What PyTorch does not do there without a GPU is the backward pass: its engine asks CUDA for a
context. So all is traced again on the device `meta`, which has a backward pass, but no autocast and
no fused optimizer. Kernels, values and times are not seen: only a GPU shows those.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.amp.grad_scaler import GradScaler
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from resnet_cifar.compute import device
from resnet_cifar.compute.epoch_sums import EpochSums
from resnet_cifar.compute.options import PRECISIONS
from resnet_cifar.config.compose import compose
from resnet_cifar.data import augmentation
from resnet_cifar.data.augmentation import (
    TRAINING,
    VALIDATION,
    Augmentation,
    AugmentationDraw,
    CropFlip,
    Stream,
)
from resnet_cifar.model import options as model_options
from resnet_cifar.model.options import DETACH, Norm
from resnet_cifar.model.resnet import ResNet
from resnet_cifar.optim import optimizer
from resnet_cifar.training import engine as engine_module
from resnet_cifar.training import run as run_module
from resnet_cifar.training.engine import Engine
from resnet_cifar.training.interrupt import Interrupt
from resnet_cifar.training.live import Display
from resnet_cifar.training.run import assemble

NORMS = [f"norm={o.NAME}" for o in model_options.OPTIONS if issubclass(o, Norm)]
NORMS += [f"norm.detach={detach}" for detach in DETACH if detach != "none"]
AUGMENTATIONS = [f"augmentation={option.NAME}" for option in augmentation.OPTIONS]
OPTIMIZERS = [f"optimizer={option.NAME}" for option in optimizer.OPTIONS]
ARITHMETIC = [f"trainer.precision={precision}" for precision in PRECISIONS]


def together(*lists: list[Any]) -> list[tuple[Any, ...]]:
    """Each list's values side by side, the shorter lists again from their start."""
    rows = range(max(map(len, lists)))
    return [tuple(values[row % len(values)] for values in lists) for row in rows]


# What the classes of OPTIONS do not tell: values that switch a part of the update on.
SURROUNDINGS = [
    "regularization.label_smoothing=0.1",
    "regularization.ema_decay=0.9",
    "regularization.clip_norm=1",
]
# Every optimizer in every precision, beside them every norm, augmentation and surrounding.
ON_CUDA = [
    [*pair, *others]
    for pair, *others in together(
        list(itertools.product(OPTIMIZERS, ARITHMETIC)), NORMS, AUGMENTATIONS, SURROUNDINGS
    )
]
ON_CUDA.append(["trainer.precision=fp16", "regularization.clip_norm=1", AUGMENTATIONS[0]])
ON_CUDA += [[augmentation, "trainer.capture=off"] for augmentation in AUGMENTATIONS]
ON_META = [list(row) for row in together(NORMS, OPTIMIZERS, AUGMENTATIONS, SURROUNDINGS)]

aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
# They have no fake kernel; they change what they are given and return nothing.
NO_FAKE = (aten._fused_sgd_.default, aten._fused_sgd_.tensor_lr, aten._fused_adamw_.tensor_lr)


class Watch(TorchDispatchMode):
    """Notes what is done on `device_type`, a device that is not the host, and should not be."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        self.float64 = False  # whether it is allowed
        self.reads: list[str] = []
        self.faults: list[str] = []
        self.kernels: list[str] = []  # what is not just another view of the same memory
        self.sent: list[str] = []  # to the device; a number on its way to any kernel is not

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
        here = [tensor for tensor in given if not self._is_there(tensor)]
        involved = len(here) < len(given)
        if func is aten._local_scalar_dense.default:
            if involved:
                self.reads.append(str(func))
            if isinstance(args[0], FakeTensor):
                return 0.5 if args[0].is_floating_point() else 1
        # A tensor without dimensions on the host is a number, which any kernel takes.
        if involved and any(tensor.ndim for tensor in here) and func not in COPIES:
            self.faults.append(f"{func} on two devices")
        returned = [value.alias_info for value in func._schema.returns]
        view = any(alias is not None and not alias.is_write for alias in returned)
        if func.namespace == "aten" and not view:
            self.kernels.append(str(func))
        if func in NO_FAKE:
            return None
        out = func(*args, **kwargs)
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                wide = tensor.dtype is torch.float64 and not self.float64
                if wide and self._is_there(tensor):
                    self.faults.append(f"{func} in float64")
                if involved and not self._is_there(tensor):
                    self.reads.append(str(func))
                if func in COPIES and here and self._is_there(tensor):
                    self.sent.append(str(func))
        return out

    def _is_there(self, tensor: Tensor) -> bool:
        return tensor.device.type == self.device_type


class OnMeta(device.Compute):
    """Where there is no autocast."""

    def autocast(self) -> Any:
        return contextlib.nullcontext()


def replace_tensors(self: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """nn.Module._apply, whose own can't put a fake parameter in another's place."""
    for module in self.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                changed = change(parameter.detach())
                module._parameters[name] = nn.Parameter(changed, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = change(buffer)
    return self


def copy_tensor(self: Tensor, memo: dict[int, Any]) -> Tensor:
    """Tensor.__deepcopy__, whose own asks a fake tensor for its memory."""
    return memo.setdefault(id(self), self.detach().clone())


@dataclass
class Traced:
    epoch: Watch
    validation: Watch
    in_steps: list[str]  # reads before the epoch's end
    around: list[list[str]]  # kernels of each step but the network's and the optimizer's
    sent: list[str]  # to the device by the epoch's last step
    views: int
    metrics: int  # that the optimizer's surroundings add to an epoch's, each read by itself

    def check(self) -> None:
        assert self.epoch.faults == []
        assert self.validation.faults == []
        assert self.in_steps == []
        assert len(self.epoch.reads) == 1 + self.metrics, self.epoch.reads
        assert len(self.validation.reads) == self.views, self.validation.reads


Trace = Callable[..., Traced]


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trace:
    """`trace("cuda", ["norm=none"])`: an epoch of two steps and a validation of both views.

    On "cuda" or "meta" of fake tensors, on "cpu" of real ones. What would be captured is run as it
    is: no graph can be made without a GPU.
    """
    monkeypatch.setattr(nn.Module, "_apply", replace_tensors)
    monkeypatch.setattr(Tensor, "__deepcopy__", copy_tensor)
    monkeypatch.setattr(device, "matmul_rate", lambda _: 1e12)
    monkeypatch.setattr(run_module, "Recorder", mock.MagicMock())
    # Else autocast and the scaling of losses see that no GPU is there and do nothing.
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)

    monkeypatch.setattr(model_options.ResNet18, "BLOCKS", (1, 1))  # every kind of block
    step, unscale = Engine.step, GradScaler.unscale_

    # Streams need a GPU, too.
    monkeypatch.setattr(torch.cuda, "Stream", mock.MagicMock())
    monkeypatch.setattr(torch.cuda, "current_stream", mock.MagicMock())
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)

    def traced(on: str, overrides: list[str]) -> Traced:
        config = compose(
            [
                "data=synthetic",
                "data.train_size=30",
                "data.val_size=30",
                "trainer.batch_size=16",
                "trainer.eval_batch_size=20",
                "trainer.epochs=1",
                *overrides,
            ]
        )
        place, precision = torch.device(on, 0), config.trainer.precision
        compute = device.Compute(place, "fake", precision, threads=1, compile=False)
        if on == "meta":
            compute = OnMeta(torch.device(on), "fake", "fp32", 1, compile=False)
        elif on == "cpu":
            compute = device.Compute(torch.device(on), "real", precision, 1, compile=False)
        split = config.data.load()
        # Drawn on the host before, with numpy, which fake tensors refuse.
        drawn = {
            stream: config.augmentation.draws(config.seed, stream, 1, 30)
            for stream in (TRAINING, VALIDATION)
        }
        watch, update = Watch(on), engine_module.update
        around: list[list[str]] = []
        in_steps: list[str] = []

        def counted(engine: Engine, *arguments: Any) -> None:
            watch.kernels.clear()
            watch.sent.clear()
            step(engine, *arguments)
            around.append(list(watch.kernels))
            in_steps[:] = watch.reads

        def draws(_: Augmentation, seed: int, stream: Stream, *rest: int) -> AugmentationDraw:
            return drawn[stream]._each(lambda tensor: tensor.clone())

        def unscaled(*arguments: Any) -> None:
            watch.float64 = True  # PyTorch's own, for one number, and not on Apple's GPUs
            unscale(*arguments)
            watch.float64 = False

        def uncounted(*arguments: Any) -> Any:
            before = list(watch.kernels)
            result = update(*arguments)
            watch.kernels[:] = before
            return result

        with (
            monkeypatch.context() as patch,
            contextlib.nullcontext() if on == "cpu" else FakeTensorMode(allow_non_fake_inputs=True),
            Display("quiet") as display,
        ):
            kind = type(config.optimizer)
            if on == "meta":
                patch.setattr(kind, "build", functools.partialmethod(kind.build, fused=False))
            engine = assemble(config, tmp_path / "none", compute, split, display, Interrupt())

            def gradients(loss: Tensor) -> None:
                for parameter in engine.state.model.parameters():
                    parameter.grad = torch.empty_like(parameter)

            if on == "cuda":
                patch.setattr(torch.autograd, "backward", gradients)
            patch.setattr(type(config.augmentation), "draws", draws)
            patch.setattr(GradScaler, "unscale_", unscaled)
            patch.setattr(Engine, "step", counted)
            patch.setattr(engine_module, "update", uncounted)
            with watch:
                engine.train_epoch(1)
            engine.state.step = 0
            with Watch(on) as validation:
                views = engine.validate(1)
        scaled = engine.state.optimizer_step.scaler.is_enabled()
        metrics = bool(config.regularization.clip_norm) + scaled
        sent = list(watch.sent)
        return Traced(watch, validation, in_steps, around, sent, len(views), metrics)

    return traced


# Kernels of a step besides the network's and the optimizer's: a gather and what leads to it, two
# to normalise, two to see what is right, two to note it. Another augmentation than these may have
# as many again: mixup, which changes images and labels, has.
AROUND = {"augmentation=crop_flip": 8, "augmentation=none": 8, "augmentation=cutout": 10}
# Where the step's number is on the device: it is filled in; positions, rates, rows, columns, labels
# and what was drawn are gathered by it, and two more note what was right.
BY_NUMBER = 12


@pytest.mark.parametrize("options", ON_CUDA, ids=" ".join)
def test_on_cuda(trace: Trace, options: list[str]) -> None:
    traced = trace("cuda", options)
    traced.check()
    most = next(AROUND.get(option, 16) for option in options if option in AUGMENTATIONS)
    most += "regularization.ema_decay=0.9" in options  # one call for all weights
    if not {"trainer.capture=off", "trainer.precision=fp16"} & {*options}:
        most += BY_NUMBER
        del traced.around[0]  # copies the view and the rates
    assert traced.sent == []
    for kernels in traced.around:
        assert len(kernels) <= most, kernels


@pytest.mark.parametrize("options", ON_META, ids=" ".join)
def test_backward(trace: Trace, options: list[str]) -> None:
    trace("meta", options).check()


def on_host(x: Tensor) -> Tensor:
    return torch.ones(x.shape)


FAULTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a read": (lambda x: x.sum().item(), "_local_scalar_dense"),
    "a branch": (lambda x: bool(x.sum() > 0), "_local_scalar_dense"),
    "a copy": (lambda x: x.cpu(), "_to_copy"),
    "float64": (lambda x: x.double(), "float64"),
    "a float64 sum": (lambda x: x.sum(dtype=torch.float64), "float64"),
    "an index": (lambda x: x[torch.arange(len(x))], "on two devices"),
    "two devices": (lambda x: x * on_host(x), "same device"),
    "an unknown length": (lambda x: x.nonzero(), "nonzero"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_batch_is_seen(
    trace: Trace, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    plant, said = FAULTS[fault]

    def apply(self: CropFlip, x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        plant(x)
        return x, y

    monkeypatch.setattr(CropFlip, "apply", apply)
    with pytest.raises(Exception, match=said):
        trace("cuda", []).check()


@pytest.mark.parametrize("fault", ["a read", "float64", "two devices"])
def test_a_fault_in_the_backward_pass_is_seen(
    trace: Trace, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    plant, said = FAULTS[fault]
    forward = ResNet.forward

    def planted(gradient: Tensor) -> None:
        plant(gradient)

    def with_hook(self: ResNet, x: Tensor) -> Tensor:
        out = forward(self, x)
        if out.requires_grad:
            out.register_hook(planted)
        return out

    monkeypatch.setattr(ResNet, "forward", with_hook)
    with pytest.raises(Exception, match=said):
        trace("meta", []).check()


def test_totals_in_float64_are_seen(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    original = EpochSums.__init__

    def wide(self: EpochSums, *of: Any) -> None:
        original(self, *of)
        self._rows = self._rows.double()

    monkeypatch.setattr(EpochSums, "__init__", wide)
    with pytest.raises(AssertionError, match="float64"):
        trace("cuda", []).check()


class Reads(TorchFunctionMode):
    """Notes by what calls values of tensors become Python's."""

    CALLS = ("item", "tolist", "numpy", "cpu", "__array__", "__bool__", "__float__", "__index__")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in self.CALLS:
            self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm", ["norm=batchnorm", "norm.detach=both"])
def test_an_epoch_on_the_cpu(trace: Trace, monkeypatch: pytest.MonkeyPatch, norm: str) -> None:
    """With every operation done: no float64 tensor, and one read, of what the steps were worth."""
    reads, train_epoch = Reads(), Engine.train_epoch

    def watched(engine: Engine, epoch: int) -> dict[str, Any]:
        with reads:
            return train_epoch(engine, epoch)

    monkeypatch.setattr(Engine, "train_epoch", watched)
    options = ["model.width=8", "trainer.precision=bf16", "augmentation=cutout", norm]
    traced = trace("cpu", options)
    assert traced.epoch.faults == traced.validation.faults == []
    assert traced.epoch.reads == traced.validation.reads == []  # by another way than these calls
    assert reads.seen == ["cpu", "tolist"]
    assert all(len(kernels) <= AROUND["augmentation=cutout"] for kernels in traced.around)
