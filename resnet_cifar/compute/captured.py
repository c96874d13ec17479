"""Work on the batches of a view, captured in CUDA graphs: training steps, validation's batches.

A step launches some 350 kernels one by one, and a fast GPU waits for the host that does it. A CUDA
graph is launched as one.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor, optim

from resnet_cifar.compute.device import Compute
from resnet_cifar.compute.options import Trainer
from resnet_cifar.data.images import View
from resnet_cifar.errors import describe
from resnet_cifar.optim.optimizer_step import OptimizerStep
from resnet_cifar.optim.scheduler import Schedule

T = TypeVar("T")

WARM_UP = 3  # batches of a shape before its capture: kernels are compiled, chosen, get their memory
CAPTURABLE = (optim.SGD, optim.Adam, optim.AdamW)  # keep nothing on the host where they are fused


def obstacle(trainer: Trainer, compute: Compute, optimizer_step: OptimizerStep) -> str | None:
    """Say why the training step is not captured; "" where nobody expects it; None: it is.

    A graph repeats kernels, no Python: a number that an optimizer counts on the host would stay
    what it was at the capture, and nothing would tell.
    """
    if compute.device.type != "cuda" or trainer.capture == "off" or not compute.cuda_graphs:
        return ""
    if optimizer_step.scaler.is_enabled():
        return "fp16's loss scaler has not been tried in one"
    if type(optimizer_step).step is not OptimizerStep.step:
        return f"{type(optimizer_step).__name__} has a step of its own"
    optimizer = optimizer_step.optimizer
    groups = optimizer.param_groups
    fused = type(optimizer) in CAPTURABLE and all(group["fused"] for group in groups)
    if not fused and not all(group.get("capturable") for group in groups):
        return f"{type(optimizer).__name__} may keep numbers on the host (capturable=False)"
    return None


class Captured(Generic[T]):
    """Runs `body(view, at, number)` on batches of views: first as it is, then as a CUDA graph.

    The first WARM_UP batches of each shape are run by Python and count like any other. The next is
    captured, and Python does not run the body again: what differs from batch to batch has to be in
    tensors that stay where they are. So `view` is a copy, refilled when another view comes; `at`
    (int64 [n]) are the batch's positions in it, and `number` (int64 [1]) is the batch's number.

    Graphs are captured on a stream of their own: the warm-up's memory, cuBLAS' workspace among it,
    is then shared with no other object, and two of them may be replayed at once, each on a stream
    of its caller. All shapes share a memory pool: nothing in it is read after a replay but what the
    body returns, which stays allocated.

    Args:
        batch_size: of each batch of a view but its last one, which may be smaller.
        say: prints a line, if a capture fails; the body then goes on as it is.
    """

    def __init__(
        self,
        body: Callable[[View, Tensor, Tensor], T],
        batch_size: int,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self._body, self._batch_size, self._say = body, batch_size, say
        self._on_cuda = self._capturing = device.type == "cuda"  # elsewhere Python runs every batch
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        self._span = torch.arange(batch_size, device=device)
        self._given: View | None = None
        self._seen: Counter[int] = Counter()  # batches by their size
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, T]] = {}

    def __call__(self, view: View, number: int) -> T:
        """Run the body on batch `number` of `view`. The next call overwrites what it returns."""
        if view is not self._given:
            self._fill(view)
        self._number.fill_(number)
        size = min(self._batch_size, len(view) - number * self._batch_size)
        self._seen[size] += 1
        if self._capturing and self._seen[size] > WARM_UP and size not in self._graphs:
            self._capture(size)
        if size not in self._graphs:
            return self._run(size)
        graph, returned = self._graphs[size]
        graph.replay()
        return returned

    def _fill(self, view: View) -> None:
        if self._given is None:
            self._view = deepcopy(view)
        for mine, its in zip(self._view.tensors(), view.tensors(), strict=True):
            mine.copy_(its)
        self._given = view

    def _call(self, size: int) -> T:
        at = torch.add(self._span[:size], self._number, alpha=self._batch_size)
        return self._body(self._view, at, self._number)

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def _run(self, size: int) -> T:
        if not self._on_cuda:
            return self._call(size)
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            returned = self._call(size)
        here.wait_stream(self._stream)
        return returned

    def _capture(self, size: int) -> None:
        graph = torch.cuda.CUDAGraph()
        pool = next((other.pool() for other, _ in self._graphs.values()), None)
        try:
            # Entered by hand: `graph` leaves its stream behind where the end of a capture raises.
            # thread_local: another thread may meanwhile write a checkpoint.
            with (
                torch.cuda.stream(self._stream),
                torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"),
            ):
                returned = self._call(size)
        except Exception as error:
            self._capturing = False
            problem = f"batches of {size} can't be captured in a CUDA graph"
            self._say(f"{problem} and go on without, slower: {describe(error)}")
        else:
            self._graphs[size] = graph, returned


class CapturedStep:
    """The training step `update(view, at, number)`, captured: rates are on the device, too."""

    def __init__(
        self,
        update: Callable[[View, Tensor, Tensor], None],
        optimizer: optim.Optimizer,
        schedules: Sequence[Schedule],
        steps: int,
        batch_size: int,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self._update, self._optimizer, self._schedules = update, optimizer, schedules
        # float32 is what fused kernels read on a GPU; on the host they read a double.
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        self._rates = torch.zeros(steps, len(schedules), dtype=dtype, device=device)
        self._first: int | None = None  # the update that the rates begin at
        self._batches = Captured(self._body, batch_size, device, say)

    def __call__(self, view: View, step: int, step_of_run: int) -> None:
        """Make update `step` of an epoch."""
        first = step_of_run - step
        if first != self._first:
            updates = range(first, first + len(self._rates))
            rates = [[schedule(update) for schedule in self._schedules] for update in updates]
            rates_here = torch.tensor(rates, dtype=self._rates.dtype)
            self._rates.copy_(rates_here, non_blocking=True)
            self._first = first
        self._batches(view, step)

    def _body(self, view: View, at: Tensor, number: Tensor) -> None:
        rates = self._rates.index_select(0, number)[0].unbind()
        with on_device(self._optimizer, rates):
            self._update(view, at, number)


@contextmanager
def on_device(optimizer: optim.Optimizer, rates: Sequence[Tensor]) -> Iterator[None]:
    """Let `optimizer` read its groups' rates from tensors, inside; checkpoints hold numbers."""
    groups = optimizer.param_groups
    numbers = [{**group} for group in groups]
    capturing = rates[0].is_cuda and torch.cuda.is_current_stream_capturing()
    try:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
            # Adam asks for it, though what is fused counts its steps on the device in any case.
            if capturing and "capturable" in group:
                group["capturable"] = True
        yield
    finally:
        for group, before in zip(groups, numbers, strict=True):
            group.update(before)
