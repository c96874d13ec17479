"""What an update does with a loss: backward pass, clipping, the step, averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.amp.grad_scaler import GradScaler


class Average:
    """A network whose weights are the mean of another's over its updates, later ones the heavier.

    After t updates Σ dᵗ⁻ˢ θₛ / Σ dᵗ⁻ˢ over s = 1 … t: an exponential moving average of decay d
    without the share that the usual recursion gives to the initial weights (as Adam corrects its
    moments), so that short runs can use it. BatchNorm's running statistics are not averaged: those
    of the averaged weights are other ones, and `settle` measures them (Izmailov et al. 2018).

    Args:
        network: whose weights to follow; it is not changed.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._mine = [parameter.detach() for parameter in self.network.parameters()]
        self._its = [parameter.detach() for parameter in network.parameters()]

    def update(self) -> None:
        """Take in the network as it is now. Nothing in it waits for the device."""
        self.updates += 1
        share = (1 - self.decay) / (1 - self.decay**self.updates)
        torch._foreach_lerp_(self._mine, self._its, share)

    @torch.no_grad()
    def settle(self, batches: Iterable[Tensor], autocast: AbstractContextManager[Any]) -> None:
        """Measure the running statistics anew, as the mean over `batches` of training images."""
        norms = [
            m for m in self.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
        ]
        usual = [norm.momentum for norm in norms]
        self.network.train()
        for number, x in enumerate(batches if norms else (), 1):
            for norm in norms:
                norm.momentum = 1 / number
            with autocast:
                self.network(x)
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum


class Descent:
    """The optimizer, and what surrounds its step; whatever is switched off does nothing.

    Args:
        clip_norm: to what norm, of all parameters together, larger gradients are shortened (Pascanu
            et al. 2013); 0: none is.
        average: follows the weights. A step that the scaler leaves out counts as an update, as it
            does for the schedule: whether it was, only the device knows.
        scaler: of the loss, in fp16. Its step reads from the device unless the optimizer is fused.
    """

    def __init__(
        self,
        optimizer: optim.Optimizer,
        clip_norm: float = 0.0,
        average: Average | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        self.optimizer, self.clip_norm, self.average = optimizer, clip_norm, average
        self.scaler = scaler or GradScaler("cpu", enabled=False)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # Of this epoch's updates: the sum of their gradients' norms, how many were clipped, how
        # many there were.
        self._norms = torch.zeros(3, device=self._parameters[0].device)
        if self.scaler.is_enabled():
            _zero_momentum(optimizer)

    def step(self, loss: Tensor) -> None:
        """One update from a batch's loss []. Nothing in it waits for the device."""
        torch.autograd.backward(self.scaler.scale(loss))
        if self.clip_norm:
            self.scaler.unscale_(self.optimizer)
            self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()

    def _clip(self) -> None:
        norm = nn.utils.clip_grad_norm_(self._parameters, self.clip_norm)
        taken = norm.isfinite()  # what the scaler leaves out is no update
        clipped = taken & (norm > self.clip_norm)
        self._norms += torch.stack([norm.where(taken, 0.0), clipped, taken])

    def metrics(self) -> dict[str, float]:
        """Of the epoch so far, where they mean something: `gradient_norm/train`, the mean over its
        updates before clipping; `clipped/train`, the share of updates clipped; `loss_scale/train`,
        as it is now. Waits for the device.
        """
        found = {}
        if self.clip_norm:
            total, clipped, count = self._norms.cpu().tolist()
            found["gradient_norm/train"] = total / max(count, 1)
            found["clipped/train"] = clipped / max(count, 1)
        if self.scaler.is_enabled():
            found["loss_scale/train"] = self.scaler.get_scale()
        return found

    def end_epoch(self) -> None:
        """Begin the next epoch's metrics."""
        self._norms.zero_()

    def dump(self) -> dict[str, Any]:
        """What a run is resumed from."""
        state = {"optimizer": self.optimizer.state_dict(), **self.dump_weights()}
        if self.clip_norm:
            state["gradient_norms"] = self._norms
        if self.average is not None:
            state["ema_updates"] = self.average.updates
        if self.scaler.is_enabled():
            state["scaler"] = self.scaler.state_dict()
        return state

    def dump_weights(self) -> dict[str, Any]:
        """What is kept of a finished run: the averaged weights, a state dict of the network."""
        return {} if self.average is None else {"ema": self.average.network.state_dict()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a `dump`, or show what a `dump_weights` holds."""
        if "optimizer" in saved:
            self.optimizer.load_state_dict(saved["optimizer"])
        if self.clip_norm and "gradient_norms" in saved:
            self._norms.copy_(saved["gradient_norms"])
        if self.average is not None:
            self.average.network.load_state_dict(saved["ema"])
            self.average.updates = saved.get("ema_updates", 0)
        # None where `auto` was another precision before: on another machine.
        if self.scaler.is_enabled() and "scaler" in saved:
            self.scaler.load_state_dict(saved["scaler"])


def _zero_momentum(optimizer: optim.Optimizer) -> None:
    """Momentum buffers before the first step.

    PyTorch's fused SGD allocates them there and takes them for filled at the second, also if the
    scaler had the first left out: what lay in memory is then the momentum (seen with torch 2.14).
    """
    for group in optimizer.param_groups:
        if group.get("momentum"):
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
