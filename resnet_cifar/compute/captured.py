"""Work on the batches of a view as CUDA graphs: training steps, validation.

A step launches some 350 kernels, and a fast GPU waits for the host that launches them one by one. A
CUDA graph repeats them all at one launch, with what lies in memory then.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, optim

from resnet_cifar.compute.device import Compute
from resnet_cifar.compute.options import Trainer
from resnet_cifar.data.images import View
from resnet_cifar.errors import describe
from resnet_cifar.optim.optimizer_step import OptimizerStep
from resnet_cifar.optim.scheduler import Schedule

Body = Callable[[View, Tensor, Tensor], Any]

WARM_UP = 3  # batches of a shape before its capture: kernels are compiled, chosen, get their memory
FUSED = (optim.SGD, optim.Adam, optim.AdamW)  # keep all they count on the device where fused


def obstacle(trainer: Trainer, compute: Compute, optimizer_step: OptimizerStep) -> str | None:
    """Say why the training step is not captured; "" where nobody expects it; None: it is.

    A number that Python counts would stay what it was at the capture, and nothing would tell.
    """
    if compute.device.type != "cuda" or trainer.capture == "off":
        return ""
    optimizer, groups = optimizer_step.optimizer, optimizer_step.optimizer.param_groups
    if optimizer_step.scaler.is_enabled():
        return "nobody has tried the loss scaler of fp16 in one"
    if type(optimizer_step).step is not OptimizerStep.step:
        return f"{type(optimizer_step).__name__} has a step of its own"
    fused = type(optimizer) in FUSED and all(group["fused"] for group in groups)
    if fused or all(group.get("capturable") for group in groups):
        return None
    return f"{type(optimizer).__name__} may count on the host (its groups lack capturable=True)"


class Captured:
    """Runs `body(view, at, number)` on batches of views: first as it is, then as a CUDA graph.

    The first WARM_UP batches of each size are run by Python and count like any other. The next is
    captured, and Python runs no body after it: what differs from batch to batch has to be in
    tensors that stay where they are. So `view` is a copy, refilled when another view comes, `at`
    (int64 [n]) are the batch's positions in it, and `number` (int64 [1]) is the batch's number.

    It has a stream of its own for capturing: a workspace of cuBLAS belongs to a stream, and two
    objects may be replayed at once, each on its caller's stream. Its graphs share their memory:
    nothing in there is read after a replay but what the body returns, which stays allocated.

    The last batch of a view may be smaller. If a capture fails, a line says so, and Python goes on
    with the same results, as it does for tests on other devices.
    """

    def __init__(
        self, body: Body, batch_size: int, device: torch.device, say: Callable[[str], None]
    ) -> None:
        self._body, self._batch_size, self._say = body, batch_size, say
        self._able = device.type == "cuda"
        self._stream = torch.cuda.Stream() if self._able else None  # type: ignore[no-untyped-call]
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        self._positions = torch.arange(batch_size, device=device)
        self._given: View | None = None
        self._view: Any = None
        self._seen: Counter[int] = Counter()  # batches by size
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Any]] = {}

    def __call__(self, view: View, number: int) -> Any:
        """Run the body on batch `number` of `view`. The next call overwrites what it returns."""
        if view is not self._given:
            self._view = deepcopy(view) if self._given is None else self._view
            for mine, its in zip(self._view.tensors(), view.tensors(), strict=True):
                mine.copy_(its)
            self._given = view
        self._number.fill_(number)
        size = min(self._batch_size, len(view) - number * self._batch_size)
        self._seen[size] += 1
        if self._able and self._seen[size] > WARM_UP and size not in self._graphs:
            self._capture(size)
        if size in self._graphs:
            graph, returned = self._graphs[size]
            graph.replay()
            return returned
        if self._stream is None:
            return self._run(size)
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            returned = self._run(size)
        here.wait_stream(self._stream)
        return returned

    def _run(self, size: int) -> Any:
        at = torch.add(self._positions[:size], self._number, alpha=self._batch_size)
        return self._body(self._view, at, self._number)

    def _capture(self, size: int) -> None:
        graph = torch.cuda.CUDAGraph()
        pool = next((other.pool() for other, _ in self._graphs.values()), None)
        # The stream is entered twice: `graph` does not leave it where the end of a capture raises.
        # thread_local: another thread may be writing a checkpoint.
        capture = torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local")
        try:
            with torch.cuda.stream(self._stream), capture:
                returned = self._run(size)
            self._graphs[size] = graph, returned
        except Exception as error:
            self._able = False
            problem = f"batches of {size} can't be captured in a CUDA graph"
            self._say(f"{problem} and go on without, slower: {describe(error)}")


class CapturedStep(Captured):
    """Makes the updates of epochs of `steps`: an epoch's learning rates are on the device, too."""

    def __init__(
        self, optimizer: optim.Optimizer, schedules: Sequence[Schedule], steps: int, *captured: Any
    ) -> None:
        super().__init__(*captured)
        self._optimizer, self._schedules = optimizer, schedules
        device = self._number.device
        # Fused kernels read float32 on a GPU, on the host a double.
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        self._rates = torch.zeros(steps, len(schedules), dtype=dtype, device=device)
        self._first: int | None = None  # the update of the run whose rate is the first

    def step(self, view: View, step: int, step_of_run: int) -> None:
        """Make update `step` of an epoch."""
        if (first := step_of_run - step) != self._first:
            updates = range(first, first + len(self._rates))
            rates = [[schedule(update) for schedule in self._schedules] for update in updates]
            self._rates.copy_(torch.tensor(rates, dtype=self._rates.dtype), non_blocking=True)
            self._first = first
        self(view, step)

    def _run(self, size: int) -> None:
        groups = self._optimizer.param_groups
        numbers = [{**group} for group in groups]  # which is what checkpoints hold
        rates = self._rates.index_select(0, self._number)[0]
        capturing = rates.is_cuda and torch.cuda.is_current_stream_capturing()
        try:
            for group, rate in zip(groups, rates.unbind(), strict=True):
                group["lr"] = rate
                if capturing and "capturable" in group:  # fused or not, Adam insists on it
                    group["capturable"] = True
            super()._run(size)
        finally:
            for group, before in zip(groups, numbers, strict=True):
                group.update(before)
