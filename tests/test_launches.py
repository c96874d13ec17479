"""Golden counts of the compiled step's launches, without a GPU.

torch.compile makes graphs of the engine's network on a CPU. Here they are moved to a device that
is not there, lowered and fused for it by the compiler, and what it would launch is counted; no
kernel is written or run. Convolutions are taken for cuDNN's, whose results are channels_last.
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
from test_fake_cuda import NORMS
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
from torch.utils._pytree import tree_map

from resnet_cifar.compute import device
from resnet_cifar.config.compose import compose
from resnet_cifar.model.options import ResNet18
from resnet_cifar.training import run as run_module
from resnet_cifar.training.engine import Engine
from resnet_cifar.training.interrupt import Interrupt
from resnet_cifar.training.live import Display
from resnet_cifar.training.run import assemble
from resnet_cifar.training.state import BatchCounts

COUNTED_WITH = "2.14"
pytestmark = pytest.mark.skipif(
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

    config = compose(
        [
            *TINY,
            "model.width=64",
            f"data.train_size={batch_size}",
            f"trainer.batch_size={batch_size}",
            "trainer.deterministic=false",
            "trainer.precision=bf16",
            "trainer.compile=true",
            norm,
        ]
    )
    torch._dynamo.reset()
    with pytest.MonkeyPatch.context() as patch, Display("quiet") as display:
        patch.setattr(torch, "compile", kept)
        patch.setattr(run_module, "Recorder", mock.MagicMock())
        patch.setattr(device, "matmul_rate", lambda _: 1e12)
        compute = device.resolve(config.trainer)
        of_run = (config.data.load(), display, Interrupt())
        engine: Engine = assemble(config, where / "none", compute, *of_run)
        with functorch_config.patch(enable_autograd_cache=False):
            engine.train_epoch(1)
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


@pytest.mark.parametrize("norm", [NORMS[0], *SLOW])
def test_launches(norm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResNet18, "BLOCKS", (1, 1))
    assert [launches(graph) for graph in graphs(tmp_path, 16, norm)] == expected(6, WRITTEN[norm])


@pytest.mark.soak
def test_launches_of_resnet18(tmp_path: Path) -> None:
    """At 128 images, where the first stages' forward sums take three kernels: 111 and 121."""
    found = [launches(graph) for graph in graphs(tmp_path, 128, "norm=batchnorm")]
    assert found == expected(20, [(51, 16), (58, 20)])
    assert [sum(each.values()) for each in found] == [111, 121]


@pytest.mark.soak
def test_counted_batches_and_copies_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResNet18, "BLOCKS", (1, 1))
    monkeypatch.setattr(BatchCounts, "_take_away", lambda _: None)
    forward, _ = map(launches, graphs(tmp_path, 16, "norm=batchnorm"))
    assert forward["pointwise"] == 5 + 6
