"""Golden counts of a training step: an operation or a kernel that somebody adds shows here.

Operations are counted on a CPU, launches of the compiled step for a GPU that is not there:
torch.compile makes graphs of the engine's network on a CPU, they are moved to that device, and the
compiler lowers and fuses them; no kernel is written or run. Convolutions are taken for cuDNN's,
whose results are channels_last.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from conftest import TINY
from test_fake_cuda import NORMS, OPTIMIZERS, SURROUNDINGS, together
from torch import Tensor, nn
from torch._dynamo import device_interface
from torch._functorch import config as functorch_config
from torch._inductor import compile_fx
from torch._inductor import config as inductor_config
from torch._inductor.exc import InductorError
from torch._inductor.graph import GraphLowering
from torch._inductor.ir import MultiOutput
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from resnet_cifar.compute import device
from resnet_cifar.config.compose import compose
from resnet_cifar.model.options import ResNet18
from resnet_cifar.training import run as run_module
from resnet_cifar.training import state
from resnet_cifar.training.engine import Engine
from resnet_cifar.training.interrupt import Interrupt
from resnet_cifar.training.live import Display
from resnet_cifar.training.run import assemble


def train(
    where: Path, options: list[str], compiler: Callable[..., Callable[[Tensor], Tensor]]
) -> None:
    """Train an epoch in bfloat16 with an engine whose network `compiler` has compiled."""
    half = ["trainer.precision=bf16", "trainer.deterministic=false", "trainer.compile=true"]
    config = compose([*TINY, *half, *options])
    with pytest.MonkeyPatch.context() as patch, Display("quiet") as display:
        patch.setattr(torch, "compile", compiler)
        patch.setattr(run_module, "Recorder", mock.MagicMock())
        patch.setattr(device, "matmul_rate", lambda _: 1e12)
        compute = device.resolve(config.trainer)
        of_run = (config.data.load(), display, Interrupt())
        assemble(config, where / "none", compute, *of_run).train_epoch(1)


# Operations: of ResNet-18, in an epoch's second step, from the batch's gathering to its sums. -----

NETWORK = {  # forward and backward
    "convolution": 20,
    "convolution_backward": 20,
    "relu": 17,
    "threshold_backward": 17,
    "add": 16,  # 8 blocks: what the shortcut brings; the gradients of the block's two ways
    "mean": 1,  # pooling, and its gradient
    "div": 1,
    "addmm": 1,  # the head, and its gradients by input, weight and bias
    "mm": 2,
    "sum": 1,
    "_log_softmax": 1,  # the loss, and its gradient
    "nll_loss_forward": 1,
    "ones_like": 1,
    "nll_loss_backward": 1,
    "_log_softmax_backward_data": 1,
    # Casts. Forward: 21 weights and a bias, each once; the images; the logits. Backward: the
    # gradients of all these but the images. No activation is copied or cast.
    "_to_copy": 24 + 23,
}
AROUND = {  # gather, normalise, see what is right, note it
    **{"add": 1, "index_select": 1, "mul": 2, "add_": 1},
    **{"argmax": 1, "eq": 1, "copy_": 1},
}
BATCHNORM = {"native_batch_norm": 20, "native_batch_norm_backward": 20}
OF_NORM: dict[str, dict[str, int]] = {  # of 20 layers; no addition counts their batches
    "norm=batchnorm": BATCHNORM,
    "norm=groupnorm": {"native_group_norm": 20, "native_group_norm_backward": 20},
    "norm=none": {},
    # γ/σ, times Σ g, over n; added in place.
    "norm.detach=mean": {**BATCHNORM, "mul": 40, "div": 20, "add_": 20},
    # γ/σ, times 1/σ, times Σ g x̂, over n: the slope, minus that, times μ; a line; added in place.
    "norm.detach=var": {**BATCHNORM, "mul": 80, "div": 20, "neg": 20, "addcmul": 20, "add_": 20},
    # γ/σ, times g: in float32 and then cast, which on a CPU takes less time than one operation on
    # mixed types; the compiler makes one kernel of it.
    "norm.detach=both": {**BATCHNORM, "mul": 40, "_to_copy": 20},
}
OF_OPTIMIZER = {  # all parameters at once
    "optimizer=sgd": {"_fused_sgd_": 1},
    "optimizer=adamw": {"_fused_adamw_": 1, "_foreach_add_": 1},  # that counts its steps
}
OF_SURROUNDING = {
    # The mean of the log-probabilities beside the label's, and its gradient: PyTorch's own.
    "regularization.label_smoothing=0.1": {
        **{"mul": 4, "sum": 3, "add": 2, "neg": 2, "div": 2},
        **{"eq": 1, "masked_fill_": 1, "bitwise_not": 1, "masked_fill": 1},
    },
    "regularization.ema_decay=0.9": {"_foreach_lerp_": 1},
    # The norm of all gradients, and of the norms; the factor, at most 1; the sums of an epoch.
    "regularization.clip_norm=1": {
        **{"_foreach_norm": 1, "stack": 2, "linalg_vector_norm": 1},
        **{"add": 1, "reciprocal": 1, "mul": 2, "clamp": 1, "_foreach_mul_": 1},
        **{"abs": 1, "ne": 1, "eq": 1, "gt": 1, "bitwise_and": 1},
        **{"scalar_tensor": 1, "where": 1, "add_": 1},
    },
}


class Operations(TorchDispatchMode):
    """Counts operations by name; views and allocations launch nothing and are left out."""

    ALLOCATIONS = ("empty", "empty_like", "new_empty_strided")

    def __init__(self) -> None:
        super().__init__()
        self.done: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        returned = [value.alias_info for value in func._schema.returns]
        view = any(alias is not None and not alias.is_write for alias in returned)
        if func.namespace == "aten" and not view and name not in self.ALLOCATIONS:
            self.done[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("norm", "optimizer", "surrounding"), together(NORMS, OPTIMIZERS, SURROUNDINGS)
)
def test_operations(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    norm: str,
    optimizer: str,
    surrounding: str,
) -> None:
    step, steps = Engine.step, []

    def counted(engine: Engine, *arguments: Any) -> None:
        with Operations() as operations:
            step(engine, *arguments)
        steps.append(operations.done)

    monkeypatch.setattr(Engine, "step", counted)
    options = ["model.width=32", "data.train_size=16", "trainer.batch_size=8"]
    train(tmp_path, [*options, norm, optimizer, surrounding], lambda model, **_: model)
    expected = Counter(NETWORK)
    for part in (AROUND, OF_NORM[norm], OF_OPTIMIZER[optimizer], OF_SURROUNDING[surrounding]):
        expected.update(part)
    _, second = steps
    assert second == expected


# Launches of the compiled network. ----------------------------------------------------------------

COUNTED_WITH = "2.14"
same_compiler = pytest.mark.skipif(
    not torch.__version__.startswith(COUNTED_WITH),
    reason=f"the compiler of another torch than {COUNTED_WITH} fuses otherwise",
)

# Of an H100, as far as the compiler asks.
PROPERTIES = SimpleNamespace(
    name="H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
)
aten = torch.ops.aten
CAST = torch.ops.prims.convert_element_type.default
COPIES = {CAST, aten.clone.default, aten.convolution.default, aten.convolution_backward.default}

Graph = tuple[Any, list[Any], dict[str, Any]]  # a graph, its inputs, the compiler's options


class Absent(device_interface.CudaInterface):
    """A GPU, for who asks what it is."""

    class Worker(device_interface.CudaInterface.Worker):
        get_device_properties = staticmethod(lambda _=None: PROPERTIES)

    device = contextlib.nullcontext  # type: ignore[assignment]
    get_device_properties = staticmethod(lambda _=None: PROPERTIES)
    get_compute_capability = staticmethod(lambda _=None: 90)
    is_available = staticmethod(lambda: True)
    is_bf16_supported = staticmethod(lambda including_emulation=False: True)


class Scheduled(Exception):
    """Raised where the compiler would begin to write kernels."""


def graphs(where: Path, batch_size: int, norm: str) -> list[Graph]:
    """Make the graphs, forward and backward, of an engine's step at width 64."""
    found: list[Graph] = []
    compiler = torch.compile

    def keep(graph: Any, inputs: list[Any], **named: Any) -> Callable[[list[Any]], Any]:
        found.append((graph, inputs, named))

        def run(values: list[Any]) -> Any:
            return graph(*values)

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    def backend(graph: Any, inputs: list[Any]) -> Any:
        return compile_fx.compile_fx(graph, inputs, inner_compile=keep)

    def kept(model: nn.Module, mode: str, dynamic: bool) -> nn.Module:
        return compiler(model, backend=backend, fullgraph=True, dynamic=dynamic)

    sizes = [f"data.train_size={batch_size}", f"trainer.batch_size={batch_size}"]
    torch._dynamo.reset()
    with functorch_config.patch(enable_autograd_cache=False):
        train(where, ["model.width=64", *sizes, norm], kept)
    return found


def launches(graph: Graph) -> dict[str, int]:
    """Count what the compiler would launch for a graph on a GPU, by kind."""
    module, inputs, named = graph
    values = [node.meta.get("val") for node in module.graph.nodes]
    mode = next(value.fake_mode for value in values if isinstance(value, FakeTensor))

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        with mode:
            layout = (value.size(), value.stride())
            return torch.empty_strided(*layout, dtype=value.dtype, device="cuda")

    for node in module.graph.nodes:
        node.meta["val"] = tree_map(moved, node.meta.get("val"))
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda", 0)}
    scheduled: list[Any] = []

    def schedule(lowering: GraphLowering) -> None:
        lowering.init_wrapper_code()
        lowering._update_scheduler()
        scheduled.extend(lowering.scheduler.nodes)
        raise Scheduled

    device_interface.get_interface_for_device("cpu")  # fills the table of devices
    with (
        pytest.MonkeyPatch.context() as patch,
        inductor_config.patch(fx_graph_cache=False),
        contextlib.ExitStack() as undo,
    ):
        undo.callback(DeviceProperties.create.cache_clear)
        for place in ("cuda", "cuda:0"):
            patch.setitem(device_interface.device_interfaces, place, Absent)
        patch.setattr(torch.cuda, "get_device_properties", lambda _=None: PROPERTIES)
        patch.setattr(compile_fx, "get_cuda_device_context", lambda _: contextlib.nullcontext())
        patch.setattr("torch._inductor.scheduler.has_triton", lambda: True)
        result = "_conv_determine_backend_memory_format"
        patch.setattr(torch._C, result, lambda *_: torch.channels_last)
        patch.setattr(GraphLowering, "compile_to_module", schedule)
        with pytest.raises(InductorError, match="Scheduled"):
            compile_fx.compile_fx_inner(module, [moved(value) for value in inputs], **named)
    kinds = Counter(map(kind, scheduled))
    return {name: n for name, n in kinds.items() if name != "nothing"}


def kind(node: Any) -> str:
    """The kind of a scheduled launch: a library's, by name, or of a kernel to be written."""
    if isinstance(node, NopKernelSchedulerNode) or isinstance(node.node, MultiOutput):
        return "nothing"  # a part of another's result
    if isinstance(node, ExternKernelSchedulerNode):
        return str(node.node.python_kernel_name).removesuffix(".default").rpartition(".")[2]
    done = {origin.target for part in node.get_nodes() for origin in part.node.get_origins()}
    if node.is_reduction():
        return "reduction"
    return "cast" if done == {CAST} else "copy" if done <= COPIES else "pointwise"


def expected(convolutions: int, written: list[tuple[int, int]]) -> list[dict[str, int]]:
    """Forward and backward launches of a network of so many convolutions. There is no "copy"."""
    of_libraries: list[dict[str, int]] = [
        # Casts: each weight once, the head's bias, the images.
        {"convolution": convolutions, "addmm": 1, "cast": convolutions + 3},
        # Each convolution's is two kernels of cuDNN's. Casts: of the gradients of the weights.
        {"convolution_backward": convolutions, "mm": 2, "cast": convolutions + 1},
    ]
    return [
        {**known, "reduction": reductions, "pointwise": passes}
        for known, (reductions, passes) in zip(of_libraries, written, strict=True)
    ]


# Kernels that the compiler writes for the stem and two blocks, the second with a projection, at 16
# images: reductions, and other passes over activations, forward and backward. One more pass for
# each of six norms would be an addition that counts its batches.
WRITTEN = {
    # Forward: two stages of sums for each norm, and two of the pooling; the rest of a norm, with
    # ReLU and the block's sum, is one pass. Backward: three of sums for each norm.
    "norm=batchnorm": [(14, 5), (18, 7)],
    "norm=groupnorm": [(8, 10), (22, 17)],
    "norm=none": [(2, 5), (1, 5)],
    "norm.detach=mean": [(14, 5), (18, 7)],
    "norm.detach=var": [(14, 5), (18, 7)],
    "norm.detach=both": [(14, 5), (18, 5)],
}
SLOW = [pytest.param(norm, marks=pytest.mark.soak) for norm in NORMS[1:]]


@same_compiler
@pytest.mark.parametrize("norm", [NORMS[0], *SLOW])
def test_launches(norm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResNet18, "BLOCKS", (1, 1))
    assert [launches(graph) for graph in graphs(tmp_path, 16, norm)] == expected(6, WRITTEN[norm])


@same_compiler
@pytest.mark.soak
def test_launches_of_resnet18(tmp_path: Path) -> None:
    """At 128 images, where the first stages' forward sums take three kernels: 111 and 121."""
    found = [launches(graph) for graph in graphs(tmp_path, 128, "norm=batchnorm")]
    assert found == expected(20, [(51, 16), (58, 20)])
    assert [sum(each.values()) for each in found] == [111, 121]


@same_compiler
@pytest.mark.soak
def test_counted_batches_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResNet18, "BLOCKS", (1, 1))
    monkeypatch.setattr(state, "BatchCounts", mock.MagicMock())
    forward, _ = map(launches, graphs(tmp_path, 16, "norm=batchnorm"))
    assert forward["pointwise"] == 5 + 6
