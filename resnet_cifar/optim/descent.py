"""What an update does with a loss: backward pass, the optimizer's step, averaged weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim


class Average:
    """A network whose weights are the mean of another's over its updates, later ones the heavier.

    After t updates Σ dᵗ⁻ˢ θₛ / Σ dᵗ⁻ˢ over s = 1 … t: an exponential moving average of decay d
    without the share that the usual recursion gives to the initial weights (as Adam corrects its
    moments), so that short runs can use it. Running statistics are averaged as weights are; what
    only counts is the network's own.

    Args:
        network: whose weights to follow; it is not changed.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        counts = {id(b): b for b in network.buffers() if not b.is_floating_point()}
        self.network = copy.deepcopy(network, counts).requires_grad_(False)
        self._mine, self._its = _weights(self.network), _weights(network)

    def update(self) -> None:
        """Take in the network as it is now. Nothing in it waits for the device."""
        self.updates += 1
        share = (1 - self.decay) / (1 - self.decay**self.updates)
        torch._foreach_lerp_(self._mine, self._its, share)


def _weights(network: nn.Module) -> list[Tensor]:
    """Parameters and running statistics, without gradients."""
    tensors = [*network.parameters(), *network.buffers()]
    return [tensor.detach() for tensor in tensors if tensor.is_floating_point()]


@dataclass
class Descent:
    """The optimizer, and what surrounds its step."""

    optimizer: optim.Optimizer
    average: Average | None = None

    def step(self, loss: Tensor) -> None:
        """One update from a batch's loss []. Nothing in it waits for the device."""
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()

    def dump(self) -> dict[str, Any]:
        """What a run is resumed from."""
        averaging = {"ema_updates": self.average.updates} if self.average is not None else {}
        return {"optimizer": self.optimizer.state_dict(), **averaging, **self.dump_weights()}

    def dump_weights(self) -> dict[str, Any]:
        """What is kept of a finished run: the averaged weights, a state dict of the network."""
        return {} if self.average is None else {"ema": self.average.network.state_dict()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a `dump`, or show what a `dump_weights` holds."""
        if "optimizer" in saved:
            self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None:
            self.average.network.load_state_dict(saved["ema"])
            self.average.updates = saved.get("ema_updates", 0)
